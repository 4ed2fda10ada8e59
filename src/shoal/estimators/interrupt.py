"""Ctrl-C while an estimator fits."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from shoal.training import Run
from shoal.training.run import Interrupted


@contextmanager
def saved_on_interrupt(run: Run, out: str | Path | None) -> Iterator[None]:
    """Let Ctrl-C stop a run that has a folder after its step, with its state saved, and a second one at once.

    Raises:
        KeyboardInterrupt: it was pressed.
    """
    ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # else the program does something of its own
    if out is None or not ours or threading.current_thread() is not threading.main_thread():
        yield
        return

    def ask(signum: int, frame: FrameType | None) -> None:
        if run.stop_signal is not None:
            signal.default_int_handler(signum, frame)
        run.stop_signal = signum

    signal.signal(signal.SIGINT, ask)
    try:
        yield
    except Interrupted:
        again = f"the same fit, with out={str(out)!r}, resumes"
        raise KeyboardInterrupt(f"stopped and saved: {again}.") from None
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
