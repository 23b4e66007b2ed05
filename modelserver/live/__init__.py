"""Live streams: one session, and the protocols that translate to it (own, Vosk, Wyoming)."""
