"""Number of machines that a load needs: a queueing formula, and a simulation of the same."""
