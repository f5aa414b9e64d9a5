"""Training: workers, the drivers that run them, validation, checkpoints and reports."""
