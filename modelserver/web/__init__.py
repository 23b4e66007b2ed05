"""Pages that the server serves: plain files, with nothing from anywhere else."""

PAGES = {"/docs": "docs.html", "/docs/docs.css": "docs.css", "/docs/docs.js": "docs.js"}
"""Path, to file in this directory."""
