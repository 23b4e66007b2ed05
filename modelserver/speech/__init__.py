"""Speech in a worker: what it is asked, what it answers, and the text that readers get."""
