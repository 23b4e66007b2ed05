"""The command line: one file a command."""

import click

from modelserver import __version__
from modelserver.cli.completion import completion
from modelserver.cli.config import config
from modelserver.cli.doctor import doctor
from modelserver.cli.keys import keys
from modelserver.cli.listen import listen
from modelserver.cli.manual import manual
from modelserver.cli.models import models
from modelserver.cli.plugins import Commands
from modelserver.cli.ready import ready
from modelserver.cli.serve import serve
from modelserver.cli.status import status
from modelserver.cli.top import top
from modelserver.cli.transcribe import transcribe
from modelserver.cli.upgrade import upgrade


@click.group(
    cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(__version__, prog_name="modelserver")
def main() -> None:
    """Serve speech recognition on small machines, and manage its models."""


main.add_command(serve)
main.add_command(transcribe)
main.add_command(listen)
main.add_command(config)
main.add_command(models)
main.add_command(keys)
main.add_command(status)
main.add_command(upgrade)
main.add_command(top)
main.add_command(ready)
main.add_command(doctor)
main.add_command(completion)
main.add_command(manual)
