"""What shows itself, in a notebook or as a picture: a look into a network, and units on one photograph."""
