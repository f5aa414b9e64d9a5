"""Workers under a virtual clock, and the replay of real ones."""
