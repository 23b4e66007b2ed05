"""Builds the SIMD library into the cache at DIRECTORY, if it is neither there nor installed:
`python -m models.vosk.simd.build DIRECTORY`. It is a process of its own, since the compiler takes
memory."""

import sys
from pathlib import Path

from models.contract import ModelError
from models.vosk.simd import SIMD

if __name__ == "__main__":
    try:
        SIMD.build(Path(sys.argv[1]))
    except ModelError as error:
        sys.exit(error.message)
    except OSError as error:
        sys.exit(f"the SIMD library cannot be stored in {sys.argv[1]}: {error.strerror}")
