"""The command, with a save every half second: tests need not wait for one."""

import sys

from shoal.cli.main import main
from shoal.training import run as state

state.SAVE_SECONDS, state.SAVE_PATIENCE = 0.5, 0

if __name__ == "__main__":
    sys.exit(main())
