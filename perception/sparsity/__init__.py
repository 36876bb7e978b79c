"""Learn the number of neurons: coupled channel groups, the proximal step, and removal."""
