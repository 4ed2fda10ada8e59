"""Coordination of a job of several processes: messages, barriers, and which process reports an error.

Processes are started by ``torchrun``. Beside the collectives of ``distributed``, which move tensors, they leave each
other notes in its store: waiting for a note can be interrupted by a signal, and takes hardly any time of a core. In a
single process all of this does nothing.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from shoal import distributed, heartbeat
from shoal.cores import all_cores, local_world_size, n_nodes, share_cores
from shoal.distributed import is_first, rank, world_size
from shoal.errors import EchoedError, UserError
from shoal.launched import Launched, launched
from shoal.progress import ProgressCallback
from shoal.rendezvous import check_gpus, deadline, find_each_other, missing, wait_until

_board: Any = None
"""The store of ``torchrun``, on which processes leave each other notes: it outlives them. None: the default group's."""

_notes = ""
"""How the notes of this attempt begin: after a restart, those of the last one are still there."""

_n_met = 0
"""How often all processes have met."""

_LONGEST_PAUSE = 0.25
"""Seconds between two looks at the notes, at most."""

_TOLD_SECONDS = 0.5
"""Seconds after which processes tell each other again how far they are."""

RESUME_RUN = "Resume from the last save with 'shoal train --resume' and the run's folder."


@contextmanager
def joined(resume: str = RESUME_RUN) -> Iterator[None]:
    """Join the processes started by ``torchrun``, if any, over gloo on CPUs and NCCL on GPUs; the first alone warns.

    Args:
        resume: a sentence that says how the job is resumed.

    Raises:
        UserError: as the block; another process has died, or has not come.
        EchoedError: the same, and another process says so.
    """
    own = launched()
    if own is None:
        _let_first_warn()
        yield
        return
    try:
        _join(own)
        _let_first_warn()
        yield
        dist.destroy_process_group()
        distributed.disconnect_hosts()
    except EchoedError:
        raise
    except UserError as error:
        _claim(error)
        raise
    except Exception as error:
        if isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error).lower()):
            ended = UserError(
                f"another process of this run has ended; its own message, or that of torchrun, says why. {resume}"
            )
            _claim(ended)
            raise ended from error
        _claim(error)
        raise
    finally:
        _forget()


@contextmanager
def together(command: object, complain: Callable[[str], object]) -> Iterator[None]:
    """``joined`` for a command that is resumed by itself; all processes share the cores.

    Args:
        command: what is done, which must look the same in all processes.
        complain: says that a process on another machine has vanished, before this one ends.

    Raises:
        UserError: as ``joined``; processes are given different commands.
        EchoedError: as ``joined``.
    """
    resume = "Run the same command again to resume, on any number of processes."
    with joined(resume), contextlib.ExitStack() as stack:
        if world_size() > 1:
            share_cores()

        def missed(number: int) -> None:
            if is_first_to_speak():
                who = "the machine of the first process" if number == rank() else f"process {number}"
                complain(f"lost contact with {who}. {resume}")

        if n_nodes() > 1:
            stack.enter_context(heartbeat.heard(_store(), _notes, rank(), world_size(), missed))
        check_agreed(
            f"{version('shoal')} {command!r}",
            lambda: (
                f"{this_process()} has other arguments or another version of shoal than the first one: give all "
                "machines the same."
            ),
        )
        yield


def _let_first_warn() -> None:
    """Say once what all processes see, such as images that cannot be read."""
    if not is_first():
        logging.getLogger("shoal").setLevel(logging.CRITICAL)


def _claim(error: Exception) -> None:
    """Mark an error as the one that is said, if no other process says what is wrong.

    Raises:
        EchoedError: one does.
    """
    first = is_first_to_speak()
    if _has_others():
        with contextlib.suppress(RuntimeError):  # where notes were is gone
            _store().set(f"{_notes}failed", "")
    if not first:
        raise EchoedError(str(error)) from error
    error.claimed = True  # type: ignore[attr-defined]


def is_first_to_speak() -> bool:
    """Whether no other process has said, or is about to say, why the job ends; then this one must."""
    if not _has_others():
        return True
    try:
        return bool(_store().add(f"{_notes}ends", 1) == 1)
    except RuntimeError:  # where the notes were is gone as well
        return True


def is_told() -> bool:
    """Whether a process has said why the job ends."""
    return _has_others() and bool(_store().check([f"{_notes}ends"]))


def has_failed() -> bool:
    """Whether a process has met an error that a user can mend."""
    try:
        return _has_others() and bool(_store().check([f"{_notes}failed"]))
    except RuntimeError:
        return False


def _store() -> Any:
    """Where notes are left."""
    return _board if _board is not None else dist.distributed_c10d._get_default_store()


def _has_others() -> bool:
    """Whether there are others to leave notes for, also while they are still coming."""
    return world_size() > 1 or bool(_notes)


def _join(own: Launched) -> None:
    """Meet the others.

    Raises:
        UserError: they do not come, or share a GPU.
        EchoedError: another process has said why it does not.
    """
    global _board, _notes
    late = deadline(own)
    _board, _notes, store = find_each_other(own, late)
    backend = "gloo"
    if torch.cuda.is_available():
        check_gpus(own, local_world_size())
        torch.cuda.set_device(own.local_rank)
        backend = "cpu:gloo,cuda:nccl"
    # What follows waits without heeding a signal, so everybody is there before it.
    here = f"{_notes}here"
    _board.add(here, 1)

    def all_are() -> bool:
        check_others()
        return bool(_store().add(here, 0) >= own.world_size)

    wait_until(all_are, late, lambda: missing(own, _store().add(here, 0)))
    dist.init_process_group(backend, store=store, rank=own.rank, world_size=own.world_size)
    distributed.connect_hosts()


