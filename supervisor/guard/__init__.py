"""The guard: keeps the processes within their memory, and acts before the kernel has to."""
