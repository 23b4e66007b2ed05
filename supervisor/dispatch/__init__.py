"""Jobs and streams: which of them is next, on which worker, and what happens when that ends."""
