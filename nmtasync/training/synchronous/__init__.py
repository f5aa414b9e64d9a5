"""Ranks that make every update together: the baseline."""
