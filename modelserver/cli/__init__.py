"""The command line: one file a command, imported when it is given."""

import gc

import click

from modelserver import __version__
from modelserver.cli.plugins import Commands


@click.group(
    cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(__version__, prog_name="modelserver")
def main() -> None:
    """Serve speech recognition on small machines, and manage its models."""
    if not gc.isenabled():  # off until here, where the command's module is imported
        gc.freeze()
        gc.enable()
