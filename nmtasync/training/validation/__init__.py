"""Snapshots saved and scored, in this process or beside it."""
