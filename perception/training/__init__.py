"""The one training loop, its resume files and its distributed launch."""
