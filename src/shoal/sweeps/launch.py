"""The processes of a sweep: a few at once, each with its share of the threads, and on a GPU of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from shoal.progress import Progress, counted, duration
from shoal.sweeps.folder import SweepFolder
from shoal.sweeps.grid import Point

POLL_SECONDS = 0.2
COUNT_SECONDS = 2.0
"""How often the processes, and the epochs that are done, are looked at."""

NO_ANSWER = "it said nothing"


@dataclass(frozen=True)
class Failure:
    """A run that ended with an error."""

    point: Point
    reason: str
    log: Path


@dataclass
class Ended:
    """What came of the runs of a sweep."""

    done: list[Point] = field(default_factory=list)
    failed: list[Failure] = field(default_factory=list)
    signum: int | None = None
    """The signal that stopped the sweep before its end."""


@dataclass(frozen=True)
class _Job:
    point: Point
    process: subprocess.Popen[bytes]
    slot: int
    """Which of the processes at once it is."""
    log_from: int
    """Where in its log it begins."""
    began: float


@dataclass(frozen=True)
class Machine:
    """What the processes share."""

    jobs: int
    """Processes at once."""
    gpus: Sequence[str]
    """Names of GPUs as ``CUDA_VISIBLE_DEVICES`` has them."""
    threads: int
    """Threads of each process."""

    @classmethod
    def of(cls, jobs: int | None) -> Machine:
        """This machine; by default a process per GPU, or one."""
        gpus = _gpus()
        n = jobs or max(1, len(gpus))
        return cls(n, gpus, max(1, torch.get_num_threads() // n))

    def environment(self, slot: int) -> dict[str, str]:
        """Variables of the process in a slot."""
        own = {"OMP_NUM_THREADS": str(self.threads)}
        if self.gpus:
            own["CUDA_VISIBLE_DEVICES"] = self.gpus[slot % len(self.gpus)]
        return {**os.environ, **own}


def _gpus() -> list[str]:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    n = torch.cuda.device_count()
    return [name.strip() for name in visible.split(",")][:n] if visible else [str(i) for i in range(n)]


class Launcher:
    """Trains runs until none is left, or until ``stop_signal`` is set.

    A process that is asked to stop saves its run. Should this process be killed, the others notice that their standard
    input has ended, and save as well; meanwhile they hold the lock of the sweep.

    Args:
        folder: of the sweep, whose recipes are written.
        machine: what the processes share.
        command: words that start ``shoal`` with what is behind them.
        plugins: files that the processes load.
        lock: file descriptor of the sweep's lock.
    """

    def __init__(
        self, folder: SweepFolder, machine: Machine, command: Sequence[str], plugins: Sequence[Path], lock: int
    ) -> None:
        self._folder, self._machine, self._command, self._lock = folder, machine, command, lock
        self._options = [word for file in plugins for word in ("--plugin", str(file))]
        self._running: list[_Job] = []
        self._stopping = False
        self.stop_signal: int | None = None
        """Set by a handler of signals;"""
        self.kill = False
        """set by a second signal: runs end at once, without saving."""

    def run(self, points: Sequence[Point], total: Sequence[Point], progress: Progress) -> Ended:
        """Train ``points``, in their order; ``total`` are all runs of the sweep, for the progress."""
        waiting, ended = list(points), Ended()
        tell = _Teller(self._folder, total, progress)
        try:
            while self._running or (waiting and self.stop_signal is None):
                while waiting and self.stop_signal is None and len(self._running) < self._machine.jobs:
                    self._start(waiting.pop(0), ended, tell)
                self._pass_on_signals(progress)
                self._collect(ended, tell)
                tell.live(ended, len(self._running))
                time.sleep(POLL_SECONDS)
        finally:  # an error of ours: nothing is left running
            for job in self._running:
                job.process.kill()
                job.process.communicate()
        ended.signum = self.stop_signal
        return ended

    def _start(self, point: Point, ended: Ended, tell: _Teller) -> None:
        """Start a run; where the system does not let it, that is a failure of this run alone."""
        try:
            self._running.append(self._started(point))
        except OSError as error:
            reason = f"it cannot be started: {error.strerror or error}"
            ended.failed.append(Failure(point, reason, self._folder.log(point.name)))
            tell.ended(point, f"failed: {reason}")

    def _started(self, point: Point) -> _Job:
        run, log = self._folder.run(point.name), self._folder.log(point.name)
        arguments = ["--resume", str(run.path)]
        if not run.is_run:
            arguments = [str(self._folder.recipe(point.name)), "--out", str(run.path)]
        slot = min(set(range(self._machine.jobs)) - {job.slot for job in self._running})
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as file:
            start = file.tell()
            process = subprocess.Popen(
                [*self._command, "train", *arguments, *self._options],
                stdin=subprocess.PIPE,
                stdout=file,
                stderr=file,
                env=self._machine.environment(slot),
                start_new_session=True,  # a terminal's Ctrl-C comes to this process alone, which passes it on
                pass_fds=(self._lock,) if os.name == "posix" else (),
            )
        return _Job(point, process, slot, start, time.monotonic())

    def _pass_on_signals(self, progress: Progress) -> None:
        if self.kill:
            for job in self._running:
                job.process.kill()
        elif self.stop_signal is not None and not self._stopping:
            self._stopping = True
            n = len(self._running)
            progress.say(f"stopping: {counted(n, 'run saves', 'runs save')} first; a second signal stops at once")
            for job in self._running:
                job.process.terminate()

    def _collect(self, ended: Ended, tell: _Teller) -> None:
        """Take note of the processes that have ended."""
        for job in list(self._running):
            status = job.process.poll()
            if status is None:
                continue
            self._running.remove(job)
            assert job.process.stdin is not None
            job.process.stdin.close()
            if self._folder.run(job.point.name).is_finished and status == 0:
                ended.done.append(job.point)
                tell.ended(job.point, f"done in {duration(time.monotonic() - job.began)}")
            elif self.stop_signal is None:
                failure = self._failure(job, status)
                ended.failed.append(failure)
                tell.ended(job.point, f"failed: {failure.reason}")

    def _failure(self, job: _Job, status: int) -> Failure:
        log = self._folder.log(job.point.name)
        with log.open("rb") as file:
            file.seek(job.log_from)
            lines = [line for line in file.read().decode("utf-8", "replace").splitlines() if line.strip()]
        reason = lines[-1].removeprefix("shoal: ") if lines else NO_ANSWER
        if status == -signal.SIGKILL:
            reason = "it was killed, perhaps for want of memory"
        elif status < 0:
            reason = f"it was ended by signal {-status}"
        return Failure(job.point, reason, log)


class _Teller:
    """Says how far a sweep is."""

    def __init__(self, folder: SweepFolder, points: Sequence[Point], progress: Progress) -> None:
        self._folder, self._progress = folder, progress
        self._done = {point.name: self._folder.run(point.name).is_finished for point in points}
        self._epochs = {point.name: _epochs(point) for point in points}
        self._n = sum(self._done.values())
        self._looked_at = -COUNT_SECONDS

    def ended(self, point: Point, how: str) -> None:
        """A line for a run that has ended."""
        self._done[point.name] = True
        self._n += 1
        self._progress.say(f"[{self._n:>{len(str(len(self._done)))}}/{len(self._done)}] {point.name}: {how}")

    def live(self, ended: Ended, running: int) -> None:
        """How many epochs of all runs are done, from time to time."""
        if time.monotonic() - self._looked_at < COUNT_SECONDS:
            return
        self._looked_at = time.monotonic()
        done = sum(n if self._done[name] else min(n, self._rows(name)) for name, n in self._epochs.items())
        failed = f", {len(ended.failed)} failed" if ended.failed else ""
        rate = f"{self._n}/{len(self._done)} runs, {running} at once{failed}"
        self._progress.update("epochs", done, sum(self._epochs.values()), rate)

    def _rows(self, name: str) -> int:
        try:
            return self._folder.run(name).metrics.read_bytes().count(b"\n")
        except OSError:
            return 0


def _epochs(point: Point) -> int:
    """Epochs that a run will log, at most."""
    return min(point.config.epochs, point.config.max_steps or point.config.epochs)


Handler = Callable[[int, object], None]


def stop_handler(launcher: Launcher) -> Handler:
    """A handler of signals: the first lets all runs save and end, a second ends them at once."""

    def handle(signum: int, _frame: object) -> None:
        launcher.kill = launcher.stop_signal is not None
        launcher.stop_signal = launcher.stop_signal or signum

    return handle
