"""Make a trained network cheap to run: low rank, expansion and contraction, export, measured cost."""
