"""Code that runs in the fork server and in its workers, without an event loop."""
