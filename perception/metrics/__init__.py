"""Measures of quality: confusion matrices, and bounds on how often the network may fail."""
