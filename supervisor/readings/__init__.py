"""What the kernel says: each reading is a frozen value, each function reads and decides nothing."""
