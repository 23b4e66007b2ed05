"""Accuracy of a model: error rates against references, and the significance of differences."""
