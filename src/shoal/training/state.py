"""A training run: what it carries from step to step, and how it survives a crash.

Everything needed to go on bit by bit stands in one file, ``state.safetensors``, that is replaced atomically: weights,
optimiser, random number generators, clusterings, the order of the epoch and how far it has come. So a run that is
killed at any moment goes on from the last save as if nothing had happened.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from shoal.config import RunConfig
from shoal.data import place_on
from shoal.errors import UserError
from shoal.files import atomic_write
from shoal.methods import build
from shoal.training.folder import RunFolder
from shoal.training.optim import build_optimizer
from shoal.types import Clustering, Images

SAVE_SECONDS = 10.0
"""A save is due when the last one is this long ago,"""
SAVE_PATIENCE = 50
"""and this many times as long as it took: saving takes at most 2 % of the time."""
FORMAT = 1
"""Version of ``state.safetensors``; a newer one is refused."""


class Interrupted(Exception):  # noqa: N818 - no error: the run was asked to stop, and has saved
    """A run stopped because ``signum`` came."""

    def __init__(self, signum: int) -> None:
        super().__init__(f"stopped by signal {signum}")
        self.signum = signum


class Run:
    """A run at some step. ``epoch`` and ``step`` count what is done; ``order`` is the current epoch's, once drawn."""

    def __init__(self, config: RunConfig, images: Images, folder: RunFolder) -> None:
        check_fits(config, images)
        self.config = config
        self.folder = folder
        self.device = compute_device()
        self.images = place_on(images, self.device)
        self._images_digest = digest(images)
        self.generator = torch.Generator(self.device).manual_seed(config.seed)
        with torch.random.fork_rng():
            torch.manual_seed(config.seed)
            self.method = build(config.method, config.backbone, config.n_clusters, self.generator)
            # A backbone with dropout draws from torch's default generator, so its state is the run's too.
            self.default_rng = torch.get_rng_state()
        self.method.to(self.device)
        self.optimizer = build_optimizer(self.method, config.optim)
        self.clusterings: tuple[Clustering, ...] = ()
        self.features: Tensor | None = None
        self.scores: dict[str, int | float] = {}
        self.epoch = 0
        self.step = 0
        self.order: Tensor | None = None
        self.totals: dict[str, Tensor] = {}
        self.seconds = 0.0
        self.done = False
        self.stop_signal: int | None = None
        self._saved_at = time.monotonic()
        self._save_took = 0.0

    @property
    def batch_size(self) -> int:
        """Images per step: the config's, or all of them when there are fewer."""
        return min(self.config.optim.batch_size, len(self.images))

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in an epoch; the rest of a permutation is left for the next one."""
        return len(self.images) // self.batch_size

    @property
    def steps_done(self) -> int:
        """Steps since the run began."""
        return self.epoch * self.steps_per_epoch + self.step

    @property
    def active_clusterings(self) -> tuple[Clustering, ...]:
        """The clusterings that training may use in this epoch: none before they begin, or for a method without any."""
        begun = self.epoch >= self.config.cluster_from
        return self.clusterings if self.method.granularities and begun else ()

    @property
    def trained(self) -> bool:
        """Whether all epochs, or the steps asked for, are done; ``done`` says that the last E-step is, too."""
        limit = self.config.max_steps
        return self.epoch >= self.config.epochs or (limit is not None and self.steps_done >= limit)

    def count_step(self, terms: Mapping[str, Tensor], seconds: float) -> None:
        """Add a step's loss terms to the epoch's, on the device: no step waits for the host."""
        for name, term in terms.items():
            self.totals[name] = self.totals.get(name, 0) + term.detach()
        self.step += 1
        self.seconds += seconds

    def stop_if_asked(self) -> None:
        """Raise ``Interrupted`` once a signal has come."""
        if self.stop_signal is not None:
            raise Interrupted(self.stop_signal)

    def finish_epoch(self, lr: float) -> dict[str, int | float]:
        """Log the mean loss terms of an epoch with the scores of the E-step before it, and turn to the next."""
        self.check_finite()
        terms = {name: float(total) / self.step for name, total in self.totals.items()}
        rate = self.step * self.batch_size / self.seconds
        row = {"epoch": self.epoch, "steps": self.steps_done, "loss": sum(terms.values()), **terms, "lr": lr}
        row |= {"seconds": round(self.seconds, 3), "images_per_second": round(rate, 1), **self.scores}
        self.folder.append_metrics(row)
        self.scores = {}
        self.order, self.totals, self.seconds = None, {}, 0.0
        if self.step == self.steps_per_epoch:
            self.epoch, self.step = self.epoch + 1, 0
        self.save_if_due()
        return row

    def finish(self) -> dict[str, int | float]:
        """Log the scores of the last E-step and save."""
        row = {"epoch": self.epoch, "steps": self.steps_done, **self.scores}
        self.folder.append_metrics(row)
        self.done = True
        self.save()
        return row

    def save_if_due(self) -> None:
        """Save when the last one was long enough ago."""
        if time.monotonic() - self._saved_at > max(SAVE_SECONDS, SAVE_PATIENCE * self._save_took):
            self.save()

    def save(self) -> None:
        """Write ``state.safetensors``.

        Raises:
            UserError: the loss is no longer finite (a state worth going on from is kept instead), or the disk is full.
        """
        self.check_finite()
        start = time.monotonic()
        header = {
            "format": FORMAT,
            "epoch": self.epoch,
            "step": self.step,
            "seconds": self.seconds,
            "scores": self.scores,
            "done": self.done,
            "images": self._images_digest,
            "metrics_rows": self.folder.n_metrics,
        }
        atomic_write(self.folder.state, to_bytes(self._tensors(), {"shoal": json.dumps(header)}))
        self._saved_at = time.monotonic()
        self._save_took = self._saved_at - start

    def check_finite(self) -> None:
        """Raise a UserError when training has diverged."""
        for name, total in self.totals.items():
            if not torch.isfinite(total):
                raise UserError(
                    f"training diverged in epoch {self.epoch}: the loss term {name!r} is {float(total)}. Start again "
                    f"with a lower --optim.lr or more --optim.warmup-epochs; {self.folder.path} keeps the last good state."
                )

    def _tensors(self) -> dict[str, Tensor]:
        """Every tensor of the state by name."""
        tensors = {f"method.{name}": value for name, value in self.method.state_dict().items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": v for name, v in state.items() if isinstance(v, Tensor)}
        for i, clustering in enumerate(self.clusterings):
            tensors |= {f"clustering.{i}.{name}": value for name, value in vars(clustering).items()}
        tensors |= {f"totals.{name}": value for name, value in self.totals.items()}
        tensors |= {"rng.run": self.generator.get_state(), "rng.default": torch.get_rng_state()}
        if self.device.type == "cuda":
            tensors["rng.cuda"] = torch.cuda.get_rng_state(self.device)
        if self.order is not None:
            tensors["order"] = self.order
        # A copy each: safetensors refuses tensors that share memory, and wants them contiguous.
        return {name: value.detach().cpu().clone().contiguous() for name, value in tensors.items()}

    def load(self) -> None:
        """Go back to the last save of the folder; a folder without one is a run at its start.

        Raises:
            UserError: the state is damaged, or was written by a newer version.
        """
        if not self.folder.state.exists():
            self.folder.keep_metrics(0)
            return
        header, tensors = read_state(self.folder)
        if header["images"] != self._images_digest:
            raise UserError(
                f"the images of {self.folder.path} have changed since it was saved: bring them back, or train afresh."
            )
        parts: dict[str, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            kind, _, rest = name.partition(".")
            parts.setdefault(kind, {})[rest] = value
        self.method.load_state_dict(parts["method"])
        self._load_optimizer(parts.get("optimizer", {}))
        self.clusterings = _clusterings(parts.get("clustering", {}), self.device)
        self.totals = {name: value.to(self.device) for name, value in parts.get("totals", {}).items()}
        self.generator.set_state(parts["rng"]["run"])
        self.default_rng = parts["rng"]["default"]
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(parts["rng"]["cuda"], self.device)
        self.order = parts["order"][""].to(self.device) if "order" in parts else None
        self.epoch, self.step, self.seconds = header["epoch"], header["step"], header["seconds"]
        self.scores, self.done = header["scores"], header["done"]
        self.folder.keep_metrics(header["metrics_rows"])

    def _load_optimizer(self, tensors: dict[str, Tensor]) -> None:
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            index, _, key = name.partition(".")
            state.setdefault(int(index), {})[key] = value
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})


def _clusterings(tensors: dict[str, Tensor], device: torch.device) -> tuple[Clustering, ...]:
    n = len({name.partition(".")[0] for name in tensors})
    parts = ("labels", "centers", "distances")
    return tuple(Clustering(*(tensors[f"{i}.{part}"].to(device) for part in parts)) for i in range(n))


def read_state(folder: RunFolder) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Header and tensors of a saved state."""
    try:
        with safe_open(folder.state, "pt") as file:
            header = json.loads(file.metadata()["shoal"])
            if header["format"] > FORMAT:
                raise UserError(
                    f"{folder.path} was written by a newer version of shoal (format {header['format']}, this one "
                    f"reads up to {FORMAT}): upgrade shoal to go on with it."
                )
            return header, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no iterator
    except (SafetensorError, OSError, TypeError, KeyError, json.JSONDecodeError) as error:
        raise UserError(
            f"{folder.state} is damaged ({error}): bring it back from a copy, or train afresh into another --out."
        ) from error


def digest(images: Images) -> str:
    """What tells these images from others: their number, size, names and some of their pixels."""
    shape = tuple(images.pixels.shape)
    sample = images.pixels[:: max(1, len(images) // 256)]
    summary = hashlib.blake2b(repr((shape, list(images.ids))).encode("utf-8", "surrogateescape"), digest_size=16)
    summary.update(sample.cpu().contiguous().numpy().tobytes())
    return summary.hexdigest()


def compute_device() -> torch.device:
    """The GPU when there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def check_fits(config: RunConfig, images: Images) -> None:
    """Raise a UserError when the images cannot be clustered as asked."""
    n = int(images.clustered.sum())
    if config.n_clusters > n:
        raise UserError(f"{config.n_clusters} clusters need at least as many images, and there are {n}: lower k.")
