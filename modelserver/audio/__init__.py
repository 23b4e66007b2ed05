"""From the bytes that a client sent to the PCM that a recogniser takes."""
