"""From batches to a push: the mirror of `server`."""
