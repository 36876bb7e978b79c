"""Which frames are labelled tonight: budgets, diversity, near-duplicates, quotas."""
