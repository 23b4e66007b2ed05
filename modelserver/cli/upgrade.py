"""Command `modelserver upgrade`: replace the running process by a new one, without a gap."""

import contextlib
import http.client
import os
import time
from urllib.parse import urlsplit

import click
import msgspec

from modelserver.admin.address import BadAddress, admin_address
from modelserver.admin.client import NoServer, Refused, fetch, fetch_health
from modelserver.cli.options import with_settings
from modelserver.http.loopback import is_loopback
from modelserver.settings import Settings
from modelserver.settings.configuration import Configuration

_LONGEST_S = 3700.0
_LOOK_S = 0.2
_ANSWER_S = 10.0


class _Answer(msgspec.Struct):
    """Answer of the admin side. `why`: the reason why the new process waits for the old one to
    exit."""

    status: str
    pid: int
    why: str


@click.command()
@with_settings("admin.listen")
def upgrade(configuration: Configuration) -> None:
    """Replace the running server without a gap.

    A new process reads the settings and the program again and takes over the sockets: no client is
    refused. It loads its model beside the old one where both fit, and after it otherwise. Exit
    status: 0 once it answers on the public port.
    """
    settings, began = configuration.settings, time.monotonic()
    try:
        answer = fetch(settings, "/admin/upgrade", _Answer, method="POST", timeout_s=_LONGEST_S)
    except (NoServer, Refused) as error:
        raise click.ClickException(str(error)) from error
    if answer.why:
        click.echo(f"process {answer.pid} waits for the old process to exit: {answer.why}")
    # In a container of its own the process is not seen from here.
    visible = _lives(answer.pid)
    while (problem := _problem(settings, answer.pid)) is not None:
        if visible and not _lives(answer.pid):
            raise click.ClickException(
                f"process {answer.pid} has ended, and the one before too: no server answers. Its "
                "log says why; start the server again"
            )
        if time.monotonic() - began > _LONGEST_S:
            raise click.ClickException(f"process {answer.pid} does not serve: {problem}")
        time.sleep(_LOOK_S)
    click.echo(f"process {answer.pid} serves, after {time.monotonic() - began:.1f} s")


def _problem(settings: Settings, pid: int) -> str | None:
    """Return why that process does not serve yet; None once it answers on the public port."""
    try:
        health = fetch_health(settings)
    except NoServer as error:
        return str(error)
    if health.pid != pid:
        return f"process {health.pid} answers on the admin side"
    if health.status not in ("ok", "degraded"):
        return "; ".join(health.reasons)
    if not health.url:
        return "it does not accept clients yet"
    return _public_problem(settings, health.url)


def _public_problem(settings: Settings, url: str) -> str | None:
    """Return why clients cannot reach the public port; None if they can, or if the server is on
    another machine, from which the port may not be reachable."""
    if not _is_local(settings):
        return None
    where = urlsplit(url)
    connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=_ANSWER_S)
    try:
        connection.request("GET", "/healthz")
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        return f"{url} does not answer: {error}"
    finally:
        connection.close()
    return None if status == http.HTTPStatus.OK else f"{url}/healthz answered {status}"


def _is_local(settings: Settings) -> bool:
    with contextlib.suppress(BadAddress):
        address = admin_address(settings.admin)
        return address is not None and (address.path is not None or is_loopback(address.host))
    return False


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
