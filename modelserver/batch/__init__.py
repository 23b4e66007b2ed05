"""Many files, transcribed on one engine or another: this machine's own pool, or a server."""
