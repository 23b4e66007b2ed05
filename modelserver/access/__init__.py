"""Who may use the public side, and how much of it: keys, and what each of them may take."""
