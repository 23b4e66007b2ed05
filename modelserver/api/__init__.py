"""The public API: its routes, what each of them answers, and its OpenAPI and AsyncAPI documents."""
