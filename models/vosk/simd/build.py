"""`python -m models.vosk.simd.build DIRECTORY`: builds the SIMD library into the cache at
DIRECTORY, if it is not there or installed. A process of its own, as the compiler takes memory."""

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
