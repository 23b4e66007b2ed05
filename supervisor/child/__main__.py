"""Fork server's entry point: `python -m supervisor.child CHANNEL_FD SUPERVISOR_PID`."""

import sys

from supervisor.child.forkserver import main

if __name__ == "__main__":
    sys.exit(main(*(int(argument) for argument in sys.argv[1:])))
