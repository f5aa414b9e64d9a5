"""The command line: one module for each command, on top of the library."""
