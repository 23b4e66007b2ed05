"""Fetching a model: download, check, unpack, put in place; all of it, or nothing."""

from models.fetching.install import pull, pull_file, uninstall

__all__ = ["pull", "pull_file", "uninstall"]
