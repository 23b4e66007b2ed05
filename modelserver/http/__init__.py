"""The HTTP side: from a request to a transcript, or to one error document."""
