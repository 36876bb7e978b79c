"""Turn what a night produced into one page and one summary."""
