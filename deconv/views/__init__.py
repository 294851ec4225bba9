"""What shows itself, in a notebook or as a picture: a look into a network, units on one photograph, a judgement."""
