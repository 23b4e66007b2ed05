"""Pages that the server serves: plain files, with nothing from anywhere else."""

START_PAGE = "voice.html"
"""Page at the root of the public side."""

PAGES = {
    "/voice/voice.css": "voice.css",
    "/voice/voice.js": "voice.js",
    "/voice/words.js": "words.js",
    "/voice/translate.js": "translate.js",
    "/voice/chinese.js": "chinese.js",
    "/voice/chinese-models.js": "chinese-models.js",
    "/voice/microphone.js": "microphone.js",
    "/voice/capture.js": "capture.js",
    "/voice/hearing.js": "hearing.js",
    "/voice/asking.js": "asking.js",
    "/voice/speaking.js": "speaking.js",
    "/voice/markdown.js": "markdown.js",
    "/voice/markdown-it.js": "markdown-it/markdown-it.js.gz",
    "/voice/https": "https.html",
    "/voice/https.css": "https.css",
    "/docs": "docs.html",
    "/docs/docs.css": "docs.css",
    "/docs/docs.js": "docs.js",
    "/docs/swagger-ui.css": "swagger-ui/swagger-ui.css.gz",
    "/docs/swagger-ui.js": "swagger-ui/swagger-ui-bundle.js.gz",
}
"""Path, to file in this directory. Files that end in `.gz` are sent compressed."""

ADMIN_PAGES = {
    "/admin/": "admin.html",
    "/admin/admin.css": "admin.css",
    "/admin/admin.js": "admin.js",
    "/admin/charts.js": "charts.js",
    "/admin/phrases.js": "phrases.js",
    "/admin/translate.js": "translate.js",
    "/admin/chinese.js": "chinese.js",
    "/admin/chinese-admin.js": "chinese-admin.js",
    "/admin/chinese-events.js": "chinese-events.js",
    "/admin/chinese-models.js": "chinese-models.js",
}
"""The same of the admin side."""
