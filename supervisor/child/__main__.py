"""`python -m supervisor.child CHANNEL_FD SCOREBOARD_FD`: a fork server, started by the pool."""

import sys

from supervisor.child.forkserver import main

if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2])))