def _forget() -> None:
    global _board, _notes
    _board, _notes = None, ""


def meet(meanwhile: Callable[[], object] | None = None) -> None:
    """Wait for all processes, which call this as often as each other.

    Unlike a collective, it can be interrupted by a signal, and takes hardly any time of a core.

    Args:
        meanwhile: called now and then while the others are not there yet.

    Raises:
        EchoedError: another process has said why the job ends.
    """
    global _n_met
    if world_size() == 1:
        return
    _n_met += 1
    note = f"{_notes}met {_n_met}"
    _store().add(note, 1)
    _wait(lambda: bool(_store().add(note, 0) >= world_size()), meanwhile)


def of_first(make: Callable[[], str | None]) -> str:
    """The text, if any, that rank 0 makes, alone and once, while the others wait as in ``meet``.

    Raises:
        EchoedError: as ``meet``.
    """
    global _n_met
    if world_size() == 1:
        return make() or ""
    _n_met += 1
    note = f"{_notes}text {_n_met}"
    if is_first():
        with all_cores():
            text = make() or ""
        _store().set(note, text.encode("utf-8", "surrogateescape"))
        return text
    _wait(lambda: bool(_store().check([note])), None)
    found: bytes = _store().get(note)
    return found.decode("utf-8", "surrogateescape")


def check_agreed(text: str, otherwise: Callable[[], str]) -> None:
    """See that this process has the text that the first one has.

    Raises:
        UserError: it has another; ``otherwise`` says what that means.
        EchoedError: as ``meet``.
    """
    if of_first(lambda: text) != text:
        raise UserError(otherwise())


def tensors_of_first(make: Callable[[], Sequence[Tensor]]) -> list[Tensor]:
    """The tensors that rank 0 makes, alone and once, on the host.

    Raises:
        EchoedError: as ``meet``.
    """
    if world_size() == 1:
        return list(make())
    made: list[Tensor] = []

    def shapes() -> str:
        made.extend(make())
        return json.dumps([(str(each.dtype).removeprefix("torch."), list(each.shape)) for each in made])

    told = json.loads(of_first(shapes))
    if not is_first():
        made.extend(torch.empty(shape, dtype=getattr(torch, name)) for name, shape in told)
    return [distributed.host_from_first(each) for each in made]


def _wait(ready: Callable[[], bool], meanwhile: Callable[[], object] | None) -> None:
    pause = 0.002
    while not ready():
        check_others()
        if meanwhile is not None:
            meanwhile()
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)


def check_others() -> None:
    """Stop where another process has said why the job ends.

    Raises:
        EchoedError: it has.
    """
    if is_told():
        raise EchoedError("another process has said why")


@contextmanager
def local_first() -> Iterator[None]:
    """Let one process per machine go first, so that the others find what it has downloaded.

    Raises:
        EchoedError: as ``meet``.
    """
    global _n_met
    if world_size() == 1:
        yield
        return
    _n_met += 1
    note = f"{_notes}local {_n_met} {os.environ.get('GROUP_RANK', '0')}"
    goes_first = os.environ.get("LOCAL_RANK", str(rank())) == "0"
    if not goes_first:
        _wait(lambda: bool(_store().check([note])), None)
    yield
    if goes_first:
        _store().set(note, "")


@contextmanager
def first_first() -> Iterator[None]:
    """Let the first process go first, so that the others find what it has written.

    Raises:
        EchoedError: as ``meet``.
    """
    if not is_first():
        meet()
    yield
    if is_first():
        meet()


class Tally:
    """How far all processes are with a job that they share, which the first one says."""

    def __init__(self, progress: ProgressCallback | None, done: int, total: int) -> None:
        """Of ``total`` items, ``done`` are done before; all processes must call this."""
        global _n_met
        _n_met += 1
        self._name = f"{_notes}tally {_n_met}"
        self._progress, self._before, self._total = progress, done, total
        self._kept = self._own = 0
        self._due = 0.0

    def count(self, done: int) -> None:
        """This process has done this many items since ``keep``.

        Raises:
            EchoedError: another process has said why the job ends.
        """
        self._own = self._kept + done
        if world_size() == 1:
            self._say(self._own)
        elif time.monotonic() > self._due:
            self._due = time.monotonic() + _TOLD_SECONDS
            self.tell()
            check_others()

    def keep(self) -> None:
        """Count from here on."""
        self._kept = self._own

    def tell(self) -> None:
        """Tell the others how far this process is, and the first one says how far all are."""
        if world_size() == 1:
            return
        _store().set(f"{self._name} {rank()}", str(self._own))
        if is_first():
            notes = [f"{self._name} {each}" for each in range(world_size())]
            self._say(sum(int(_store().get(note)) for note in notes if _store().check([note])))

    def finish(self) -> None:
        """Wait for all processes to have done their items.

        Raises:
            EchoedError: another process has said why the job ends.
        """
        self.tell()
        meet(self.tell)
        self.tell()

    def _say(self, done: int) -> None:
        if self._progress is not None:
            self._progress(self._before + done, self._total)


def this_process() -> str:
    """This process in words."""
    return f"process {rank()} on {socket.gethostname()}"
