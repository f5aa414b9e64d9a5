"""Every option of the toolkit: its default, help, unit, bounds and choices, each held once."""
