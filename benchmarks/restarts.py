"""Restarts without a gap: clients of every kind, and a server that is upgraded again and again.

    python benchmarks/restarts.py [--audio FILE] [--times 50] [--broken 10] [--nginx]

`--nginx`: the clients come through nginx, with the site that is shipped. `--broken`: how many of
the upgrades have a successor that cannot serve, each for another reason; they must fail, and change
nothing.

Prints what became of all requests, and the longest that one of each kind took, beside the same
without any upgrade.
"""

import argparse
import contextlib
import json
import socket
import sys
import tempfile
import time
from pathlib import Path

import psutil
import utterances
from mixed_clients import Account, MixedClients
from parts import free_port, running_nginx, shipped_site
from server import server
from waves import wav

QUIET_S = 30.0

BROKEN = (
    "nonsense = 1",
    'model = "no-such-model"',
    'spool.directory = "/proc/none"',
    "vosk.port = {taken}",
    'wyoming.uri = "tcp://127.0.0.1:{taken}"',
    'admin.agent = "127.0.0.1:{taken}"',
    'auth.keys_file = "{missing}"',
    'jobs.webhook_hosts = ["*"]\njobs.webhook_secret_file = "{missing}"',
    'wyoming.uri = "unix:///no/such/directory/socket"',
    'text.steps = ["no:step"]',
)
"""Settings with which a successor cannot serve."""


def main() -> None:
    """Once quietly, once with upgrades."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=50)
    parser.add_argument("--broken", type=int, default=0)
    parser.add_argument("--audio", type=Path, help="a WAV file, 16 kHz mono")
    parser.add_argument("--nginx", action="store_true")
    arguments = parser.parse_args()
    if arguments.audio is not None:
        audio = arguments.audio.read_bytes()
    else:
        audio = wav(utterances.utterances(None, 24)[0])
    given = {"MODELSERVER_PORT": str(free_port()), "MODELSERVER_STREAMS_SHARE": "1"}
    with contextlib.ExitStack() as stack:
        taken = stack.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1]
        settings = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "settings.toml"
        settings.write_text("")
        given["MODELSERVER_CONFIG"] = str(settings)
        it = stack.enter_context(server("prepared", **given))
        url = it.url
        if arguments.nginx:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            port = stack.enter_context(running_nginx(directory, shipped_site(it.port)))
            url = f"http://127.0.0.1:{port}"
        with MixedClients(url, audio, kept=4, streams=2) as quiet:
            time.sleep(QUIET_S)
        show("without a restart", quiet.account)
        with MixedClients(url, audio, kept=4, streams=2) as clients:
            for number in range(arguments.times):
                due = (number + 1) * arguments.broken // arguments.times
                broken = due > number * arguments.broken // arguments.times
                if broken:
                    line = BROKEN[due % len(BROKEN)].format(taken=taken, missing="/no/such/file")
                    settings.write_text(f"{line}\n")
                began = time.monotonic()
                done = it.upgrade()
                took = time.monotonic() - began
                settings.write_text("")
                assert bool(done.returncode) == broken, done.stdout + done.stderr
                said = (done.stderr if broken else done.stdout).strip()
                print(f"{number + 1} of {arguments.times}: {took:.1f} s {said}", file=sys.stderr)
        show(f"with {arguments.times} upgrades", clients.account)
        psutil.Process(json.loads(it.ask_admin("GET", "/admin/health")[1])["pid"]).terminate()


def show(what: str, account: Account) -> None:
    """Print a table of the account."""
    print(f"{what}: {sum(account.done.values())} answered, {len(account.failed)} failed")
    for kind, count in sorted(account.done.items()):
        print(f"  {kind}: {count}, the longest {account.longest_s[kind]:.2f} s")
    for failed in account.failed[:20]:
        print(f"  {failed}")


if __name__ == "__main__":
    main()
