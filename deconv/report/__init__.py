"""The atlas: records of a network's units as a static site, to leaf through."""
