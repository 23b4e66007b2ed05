"""Readings from the kernel: frozen values, and functions that read and decide nothing."""
