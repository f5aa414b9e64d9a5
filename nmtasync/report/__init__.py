"""What runs have come to: their figures, a page that shows them, and pictures."""
