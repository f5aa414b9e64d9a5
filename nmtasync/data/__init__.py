"""From raw parallel text to mini-batches: read, clean, segment, binarise, batch."""
