"""Whether ``torch.compile`` pays for a run.

A run of hours is worth some minutes of measurement: steps of its backbone as it is and translated take turns, and what
they took is kept for the next run of the kind. The answer is part of the run, which goes on with it after a stop; so
the clock of one afternoon does not make two halves of a run differ.
"""

from __future__ import annotations

import contextlib
import copy
import json
from dataclasses import asdict, dataclass
from statistics import median
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from shoal import distributed
from shoal.data.cache import cache_folder
from shoal.errors import UserError
from shoal.files import atomic_write
from shoal.methods import Method
from shoal.methods.embedding import autocast, settled
from shoal.models import Backbone
from shoal.training.log import Log
from shoal.training.profile import finished

if TYPE_CHECKING:
    from shoal.training.state import Run

LONG = 3600.0
"""Seconds of a run's backbone passes from which the question is asked."""

_GLANCE = 16
"""Images of a pass that is only to tell hours from minutes."""


@dataclass(frozen=True)
class Measured:
    """Seconds of the backbone's passes of a step, as it is and compiled, and of the first step that compiles."""

    eager: float
    compiled: float
    compiling: float

    def gain(self, steps: int) -> float:
        """Seconds that so many steps save, less than nothing where compiling takes longer."""
        return steps * (self.eager - self.compiled) - self.compiling


def settle(run: Run, log: Log) -> None:
    """Compile the backbones of a run that begins, if its config says so or it pays: on all ranks or on none."""
    asked = run.config.compile
    if asked == "auto":
        # Batch-norm over processes cannot be measured on one of them.
        together = run.config.sync_batch_norm and distributed.world_size() > 1
        pays = distributed.is_first() and not together and _pays(run, log)
        asked = "on" if distributed.any_rank(pays) else "off"
    if asked == "on":
        compile_backbones(run.method)
        run.compiled = True


def compile_backbones(method: Method) -> None:
    """Let the backbones of a method run compiled in training."""
    for part in method.modules():
        if isinstance(part, Backbone):
            part.compile_training()


def _pays(run: Run, log: Log) -> bool:
    steps = run.steps_per_epoch * run.config.epochs
    steps = min(steps, run.config.max_steps or steps)
    if _glance(run) * steps < LONG:
        return False
    measured = _kept(run)
    if measured is None:
        try:
            measured = _measure(run)
        except Exception as error:  # whatever a compiler and the many things that it needs may raise
            log.note(f"networks are not compiled: {' '.join(str(error).split())[:120]}")
            return False
        _keep(run, measured)
    gain, ratio = measured.gain(steps), measured.eager / measured.compiled
    verdict = "compiled" if gain > 0 else "not compiled"
    log.note(
        f"networks are {verdict}: {ratio:.2f} times as fast when they are, after {measured.compiling:.0f} s; over "
        f"{steps} steps that {'saves' if gain > 0 else 'loses'} {abs(gain) / 60:.0f} min"
    )
    return gain > 0


def _glance(run: Run) -> float:
    """About the seconds of a step's backbone passes, from a few images."""
    backbone, images = _copied(run), _images(run)
    few = images[:_GLANCE]
    _passes(backbone, few, run)
    return _passes(backbone, few, run) * len(images) / len(few)


def _measure(run: Run) -> Measured:
    eager, compiled, images = _copied(run), _copied(run), _images(run)
    compiled.compile_training()
    compiling = _passes(compiled, images, run)
    pairs = [(_passes(eager, images, run), _passes(compiled, images, run)) for _ in range(4)]
    return Measured(median(pair[0] for pair in pairs[1:]), median(pair[1] for pair in pairs[1:]), compiling)


def _passes(backbone: Backbone, images: Float[Tensor, "b 3 h w"], run: Run) -> float:
    """Seconds of two views' passes with gradient and two without, which is what most methods' steps are made of."""
    start = finished(run.device)
    parts = run.config.optim.accumulate
    for _ in range(parts):
        with autocast(run.device, run.config.precision):
            with torch.no_grad():
                backbone(images)
                backbone(images)
            loss = backbone(images).float().sum() + backbone(images).float().sum()
        loss.backward()
    backbone.zero_grad()
    return finished(run.device) - start


def _copied(run: Run) -> Backbone:
    """A backbone to try things on: the run's own stays as it is."""
    found = next(part for part in run.method.modules() if isinstance(part, Backbone))
    return copy.deepcopy(found).requires_grad_().train()


def _images(run: Run) -> Float[Tensor, "b 3 h w"]:
    """As many images as go through this process's network at once."""
    n = max(run.batch_size // run.config.optim.accumulate // distributed.world_size(), 2)
    return torch.rand(n, *run.images.pixels.shape[1:], device=run.device)


def _kept(run: Run) -> Measured | None:
    """What an earlier run of the kind has measured."""
    found = _all_kept().get(_kind(run))
    return Measured(**found) if found else None


def _keep(run: Run, measured: Measured) -> None:
    text = json.dumps(_all_kept() | {_kind(run): asdict(measured)}, indent=1)
    with contextlib.suppress(UserError):  # it is measured again another time
        atomic_write(cache_folder() / "compiling.json", text.encode())


def _all_kept() -> dict[str, dict[str, float]]:
    try:
        found = json.loads((cache_folder() / "compiling.json").read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _kind(run: Run) -> str:
    """All that the times depend on."""
    on_gpu = run.device.type == "cuda"
    device = torch.cuda.get_device_name() if on_gpu else torch.backends.cpu.get_cpu_capability()
    parts = (torch.__version__, device, torch.get_num_threads(), settled(run.device, run.config.precision))
    return json.dumps([*parts, tuple(_images(run).shape), run.config.optim.accumulate, asdict(run.config.backbone)])
