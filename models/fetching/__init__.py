"""Fetching a model: download, check, unpack, move into place; all of it, or nothing."""

from models.fetching.install import pull, pull_file, remove
from models.fetching.waiting import broken_downloads

__all__ = ["broken_downloads", "pull", "pull_file", "remove"]
