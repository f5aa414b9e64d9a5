"""Optimisation on one flat vector: layout, Adam, schedules, moving average."""
