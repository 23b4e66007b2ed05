"""`modelserver upgrade`: a new process in place of the one that runs, without a gap."""

import time

import click
import msgspec

from modelserver.admin.client import NoServer, Refused, fetch, fetch_health
from modelserver.cli.options import with_settings
from modelserver.settings.configuration import Configuration

_LONGEST_S = 3700.0
_LOOK_S = 0.2


class _Answer(msgspec.Struct):
    """Of the admin side. `why`: it waits for the one before to end."""

    status: str
    pid: int
    why: str


@click.command()
@with_settings("admin.listen")
def upgrade(configuration: Configuration) -> None:
    """Start the running server anew, with its settings and its program as they are now.

    The new process takes over the sockets; nobody is refused. It loads its model beside the old
    one where both fit, and after it otherwise. Exit status: 0 once it serves.
    """
    settings, began = configuration.settings, time.monotonic()
    try:
        answer = fetch(settings, "/admin/upgrade", _Answer, method="POST", timeout_s=_LONGEST_S)
    except (NoServer, Refused) as error:
        raise click.ClickException(str(error)) from error
    if answer.why:
        click.echo(f"process {answer.pid} waits until the one before has ended: {answer.why}")
    while True:
        try:
            health = fetch_health(settings)
        except NoServer as error:
            reason = str(error)
        else:
            if health.pid == answer.pid and health.status in ("ok", "degraded"):
                break
            reason = "; ".join(health.reasons)
        if time.monotonic() - began > _LONGEST_S:
            raise click.ClickException(f"process {answer.pid} does not serve: {reason}")
        time.sleep(_LOOK_S)
    click.echo(f"process {answer.pid} serves, after {time.monotonic() - began:.1f} s")
