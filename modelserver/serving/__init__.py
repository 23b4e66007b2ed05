"""The models that are served: which, how they are loaded and changed, and what a request does."""
