"""The GPU sheet's ladder: the trainer's step of ProPos, rung by rung, and lightly's BYOL step beside it."""

from __future__ import annotations

import gc
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from unittest import mock

import torch
from torch import Tensor

from gpu_sheet import Figures, Sheet, float32_products, forward_flops, in_a_line, percent
from interleaved import seconds_of
from shoal.config import RunConfig
from shoal.device import Precision
from shoal.models import Backbone, backbone
from shoal.training import Run
from shoal.training.profile import WARM_UP, finished, part_seconds, step_profiler
from step import PASSES, Step, config_of, lightly_step, noise_run, step_of

FAR_OFF = 0.5
"""A rung whose first steps move the weights so much otherwise than the first rung's does not do the same work."""


@dataclass(frozen=True)
class Rung:
    """A way to run the trainer's step."""

    name: str
    precision: Precision
    channels_last: bool = True
    compiled: bool = False
    graphs: bool = False


FIRST = Rung("float32", "float32", channels_last=False)
REFERENCE = Rung("+ channels last", "bfloat16")
"""As shoal trains on a GPU."""
LIGHTLY = "lightly's BYOL"
PHASES = (
    (FIRST, Rung("bfloat16", "bfloat16", channels_last=False), REFERENCE),
    (REFERENCE, Rung("+ compiled", "bfloat16", compiled=True)),
    (REFERENCE, Rung("+ CUDA graphs", "bfloat16", compiled=True, graphs=True)),
)
"""What takes turns. Each phase is told before the next begins, for compilers take their time; the reference comes
again, to compare with."""


class Side:
    """Some steps of a rung at a call. Once one fails, ``failed`` says why and no more are made."""

    def __init__(self, build: Callable[[Side], Step], warm_up: int, each: int) -> None:
        self.failed = ""
        self.run: Run | None = None
        self.moved: Tensor | None = None
        """How the first steps have moved the weights."""
        self._step: Step | None = None
        self._each = each
        start = time.perf_counter()
        self._attempt(lambda: self._begin(build, warm_up))
        self.warm_up_seconds = time.perf_counter() - start

    def __call__(self) -> None:
        """Make the steps of a turn."""
        self._attempt(lambda: self._steps(self._each))

    def once(self) -> None:
        """Make one step."""
        self._attempt(lambda: self._steps(1))

    def _begin(self, build: Callable[[Side], Step], warm_up: int) -> None:
        self._step = build(self)
        before = weights(self.run) if self.run else None
        self._steps(warm_up)
        if self.run and before is not None:
            self.moved = weights(self.run) - before  # waits for the device, where a fault may only show now

    def _steps(self, n: int) -> None:
        assert self._step is not None
        for _ in range(n):
            self._step()

    def _attempt(self, function: Callable[[], object]) -> None:
        if self.failed:
            return
        try:
            function()
        except Exception as error:  # a rung that fails is a figure, too
            self.failed = in_a_line(error)
        if self.failed:  # out here the error no longer holds what was in memory when it came
            self.run = self._step = self.moved = None
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()


def weights(run: Run) -> Tensor:
    """All weights that learn, in one vector, whatever their layout in memory."""
    return torch.cat([each.detach().flatten() for each in run.method.parameters() if each.requires_grad])


def rung_step(rung: Rung, config: RunConfig, sheet: Sheet, folder: Path) -> tuple[Run, Step]:
    """A run of its own, and its step as the rung says."""
    if rung.graphs and sheet.device.type != "cuda":
        raise RuntimeError("CUDA graphs need a GPU")
    batch = config.optim.batch_size
    run = noise_run(replace(config, precision=rung.precision), sheet.sizes.side, folder, 16 * batch)
    if not rung.channels_last:
        run.method.to(memory_format=torch.contiguous_format)
    step = step_of(run)
    if not rung.compiled:
        return run, step
    with mock.patch.object(backbone, "COMPILER", sheet.sizes.compiler):
        for part in run.method.modules():
            if isinstance(part, Backbone):
                part.compile_training("reduce-overhead" if rung.graphs else None)
    return run, graphed(step) if rung.graphs else step


def graphed(step: Step) -> Step:
    """A step whose CUDA graphs overwrite each other's outputs only when the next step begins.

    Each backbone is called twice in a step and both outputs are used; without the mark, a call may count as a new
    iteration, whose graph may take the memory of the last one's outputs. Nothing that a graph has made outlives the
    step but gradients, and those the next step drops first.
    """

    def marked() -> object:
        torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        return step()

    return marked


