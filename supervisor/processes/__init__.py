"""Processes as the supervisor sees them: handles that start, watch and end them."""
