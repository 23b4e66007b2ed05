"""Audio formats that can be recognised without decoding: containers, headers, channels."""
