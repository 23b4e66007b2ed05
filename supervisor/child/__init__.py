"""What runs in the fork server and in its workers; nothing here needs an event loop."""
