"""Procedural street scenes: seeded drives in true perspective with labels, instances and conditions."""
