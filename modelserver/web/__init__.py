"""Pages that the server serves: plain files, with nothing from anywhere else."""

START_PAGE = "voice.html"
"""Of the public side, at its root."""

PAGES = {
    "/voice/voice.css": "voice.css",
    "/voice/voice.js": "voice.js",
    "/voice/words.js": "words.js",
    "/voice/microphone.js": "microphone.js",
    "/voice/capture.js": "capture.js",
    "/voice/hearing.js": "hearing.js",
    "/voice/asking.js": "asking.js",
    "/voice/https": "https.html",
    "/docs": "docs.html",
    "/docs/docs.css": "docs.css",
    "/docs/docs.js": "docs.js",
}
"""Path, to file in this directory."""

ADMIN_PAGES = {
    "/admin/": "admin.html",
    "/admin/admin.css": "admin.css",
    "/admin/admin.js": "admin.js",
    "/admin/charts.js": "charts.js",
    "/admin/phrases.js": "phrases.js",
}
"""The same of the admin side."""
