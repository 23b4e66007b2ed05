"""Directories of the checkout, and of a model that is outside of it."""

import os
from pathlib import Path

ROOT = Path(__file__).parents[2]
"""Directory of the checkout."""

SUPPORT = Path(__file__).parent
"""Directory of what tests share; `toy` and other models of the tests are imported from here."""

_ONNX = "MODELSERVER_TEST_ONNX"
_OTHER_NAME = "TEST_ONNX"
"""Name under which pytest's other processes find it: a server refuses a setting that it does not
know, so none is started with the first name."""

if _ONNX in os.environ:
    os.environ[_OTHER_NAME] = os.environ.pop(_ONNX)
ONNX_MODEL = os.environ.get(_OTHER_NAME, "")
"""Directory of a real Whisper model for sherpa-onnx ($MODELSERVER_TEST_ONNX); empty: there is
none."""
