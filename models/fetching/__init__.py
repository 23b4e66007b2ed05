"""Fetching a model: download, check, unpack, put in place; all of it, or nothing."""

from models.fetching.install import broken_downloads, pull, pull_file, remove

__all__ = ["broken_downloads", "pull", "pull_file", "remove"]
