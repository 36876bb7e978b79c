"""Data versions: registry, difference, curated folders and decisions; the only place that runs DVC."""
