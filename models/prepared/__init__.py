"""Prepared models: files that an engine has made of a model once, so that it loads faster and takes
less memory.

A prepared model is a directory of links to its original, plus the files that were made. The engine
makes the files (`Maker`); this package finds, checks, lists, exports and removes them.
"""

from models.leftovers import Leftover, remove_leftover
from models.prepared.carry import export_prepared, import_prepared
from models.prepared.leftovers import find_leftovers
from models.prepared.maker import Maker, Needs
from models.prepared.manifest import FileStamp, Manifest
from models.prepared.prepare import prepare
from models.prepared.store import (
    Lookup,
    PreparedModel,
    changed_size,
    find_prepared,
    prepared_models,
    remove,
    verify,
)

__all__ = [
    "FileStamp",
    "Leftover",
    "Lookup",
    "Maker",
    "Manifest",
    "Needs",
    "PreparedModel",
    "changed_size",
    "export_prepared",
    "find_leftovers",
    "find_prepared",
    "import_prepared",
    "prepare",
    "prepared_models",
    "remove",
    "remove_leftover",
    "verify",
]
