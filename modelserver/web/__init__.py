"""Pages that the server serves: plain files, with nothing from anywhere else."""

START_PAGE = "voice.html"
"""Of the public side, at its root."""

PAGES = {
    "/voice/voice.css": "voice.css",
    "/voice/voice.js": "voice.js",
    "/voice/words.js": "words.js",
    "/voice/microphone.js": "microphone.js",
    "/docs": "docs.html",
    "/docs/docs.css": "docs.css",
    "/docs/docs.js": "docs.js",
}
"""Path, to file in this directory."""
