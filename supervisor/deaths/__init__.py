"""Process exits: the cause, the evidence for it, and the memory readings before it."""
