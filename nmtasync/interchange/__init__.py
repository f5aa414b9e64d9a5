"""Models for other programs, and of other programs: their formats, one file each."""
