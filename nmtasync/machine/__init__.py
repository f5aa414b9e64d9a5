"""What the computer has: devices, processes, signals."""
