"""The HTTP layer: connections, listeners, middleware, errors, server-sent events and pages."""
