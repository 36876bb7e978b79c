"""Ensembles, their training penalties and what their disagreement says about a frame."""
