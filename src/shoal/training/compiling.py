"""Whether ``torch.compile`` pays for a run.

After the first epoch it is known how long a run will take. One of hours is worth a minute or two of measurement: passes
of its backbone as it is and translated take turns, and what they took is kept for the next run of the kind. The answer
is part of the run, which goes on with it after a stop, and it is always given before the second epoch.
"""

from __future__ import annotations

import contextlib
import copy
import json
from dataclasses import asdict, dataclass, fields
from statistics import median
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from shoal import distributed
from shoal.data.cache import cache_folder
from shoal.device import autocast, preserve_rng, resolve_precision
from shoal.errors import UserError
from shoal.files import atomic_write
from shoal.models import Backbone
from shoal.progress import Progress
from shoal.training.profile import finished

if TYPE_CHECKING:
    from shoal.training.run import Run

LONG = 3600.0
"""Seconds of steps to come from which the question is asked."""

FEW = 32
"""Images of a pass that is measured on a CPU."""


@dataclass(frozen=True)
class Measured:
    """Seconds of some passes of the backbone, as it is and compiled, and of the first one, which compiles."""

    eager: float
    compiled: float
    compiling: float

    def gain(self, seconds: float) -> float:
        """What is saved of the seconds of steps to come, nearly all of which are such passes; compiling is paid."""
        return seconds * (1 - self.compiled / self.eager) - self.compiling


def settle(run: Run, progress: Progress) -> None:
    """Compile the backbones of a run with an epoch behind it, if that pays for the rest: on all ranks or on none."""
    if run.config.compile != "auto":
        return
    # Batch-norm over processes cannot be measured on one of them.
    together = run.config.sync_batch_norm and distributed.world_size() > 1
    pays = distributed.is_first() and not together and _pays(run, progress)
    if distributed.any_rank(pays):
        run.compile()


def _pays(run: Run, progress: Progress) -> bool:
    steps = run.n_steps - run.steps_done
    seconds = steps * run.folder.read_metrics()[-1]["seconds"] / run.steps_per_epoch
    if seconds < LONG:
        return False
    measured = _kept(run)
    if measured is None:
        try:
            measured = _measure(run)
        except Exception as error:  # whatever a compiler and the many things that it needs may raise
            progress.warn(f"networks are not compiled: {' '.join(str(error).split())[:120]}")
            return False
        _keep(run, measured)
    gain, ratio = measured.gain(seconds), measured.eager / measured.compiled
    verdict = "compiled" if gain > 0 else "not compiled"
    progress.warn(
        f"networks are {verdict}: {ratio:.2f} times as fast when they are, after {measured.compiling:.0f} s; over "
        f"{steps} steps that {'saves' if gain > 0 else 'loses'} {abs(gain) / 60:.0f} min"
    )
    return gain > 0


def _measure(run: Run) -> Measured:
    eager, compiled = _copied(run), _copied(run)
    with preserve_rng(run.device):
        images = torch.rand(_shape(run), device=run.device)
        _passes(eager, images, run)
        start = finished(run.device)
        compiled.compile_training()
        _passes(compiled, images, run)
        compiling = finished(run.device) - start
        pairs = [(_passes(eager, images, run), _passes(compiled, images, run)) for _ in range(4)]
    return Measured(median(pair[0] for pair in pairs[1:]), median(pair[1] for pair in pairs[1:]), compiling)


def _passes(backbone: Backbone, images: Float[Tensor, "b 3 h w"], run: Run) -> float:
    """Seconds of two views' passes with gradient and two without, which is what most methods' steps are made of."""
    start = finished(run.device)
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


def _shape(run: Run) -> tuple[int, ...]:
    """Of the images that go through this process's network at once; a CPU is as fast with a few, and sooner done."""
    n = max(run.batch_size // run.config.optim.accumulate // distributed.world_size(), 2)
    n = n if run.device.type == "cuda" else min(n, FEW)
    return (n, *run.images.pixels.shape[1:])


def _kept(run: Run) -> Measured | None:
    """What an earlier run of the kind has measured."""
    found = _all_kept().get(_kind(run))
    names = {field.name for field in fields(Measured)}
    return Measured(**found) if isinstance(found, dict) and found.keys() == names else None


def _keep(run: Run, measured: Measured) -> None:
    text = json.dumps(_all_kept() | {_kind(run): asdict(measured)}, indent=1)
    with contextlib.suppress(UserError):  # it is measured again another time
        atomic_write(cache_folder() / "compiling.json", text.encode())


def _all_kept() -> dict[str, Any]:
    try:
        found = json.loads((cache_folder() / "compiling.json").read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _kind(run: Run) -> str:
    """All that the times depend on."""
    on_gpu = run.device.type == "cuda"
    device = torch.cuda.get_device_name() if on_gpu else torch.backends.cpu.get_cpu_capability()
    parts = (torch.__version__, device, torch.get_num_threads(), resolve_precision(run.device, run.config.precision))
    return json.dumps([*parts, _shape(run), asdict(run.config.backbone)])