class Ladder:
    """The rungs on one backbone, and what was found about them so far."""

    def __init__(self, sheet: Sheet, backbone: str, folder: Path) -> None:
        sizes = sheet.sizes
        config = config_of(sizes.batch, backbone, sizes.side)
        self.config = replace(config, method=replace(config.method, hidden=sizes.hidden))  # type: ignore[call-arg]
        self.sheet = sheet
        self.sides: dict[str, Side] = {}
        self._folder = folder
        flops = PASSES * forward_flops(self.config, sizes.side)
        self.found: Figures = {"backbone": backbone, "batch": sizes.batch, "side": sizes.side}
        self.found |= {"flops_per_image": flops, "rungs": {}}
        print(f"{backbone}, {sizes.batch} images of {sizes.side} px a step, {flops / 1e9:.2f} GFLOP an image")

    def climb(self) -> None:
        """Time all rungs, phase after phase."""
        for phase in PHASES:
            names = [rung.name for rung in phase]
            for rung in phase:
                if rung.name not in self.sides:
                    self.sides[rung.name] = self._side(rung)
            if FIRST in phase and find_spec("lightly"):
                self.sides[LIGHTLY] = self._lightly()
                names.append(LIGHTLY)
            self._time(names)
            if FIRST in phase and (reference := self.sides[REFERENCE.name]).run:
                self.found["milliseconds"] = milliseconds(reference, self.sheet)
            self.sheet.keep(self.found)

    def _side(self, rung: Rung) -> Side:
        def build(side: Side) -> Step:
            side.run, step = rung_step(rung, self.config, self.sheet, self._folder / rung.name)
            return step

        from torch._dynamo.utils import counters  # seconds to import, which the other parts need not wait for

        counters.clear()
        side = Side(build, self.sheet.sizes.warm_up, self.sheet.sizes.steps)
        compiled = {"graph_breaks": sum(counters["graph_break"].values())}
        compiled["without_cuda_graph"] = counters["inductor"]["cudagraph_skips"]
        row: Figures = {"precision": rung.precision, "warm_up_seconds": side.warm_up_seconds}
        row |= {"moved_otherwise": self._moved_otherwise(side)} | (compiled if rung.compiled else {})
        self.found["rungs"][rung.name] = row
        return side

    def _lightly(self) -> Side:
        sizes = self.sheet.sizes
        side = Side(lambda _: lightly_step(self.config, sizes.side, self.sheet.device), sizes.warm_up, sizes.steps)
        self.found["rungs"][LIGHTLY] = {"precision": "float32", "warm_up_seconds": side.warm_up_seconds}
        return side

    def _moved_otherwise(self, side: Side) -> float | None:
        """How far the weights are, after the first steps, from where the first rung has them, as a share of the way."""
        first = self.sides.get(FIRST.name)
        if side.moved is None or first is None or first.moved is None:
            return None
        return float((side.moved - first.moved).norm() / first.moved.norm())

    def _time(self, names: list[str]) -> None:
        """Let sides take turns, and tell what came of it."""
        sizes, running = self.sheet.sizes, {name: self.sides[name] for name in names if not self.sides[name].failed}
        seconds = seconds_of(running, sizes.repeats, self.sheet.device)
        rates = {name: sizes.batch * sizes.steps / each for name, each in seconds.items()}
        for name in names:
            row, failed = self.found["rungs"][name], self.sides[name].failed
            if failed:
                row["failed"] = failed
            else:
                peak = "bfloat16" if row["precision"] == "bfloat16" else float32_products(self.sheet, "convolutions")
                share = self.sheet.share(rates[name] * self.found["flops_per_image"], peak)
                row |= {"images_per_second": rates[name], "peak": peak, "share_of_peak": share}
                if not self.sides[REFERENCE.name].failed:
                    row["times_reference"] = rates[name] / rates[REFERENCE.name]
            print(described(name, row), flush=True)


def ladder(sheet: Sheet, backbone: str) -> None:
    """Time the rungs on a backbone."""
    with tempfile.TemporaryDirectory() as folder:
        Ladder(sheet, backbone, Path(folder)).climb()


def described(name: str, row: Figures) -> str:
    """A rung on a line."""
    if "failed" in row:
        return f"    {name:<16} failed: {row['failed']}"
    text = f"    {name:<16}{row['images_per_second']:10.0f} images/s"
    text += f"  {row['times_reference']:5.2f} x {REFERENCE.name.strip('+ ')}" if "times_reference" in row else ""
    text += f"  {percent(row['share_of_peak'])} of {row['peak']}, warm-up {row['warm_up_seconds']:.1f} s"
    if row.get("moved_otherwise"):
        text += f", weights {row['moved_otherwise']:.3f} off"
    remarks = {
        "moves the weights otherwise than the first rung": (row.get("moved_otherwise") or 0) > FAR_OFF,
        f"{row.get('graph_breaks')} breaks in the graph": row.get("graph_breaks"),
        f"{row.get('without_cuda_graph')} parts without a CUDA graph": row.get("without_cuda_graph"),
    }
    return text + "".join(f"; {remark}" for remark, holds in remarks.items() if holds)


def milliseconds(side: Side, sheet: Sheet) -> dict[str, float]:
    """Of each part of a step, on the device."""
    assert side.run is not None
    profiler = step_profiler(sheet.device, sheet.sizes.steps)
    with torch.autograd.set_multithreading_enabled(False), profiler:  # kernels of backward count as its own
        for _ in range(WARM_UP + sheet.sizes.steps):
            side.once()
            finished(sheet.device)
            profiler.step()
    seconds = part_seconds(profiler, sheet.device)
    found = {name: 1000 * each / sheet.sizes.steps for name, each in seconds.items()}
    print("    a step: " + ", ".join(f"{name} {each:.2f} ms" for name, each in found.items()), flush=True)
    return found
