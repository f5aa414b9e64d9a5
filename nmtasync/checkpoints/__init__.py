"""Checkpoints: written whole or not at all, found, read, and continued from."""
