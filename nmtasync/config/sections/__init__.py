"""The sections of the configuration: every option once, a file for each section."""
