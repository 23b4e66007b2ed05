"""The admin endpoint: health, metrics, the operator's page and actions, on its own listener."""
