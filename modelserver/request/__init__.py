"""Reading one request: parameters, body, forms, JSON and content codings, up to its admission."""
