"""How well a model hears: error rates against references, and whether two runs differ."""
