"""`modelserver ready`: for health checks of containers and scripts."""

import json
import urllib.error
import urllib.request

import click

from modelserver.cli.options import with_settings
from modelserver.settings.configuration import Configuration

_EVERY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "": "127.0.0.1"}  # noqa: S104 - asked, not bound


@click.command()
@click.option("--timeout", "timeout_s", type=float, default=4.0, help="seconds to wait for it")
@with_settings("host", "port")
def ready(configuration: Configuration, timeout_s: float) -> None:
    """Ask the running server whether it can transcribe now (its /readyz).

    Exit status: 0 if it can; otherwise 1, and the reason is printed.
    """
    settings = configuration.settings
    host = _EVERY_ADDRESS.get(settings.host, settings.host)
    url = f"http://{host}:{settings.port}/readyz"
    try:
        # Straight to it: a proxy of the environment is for the world outside.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(url, timeout=timeout_s) as answer:
            document = json.load(answer)
    except urllib.error.HTTPError as error:
        raise click.ClickException(_reason(error)) from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise click.ClickException(f"no server answers at {url}: {reason}") from error
    click.echo(f"ready: {document.get('model')}, {document.get('workers')} workers")


def _reason(error: urllib.error.HTTPError) -> str:
    try:
        return str(json.load(error)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"status {error.code}"
