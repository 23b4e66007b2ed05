"""The garbage collector and the modules of the program, which are never garbage."""

import subprocess
import sys

WATCHED = """
import gc, os, sys

def report(phase, info):
    if phase == "start" and info["generation"] == 2:
        os.write(1, b"%d\\n" % len(gc.get_objects()))

gc.callbacks.append(report)
sys.argv = ["modelserver", "completion", "fish"]
from modelserver.__main__ import main
main()
"""


def test_no_collection_looks_through_the_modules_of_a_command() -> None:
    """Check every full collection of the process, also the one with which Python ends."""
    done = subprocess.run([sys.executable, "-c", WATCHED], capture_output=True, check=True)
    looked_through = [int(line) for line in done.stdout.splitlines() if line.isdigit()]
    assert looked_through
    assert max(looked_through) < 5000, looked_through
