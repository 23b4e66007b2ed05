"""The guard: keeps the processes inside their memory, and steps in before the kernel has to."""
