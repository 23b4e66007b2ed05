"""Authentication and quotas of the public side: keys, and how much each of them may use."""
