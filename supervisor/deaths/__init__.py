"""How a process ended, the evidence for it, and what was known of memory before."""
