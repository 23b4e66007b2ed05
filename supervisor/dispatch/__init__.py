"""Jobs and streams: their order, their workers, and what happens when a worker ends."""
