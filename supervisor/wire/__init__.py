"""Messages over channels between the processes, and a page that each worker shares."""
