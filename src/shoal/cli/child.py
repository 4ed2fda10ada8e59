"""``shoal`` as a process of a sweep: it stops, and saves, as soon as the process that started it is gone."""

from __future__ import annotations

import os
import signal
import sys
import threading

from shoal.cli.main import main


def _stop_with_parent() -> None:
    """Wait for the end of standard input, a pipe that only the parent could write to."""
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    threading.Thread(target=_stop_with_parent, daemon=True).start()
    sys.exit(main())
