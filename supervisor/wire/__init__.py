"""What the processes say to each other: messages over channels, and a board that all can read."""
