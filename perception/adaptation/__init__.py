"""Learn from the simulator: foreground by its shape, background by its texture, then pseudo-labels."""
