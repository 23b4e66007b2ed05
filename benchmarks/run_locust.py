"""Starts a server, loads it with locust for a minute, and prints its table.

    python benchmarks/run_locust.py        # or: make locust

LOCUST_SECONDS (60), LOCUST_USERS (8), LOCUST_FORM (prepared or plain) and what
`locustfile.py` takes. Exit status: locust's, 1 for failed requests or too long a latency.
"""

import os
import subprocess
import sys
from pathlib import Path

from server import server

LATENCY_S = "10"
"""The users keep every worker busy, half of the time with files of 100 s: a short one waits until
such a file is done, or two."""


def main() -> int:
    seconds, users = os.environ.get("LOCUST_SECONDS", "60"), os.environ.get("LOCUST_USERS", "8")
    with server(os.environ.get("LOCUST_FORM", "prepared")) as running:
        command = [
            *(sys.executable, "-m", "locust", "--headless", "--only-summary"),
            *("-f", str(Path(__file__).with_name("locustfile.py"))),
            *("--host", running.url),
            *("--users", users, "--spawn-rate", users, "--run-time", f"{seconds}s"),
            *("--stop-timeout", "30"),
        ]
        environment = {
            "LOCUST_LATENCY_S": LATENCY_S,
            **os.environ,
            "LOCUST_ADMIN": str(running.admin),
        }
        return subprocess.run(command, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
