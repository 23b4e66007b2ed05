"""The admin side: what an operator sees and does, on a listener of its own."""
