"""Search for the best translations under a network."""
