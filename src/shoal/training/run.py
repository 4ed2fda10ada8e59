"""A training run: what it carries from step to step, and how it survives a crash.

Everything needed to go on bit by bit stands in one file, ``state.safetensors``, that is replaced atomically: weights,
optimiser, random number generators, clusterings, the order of the epoch and how far it has come. So a run that is
killed at any moment goes on from the last save as if nothing had happened.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.profiler import record_function

from shoal import distributed
from shoal.config import RunConfig, config_digest
from shoal.data import place_on, steps_of_epoch
from shoal.data.images import digest
from shoal.device import compute_device, first_rng, gathered_rng, own_rng, preserve_rng
from shoal.errors import UserError
from shoal.folder import ResultFolder
from shoal.methods import build
from shoal.models import Backbone, average_statistics, sync_batch_norm
from shoal.report import ReportData
from shoal.tensors import damaged, read_tensors, write_tensors
from shoal.training.checks import check_fits, check_takes, global_batch
from shoal.training.optim import build_optimizer, restore_optimizer
from shoal.types import Clustering, Images

SAVE_SECONDS = 10.0
"""A save is due when the last one is this long ago,"""
SAVE_PATIENCE = 50
"""and this many times as long as it took: saving takes at most 2 % of the time."""


class Interrupted(Exception):  # noqa: N818 - no error: the run was asked to stop, and has saved
    """A run stopped because ``signum`` came."""

    def __init__(self, signum: int) -> None:
        super().__init__(f"stopped by signal {signum}")
        self.signum = signum


class Watcher:
    """Follows a run: a tracker of its metrics, or a profile of its steps."""

    def __enter__(self) -> Watcher:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def step(self, run: Run) -> None:
        """A step is done."""

    def epoch(self, row: Mapping[str, int | float]) -> None:
        """An epoch is done, with its metrics."""

    def result(self, data: ReportData) -> None:
        """The run is done, with what its report shows."""

    def close(self) -> None:
        """Nothing follows."""


class Run:
    """A run at some step. ``epoch`` and ``step`` count what is done; ``order`` is the current epoch's, once drawn."""

    def __init__(self, config: RunConfig, images: Images, folder: ResultFolder) -> None:
        n_clustered = int(images.clustered.sum())
        check_fits(config, n_clustered, len(images))
        self.config = config
        self.folder = folder
        self.device = compute_device()
        self.images = place_on(images, self.device)
        self.images_digest = digest(images)
        self.batch_size = global_batch(config, len(images))
        self.steps_per_epoch = steps_of_epoch(n_clustered, len(images) - n_clustered, self.batch_size)
        self.generator = torch.Generator(self.device).manual_seed(config.seed)
        # Views are drawn on the host, or a GPU would have to be waited for to learn which images get what.
        on_gpu = self.device.type == "cuda"
        self.view_generator = torch.Generator().manual_seed(config.seed) if on_gpu else self.generator
        with preserve_rng(self.device):
            torch.manual_seed(config.seed)
            self.method = build(config.method, config.backbone, config.n_clusters, self.generator)
            if config.sync_batch_norm:
                sync_batch_norm(self.method)
            # A backbone with dropout draws from torch's default generators, so their state is the run's too.
            self.default_rng = first_rng(self.device, config.seed)
        self.method.to(self.device)
        self.forward = distributed.averaging(self.method)
        height, width = images.pixels.shape[2:]
        check_takes(self.method, config, (height, width), self.device)
        self.optimizer = build_optimizer(self.method, config.optim)
        self.clusterings: tuple[Clustering, ...] = ()
        self.features: Tensor | None = None
        self.scores: dict[str, int | float] = {}
        self.epoch = 0
        self.step = 0
        self.order: Tensor | None = None
        self.totals: dict[str, Tensor] = {}
        self.seconds = self.e_step_seconds = 0.0
        self.parts = Parts()
        self.compiled = False
        if config.compile == "on":
            self.compile()
        self.done = False
        self.stop_signal: int | None = None
        self._saved_at = time.monotonic()
        self._save_took = 0.0

    @property
    def steps_done(self) -> int:
        """Steps since the run began."""
        return self.epoch * self.steps_per_epoch + self.step

    @property
    def active_clusterings(self) -> tuple[Clustering, ...]:
        """The clusterings that the losses use in this epoch, one per granularity; none before they begin."""
        if self.epoch < self.config.cluster_from:
            return ()
        by_k = {len(clustering.centers): clustering for clustering in self.clusterings}
        return tuple(by_k[k] for k in self.method.granularities)

    @property
    def n_steps(self) -> int:
        """Steps that the run will have taken at its end."""
        whole = self.steps_per_epoch * self.config.epochs
        return min(whole, self.config.max_steps or whole)

    @property
    def trained(self) -> bool:
        """Whether all epochs, or the steps asked for, are done; ``done`` says that the last E-step is, too."""
        return self.steps_done >= self.n_steps

    def compile(self) -> None:
        """Let the backbones run compiled in training from now on, after a resume as well."""
        for part in self.method.modules():
            if isinstance(part, Backbone):
                part.compile_training()
        self.compiled = True

    def count_step(self, terms: Mapping[str, Tensor], seconds: float) -> None:
        """Add a step's loss terms to the epoch's, on the device: no step waits for the host."""
        for name, term in terms.items():
            self.totals[name] = self.totals.get(name, 0) + term.detach()
        self.step += 1
        self.seconds += seconds

    def stop_if_asked(self) -> None:
        """Raise ``Interrupted`` once a signal has come to this process."""
        if self.stop_signal is not None:
            raise Interrupted(self.stop_signal)

    def _append(self, row: Mapping[str, Any]) -> None:
        if distributed.is_first():
            self.folder.append_metrics(row)

    def stop_or_save(self) -> None:
        """Stop once a signal has come, and save when the last one was long enough ago: on all ranks or on none."""
        waited = time.monotonic() - self._saved_at
        due = distributed.is_first() and waited > max(SAVE_SECONDS, SAVE_PATIENCE * self._save_took)
        signum, any_due = distributed.largest((self.stop_signal or 0, int(due)))
        if signum:
            raise Interrupted(signum)
        if any_due:
            self.save()

    def finish_epoch(self, lr: float) -> dict[str, int | float]:
        """Log the mean loss terms of an epoch with the scores of the E-step before it, and turn to the next."""
        distributed.average(list(self.totals.values()))
        self.check_finite({f"totals.{name}": total for name, total in self.totals.items()})
        terms = {name: float(total) / self.step for name, total in self.totals.items()}
        rate = self.step * self.batch_size / self.seconds
        row = {"epoch": self.epoch, "steps": self.steps_done, "loss": sum(terms.values()), **terms, "lr": lr}
        row |= {"seconds": round(self.seconds, 3), "images_per_second": round(rate, 1)}
        row |= {"e_step_seconds": round(self.e_step_seconds, 3), **self.scores}
        self._append(row)
        self.scores = {}
        self.order, self.totals, self.seconds, self.e_step_seconds = None, {}, 0.0, 0.0
        if self.step == self.steps_per_epoch:
            self.epoch, self.step = self.epoch + 1, 0
        self.stop_or_save()
        return row

    def finish(self) -> dict[str, int | float]:
        """Log the scores of the last E-step and save."""
        row = {"epoch": self.epoch, "steps": self.steps_done, **self.scores}
        self._append(row)
        self.done = True
        self.save()
        return row

    def save(self) -> None:
        """Write ``state.safetensors``: rank 0 does, and all must call this.

        Raises:
            UserError: the loss is no longer finite (a state worth going on from is kept instead), or the disk is full.
        """
        start = time.monotonic()
        average_statistics(self.method)
        tensors = self._tensors() | gathered_rng(self.device)
        self.check_finite(tensors)
        header = {
            "epoch": self.epoch,
            "step": self.step,
            "seconds": self.seconds,
            "e_step_seconds": self.e_step_seconds,
            "scores": self.scores,
            "done": self.done,
            "terms": list(self.totals),
            "images": self.images_digest,
            "config": config_digest(self.config),
            "batch_size": self.batch_size,
            "compiled": self.compiled,
            "metrics_rows": self.folder.n_metrics,
        }
        if distributed.is_first():
            write_tensors(self.folder.state, header, tensors)
        self._saved_at = time.monotonic()
        self._save_took = self._saved_at - start

    def check_finite(self, tensors: Mapping[str, Tensor]) -> None:
        """Raise a UserError when training has diverged: a loss, a weight or a momentum is not finite."""
        watched = ("totals.", "method.", "optimizer.")
        for name, value in tensors.items():
            if name.startswith(watched) and not torch.isfinite(value).all():
                kept = f" {self.folder.state} keeps the last good state." if self.folder.state.exists() else ""
                raise UserError(
                    f"training diverged in epoch {self.epoch}: {name} is not finite. Start again with a lower "
                    f"--optim.lr or more --optim.warmup-epochs.{kept}"
                )

    def _tensors(self) -> dict[str, Tensor]:
        """Every tensor of the state by name."""
        tensors = {f"method.{name}": value for name, value in self.method.state_dict().items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": v for name, v in state.items() if isinstance(v, Tensor)}
        for i, clustering in enumerate(self.clusterings):
            tensors |= {f"clustering.{i}.{name}": value for name, value in vars(clustering).items()}
        tensors |= {f"totals.{name}": value for name, value in self.totals.items()}
        tensors["rng.run"] = self.generator.get_state()
        tensors["rng.views"] = self.view_generator.get_state()
        if self.order is not None:
            tensors["order"] = self.order
        return tensors

    def load(self) -> None:
        """Go back to the last save of the folder; a folder without one is a run at its start.

        Raises:
            UserError: the state is damaged, or was written by a newer version.
        """
        if not self.folder.state.exists():
            self._keep_metrics(0)
            return
        header, tensors = read_tensors(self.folder.state)
        path = self.folder.path
        if header.get("images") != self.images_digest:
            raise UserError(f"the images of {path} have changed since it was saved: bring them back, or train afresh.")
        if header.get("config") != config_digest(self.config):
            raise UserError(
                f"{self.folder.config} has changed since the run began, and a run goes on as it began. For a new run: "
                f"shoal train {self.folder.config} --out ANOTHER"
            )
        self._keep_batch(header.get("batch_size", self.batch_size))
        try:
            self._restore(header, tensors)
        except (KeyError, ValueError, RuntimeError) as error:
            raise damaged(self.folder.state, error) from error

    def _restore(self, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Put everything back where ``_tensors`` and ``save`` took it from."""
        parts: dict[str, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            kind, _, rest = name.partition(".")
            parts.setdefault(kind, {})[rest] = value
        self.method.load_state_dict(parts["method"])
        restore_optimizer(self.optimizer, parts.get("optimizer", {}))
        self.clusterings = _clusterings(parts.get("clustering", {}), self.device)
        totals = parts.get("totals", {})
        # In the order they were counted in, which the file does not keep: another order adds up to another last bit.
        self.totals = {name: totals[name].to(self.device) for name in header.get("terms", totals)}
        self.generator.set_state(parts["rng"]["run"])
        self.view_generator.set_state(parts["rng"]["views"])
        self.default_rng = own_rng(parts["rng"], self.device, self.config.seed)
        self.order = parts["order"][""].to(self.device) if "order" in parts else None
        self.epoch, self.step, self.seconds = header["epoch"], header["step"], header["seconds"]
        self.e_step_seconds = header["e_step_seconds"]
        self.scores, self.done = header["scores"], header["done"]
        if header["compiled"]:
            self.compile()
        self._keep_metrics(header["metrics_rows"])

    def _keep_metrics(self, n: int) -> None:
        if distributed.is_first():
            self.folder.keep_metrics(n)

    def _keep_batch(self, batch_size: int) -> None:
        """Go on with as many images a step as before, though other processes share them now."""
        if batch_size != global_batch(self.config, batch_size):
            raise UserError(
                f"the run in {self.folder.path} takes {batch_size} images a step, which {distributed.world_size()} "
                "processes cannot share equally: go on with another number of them."
            )
        self.batch_size = batch_size
        n_clustered = int(self.images.clustered.sum())
        self.steps_per_epoch = steps_of_epoch(n_clustered, len(self.images) - n_clustered, batch_size)


def _clusterings(tensors: dict[str, Tensor], device: torch.device) -> tuple[Clustering, ...]:
    n = len({name.partition(".")[0] for name in tensors})
    parts = ("labels", "centers", "distances")
    return tuple(Clustering(*(tensors[f"{i}.{part}"].to(device) for part in parts)) for i in range(n))


class Parts:
    """Names the parts of a step, for a trace; it costs a microsecond."""

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """A part from here to the end of the block."""
        with record_function(name):
            yield
