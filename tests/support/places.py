"""Directories of the checkout."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
"""The checkout."""

SUPPORT = Path(__file__).parent
"""What tests share; `toy` and other models of the tests are imported from here."""
