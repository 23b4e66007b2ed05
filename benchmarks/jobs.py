"""Jobs under a server that is killed: every one done once.

    python benchmarks/jobs.py [--jobs N] [--seconds S] [--every S]

The supervisor gets SIGKILL every few seconds, and with it all its workers go; it is started again
at once, as a service manager does. A webhook hears of the end of each job.
"""

import argparse
import http.server
import json
import random
import signal
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import utterances
from long_recordings import recording
from parts import RunningServer, until
from server import server
from tables import table
from waves import wav


class Heard(http.server.ThreadingHTTPServer):
    """Counts what the webhook is told: by job, the attempts that came."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.attempts: dict[str, list[int]] = {}
        self.states: Counter[str] = Counter()
        self.lock = threading.Lock()
        threading.Thread(target=self.serve_forever, daemon=True).start()


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert isinstance(self.server, Heard)
        with self.server.lock:
            job = message["data"]["id"]
            self.server.attempts.setdefault(job, []).append(message["attempt"])
            if message["attempt"] == 1:
                self.server.states[message["data"]["state"]] += 1
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def send(running: RunningServer, body: bytes, number: int, hook: str) -> str | None:
    """The id, or None where the server was not there: the same is sent again."""
    try:
        answer = running.ask(
            f"/v1/jobs?webhook={hook}", body, Idempotency_Key=f"job-{number}", timeout_s=20
        )
    except OSError:
        return None
    return str(answer.json["id"]) if answer.status == 202 else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--every", type=float, default=20.0)
    options = parser.parse_args()
    spoken = utterances.utterances(None, 80)
    bodies = [wav(recording(spoken, options.seconds, seed)) for seed in range(20)]
    with tempfile.TemporaryDirectory() as kept, Heard() as heard:
        secret = Path(kept, "secret")
        secret.write_text("a secret of this benchmark alone\n")
        hook = f"http://127.0.0.1:{heard.server_port}/"
        settings = {
            "MODELSERVER_JOBS_DIRECTORY": f"{kept}/jobs",
            "MODELSERVER_JOBS_WEBHOOK_HOSTS": "127.0.0.1",
            "MODELSERVER_JOBS_WEBHOOK_SECRET_FILE": str(secret),
            "MODELSERVER_DEBUG_WARMUP": "none",
        }
        ids: dict[int, str] = {}
        kills = 0
        chance = random.Random(1)
        started = time.monotonic()
        while len(heard.attempts) < options.jobs:
            with server("prepared", **settings) as running:
                until(lambda at=running: at.ask("/v1/jobs").status == 200, 60.0, "jobs")
                ends = time.monotonic() + options.every * chance.uniform(0.7, 1.3)
                while time.monotonic() < ends and len(heard.attempts) < options.jobs:
                    missing = [n for n in range(options.jobs) if n not in ids][:20]
                    for number in missing:
                        job = send(running, bodies[number % len(bodies)], number, hook)
                        if job is not None:
                            ids[number] = job
                    if not missing:
                        time.sleep(0.1)
                if len(heard.attempts) < options.jobs:
                    running.process.send_signal(signal.SIGKILL)
                    running.process.wait()
                    kills += 1
                print(f"{len(ids)} sent, {len(heard.attempts)} done, {kills} kills", flush=True)
        took = time.monotonic() - started
        repeated = sum(len(attempts) > 1 for attempts in heard.attempts.values())
        unsaid = sum(len(set(a)) < len(a) for a in heard.attempts.values())
    assert set(ids.values()) == set(heard.attempts), "a job was lost, or made twice"
    print(
        table(
            ["", "measured"],
            [
                ["jobs", str(len(ids))],
                ["seconds of audio each", f"{options.seconds:g}"],
                ["kills", str(kills)],
                ["done", str(heard.states["done"])],
                ["failed", str(heard.states["failed"])],
                ["told twice, the second time saying so", str(repeated)],
                ["told twice without saying so", str(unsaid)],
                ["minutes", f"{took / 60:.1f}"],
            ],
        )
    )


if __name__ == "__main__":
    main()
