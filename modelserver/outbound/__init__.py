"""Calls to other servers: allowed hosts, a guarded client, and reasons why one was not reached."""
