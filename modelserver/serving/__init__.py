"""Served models: choosing, loading and changing them, admission, drain, long recordings."""
