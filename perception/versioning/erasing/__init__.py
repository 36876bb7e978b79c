"""Erasure: a plan, its execution that any kill may interrupt, the search for what is left, and the certificate."""
