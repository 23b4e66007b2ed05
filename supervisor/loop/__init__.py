"""Clock, tasks and change notifications on the event loop, for every part of the supervisor."""
