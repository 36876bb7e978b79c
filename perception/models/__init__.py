"""Networks, and their files."""
