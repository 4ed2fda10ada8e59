"""A training run: what it is made of, how it logs metrics, and how it is saved and resumed.

``state.safetensors`` holds everything needed to continue bit for bit: weights, optimiser, random number generators and
``State``. It is replaced atomically, so a run killed at any moment resumes from its last save: ``reopen`` in
``results/train.py`` builds the run again from its folder and calls ``load``.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from shoal import distributed
from shoal.config import RunConfig
from shoal.data import place_on, steps_of_epoch
from shoal.data.images import digest
from shoal.device import compute_device, first_rng, gathered_rng, in_words, own_rng, preserve_rng
from shoal.errors import UserError
from shoal.folder import ResultFolder
from shoal.methods import build
from shoal.models import Backbone, average_statistics, sync_batch_norm
from shoal.progress import counted
from shoal.report import ReportData
from shoal.tensors import damaged, read_tensors, write_tensors
from shoal.training.digests import config_digest, plugin_digests, warn_of_changed_plugins
from shoal.training.optim import build_optimizer, restore_optimizer
from shoal.training.settings import check_fits, check_takes, compiles, global_batch, recompute, uses_clusters
from shoal.training.state import State
from shoal.types import Clustering, Images

_LOG = logging.getLogger("shoal")

SAVE_SECONDS = 10.0
"""Seconds after which a save is due, at least."""
SAVE_PATIENCE = 50
"""A save is due this many times as long after the last one as that took: saving takes at most 2 % of the time."""


class Interrupted(Exception):  # noqa: N818 - no error: the run was asked to stop, and has saved
    """A run stopped because it received signal ``signum``."""

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
        """Release resources; no further calls are made."""


class Run:
    """A run on some images. Of what it holds, ``method``, ``optimizer``, the generators and ``state`` are saved.

    Raises:
        UserError: the images cannot be clustered or trained on as the config says.
    """

    def __init__(self, config: RunConfig, images: Images, folder: ResultFolder) -> None:
        check_fits(config, int(images.clustered.sum()), len(images))
        self.config = config
        self.state = State()
        self.folder = folder
        self.device = compute_device()
        self.images = place_on(images, self.device)
        self.images_digest = digest(images)
        self._set_batch(global_batch(config, len(images)))
        self.generator = torch.Generator(self.device).manual_seed(config.seed)
        # Views are drawn on the host: to learn which images get what, it would have to wait for a GPU.
        on_gpu = self.device.type == "cuda"
        self.view_generator = torch.Generator().manual_seed(config.seed) if on_gpu else self.generator
        with preserve_rng(self.device):
            torch.manual_seed(config.seed)
            self.method = build(config.method, config.backbone, self.n_clusters, self.generator)
            if config.sync_batch_norm:
                sync_batch_norm(self.method)
            # A backbone with dropout draws from torch's default generators, so their state belongs to the run.
            self.default_rng = first_rng(self.device, config.seed)
        self._open = {i for i, k in enumerate(self.method.granularities) if k == 0}  # wait for the number of clusters
        if config.recompute:
            recompute(self.method)
        self.method.to(self.device)
        # Such as ranges without an end, to which Gemma's layers clip what goes in and out.
        self._infinite = {f"method.{name}" for name, buffer in self.method.named_buffers() if buffer.isinf().any()}
        self.forward = distributed.averaging(self.method)
        height, width = images.pixels.shape[2:]
        check_takes(self.method, config, (height, width), self.device)
        self.optimizer = build_optimizer(self.method, config.optim)
        self.features: Tensor | None = None
        """Features of the last E-step of this process: not saved."""
        self.lengthened = False
        """Whether the number of epochs or steps is another than when the run began."""
        self.stop_signal: int | None = None
        self._save_due = time.monotonic() + SAVE_SECONDS
        self.compiled = False
        self._compile(compiles(config, self.n_steps, self.device))

    def _set_batch(self, batch_size: int) -> None:
        """Images per step, over all processes."""
        self.batch_size = batch_size
        n_clustered = int(self.images.clustered.sum())
        self.steps_per_epoch = steps_of_epoch(n_clustered, len(self.images) - n_clustered, batch_size)

    def _compile(self, compiled: bool) -> None:
        """Let the backbones run compiled in training, or as they are."""
        for part in self.method.modules():
            if isinstance(part, Backbone) and compiled != self.compiled:
                part.compile_training(on=compiled)
        self.compiled = compiled

    def in_words(self) -> dict[str, str]:
        """Folder, device, images and length of the run, for people to read."""
        height, width = self.images.pixels.shape[2:]
        epochs, steps = self.config.epochs, self.n_steps
        each = self.steps_per_epoch
        cut = f", ended after {counted(steps, 'step')}" if steps < epochs * each else ""
        return {
            "run": str(self.folder.path),
            "device": in_words(self.device, self.config.precision),
            "images": f"{len(self.images)} of {height} × {width} px",
            "length": f"{counted(epochs, 'epoch')}, each {counted(each, 'step')} of {self.batch_size} images{cut}",
        }

    @property
    def clusterings(self) -> tuple[Clustering, ...]:
        """Those of the last E-step; the first is the one the user asked for."""
        return self.state.clusterings

    @property
    def n_clusters(self) -> int:
        """Number of clusters that are asked for, or were found last; 0 where they are looked for and not yet found."""
        return self.state.n_clusters if self.config.n_clusters == "auto" else self.config.n_clusters

    def take_n_clusters(self, found: int) -> None:
        """From now on look for this many clusters, in the losses as well."""
        given = self.method.granularities
        self.method.granularities = tuple(found if i in self._open else k for i, k in enumerate(given))
        self.state.n_clusters = found

    @property
    def n_clusters_is_open(self) -> bool:
        """Whether the number of clusters is looked for, and no loss has used the one that was found."""
        if self.config.n_clusters != "auto":
            return False
        return not (self.state.n_clusters and self._open and self.uses_clusters(self.state.epoch - 1))

    @property
    def scores(self) -> dict[str, int | float]:
        """Scores of the last E-step."""
        return self.state.scores

    @property
    def scores_before(self) -> dict[str, Any] | None:
        """Metrics of the epoch after the last E-step that was logged; None before the first."""
        return next((row for row in reversed(self.folder.read_metrics()) if "feature_std" in row), None)

    @property
    def done(self) -> bool:
        """Whether the run is trained and its last E-step done."""
        return self.state.done

    @property
    def trained(self) -> bool:
        """Whether all epochs, or the steps asked for, are done."""
        return self.steps_done >= self.n_steps

    @property
    def steps_done(self) -> int:
        """Steps since the run began."""
        return self.state.epoch * self.steps_per_epoch + self.state.step

    @property
    def n_steps(self) -> int:
        """Steps of the whole run."""
        whole = self.steps_per_epoch * self.config.epochs
        return min(whole, self.config.max_steps or whole)

    @property
    def has_clusterings(self) -> bool:
        """Whether there is a clustering of each granularity that the losses use."""
        return {len(clustering.centers) for clustering in self.clusterings}.issuperset(self.method.granularities)

    @property
    def active_clusterings(self) -> tuple[Clustering, ...]:
        """The clusterings that the losses use in this epoch, one per granularity; none before they begin."""
        if not self.uses_clusters(self.state.epoch):
            return ()
        by_k = {len(clustering.centers): clustering for clustering in self.state.clusterings}
        return tuple(by_k[k] for k in self.method.granularities)

    def uses_clusters(self, epoch: int) -> bool:
        """Whether the losses use clusters in this epoch."""
        return uses_clusters(self.config, epoch)

    def count_step(self, terms: Mapping[str, Tensor], seconds: float) -> None:
        """Add a step's loss terms to the epoch's, on the device: no step waits for the host."""
        state = self.state
        for name, term in terms.items():
            state.totals[name] = state.totals.get(name, 0) + term.detach()
        state.step += 1
        state.seconds += seconds

    def finish_epoch(self, lr: float) -> dict[str, int | float]:
        """Log the mean loss terms of the epoch with the scores of the E-step before it, and begin the next one."""
        state = self.state
        distributed.average(list(state.totals.values()))
        self._check_finite(state.tensors())
        n_steps = state.step - state.logged
        terms = {name: float(total) / n_steps for name, total in state.totals.items()}
        rate = n_steps * self.batch_size / state.seconds
        row = {"epoch": state.epoch, "steps": self.steps_done, "loss": sum(terms.values()), **terms, "lr": lr}
        row |= {"seconds": round(state.seconds, 3), "images_per_second": round(rate, 1)}
        row |= {"e_step_seconds": round(state.e_step_seconds, 3), **state.scores}
        self._append(row)
        state.scores = {}
        state.order, state.partners, state.totals = None, None, {}
        state.seconds, state.e_step_seconds = 0.0, 0.0
        state.logged = state.step
        if state.step == self.steps_per_epoch:
            state.epoch, state.step, state.logged = state.epoch + 1, 0, 0
        self.stop_or_save()
        return row

    def finish(self) -> dict[str, int | float]:
        """Log the scores of the last E-step and save."""
        row = {"epoch": self.state.epoch, "steps": self.steps_done, **self.state.scores}
        self._append(row)
        self.state.done = True
        self.save()
        return row

    def _append(self, row: Mapping[str, Any]) -> None:
        if distributed.is_first():
            self.folder.append_metrics(row)

    def stop_if_asked(self) -> None:
        """Raise ``Interrupted`` if this process has received a signal."""
        if self.stop_signal is not None:
            raise Interrupted(self.stop_signal)

    def stop_or_save(self) -> None:
        """Stop if any rank has received a signal, and save if a save is due; all ranks do the same."""
        due = distributed.is_first() and time.monotonic() > self._save_due
        signum, any_due = distributed.largest((self.stop_signal or 0, int(due)))
        if signum:
            raise Interrupted(signum)
        if any_due:
            self.save()

    def save(self) -> None:
        """Write ``state.safetensors``: rank 0 does, and all ranks must call this.

        Raises:
            UserError: the loss is no longer finite (the last good state is kept), or the disk is full.
        """
        start = time.monotonic()
        average_statistics(self.method)
        tensors = {f"method.{name}": value for name, value in self.method.state_dict().items()}
        for index, values in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": v for name, v in values.items() if isinstance(v, Tensor)}
        tensors |= self.state.tensors()
        tensors |= {"rng.run": self.generator.get_state(), "rng.views": self.view_generator.get_state()}
        tensors |= gathered_rng(self.device)
        self._check_finite(tensors)
        header = self.state.header() | {
            "images": self.images_digest,
            "config": config_digest(self.config),
            "batch_size": self.batch_size,
            "compiled": self.compiled,
            "metrics_rows": self.folder.n_metrics,
            "plugins": plugin_digests(self.config),
            "length": {"epochs": self.config.epochs, "max_steps": self.config.max_steps},
            "lengthened": self.lengthened,
        }
        if distributed.is_first():
            write_tensors(self.folder.state, header, tensors)
        now = time.monotonic()
        self._save_due = now + max(SAVE_SECONDS, SAVE_PATIENCE * (now - start))

    def load(self) -> None:
        """Return to the last save in the folder, or to the start where there is none.

        Raises:
            UserError: the state is damaged or was written by a newer version, or images, config or number of
                processes do not fit it.
        """
        if not self.folder.state.exists():
            self._keep_metrics(0)
            return
        header, tensors = read_tensors(self.folder.state)
        path = self.folder.path
        if header.get("images") != self.images_digest:
            raise UserError(f"the images of {path} have changed since it was saved: restore them, or train a new run.")
        known = replace(self.config, **header["length"]) if header.get("lengthened") else self.config
        if header.get("config") == config_digest(known):
            self.config = known  # a kill may have come before the config was written
        else:
            raise UserError(
                f"{self.folder.config} has changed since the run began, and a run resumes with the settings it began "
                f"with. For a new run: shoal train {self.folder.config} --out ANOTHER"
            )
        warn_of_changed_plugins(self.config, header.get("plugins", {}), path)
        batch_size = header.get("batch_size", self.batch_size)
        if batch_size != global_batch(self.config, batch_size):
            raise UserError(
                f"the run in {path} takes {batch_size} images a step, which {distributed.world_size()} processes "
                "cannot share equally: resume with another number of processes."
            )
        self.lengthened = header.get("lengthened", False)
        self._set_batch(batch_size)  # also where other processes share it now
        try:
            self._restore(header, tensors)
        except UserError:  # of another file, such as the metrics
            raise
        except (KeyError, ValueError, RuntimeError) as error:
            raise damaged(self.folder.state, error) from error

    def _restore(self, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Put everything back where ``save`` took it from."""

        def part(name: str) -> dict[str, Tensor]:
            return {key.removeprefix(name): value for key, value in tensors.items() if key.startswith(name)}

        self.method.load_state_dict(part("method."))
        restore_optimizer(self.optimizer, part("optimizer."))
        rng = part("rng.")
        self.generator.set_state(rng["run"])
        self.view_generator.set_state(rng["views"])
        self.default_rng = own_rng(rng, self.device, self.config.seed)
        restored = State.restore(header, tensors, self.device)
        if restored.n_clusters:
            self.take_n_clusters(restored.n_clusters)
        self.state = restored
        self._compile(header["compiled"])
        self._keep_metrics(header["metrics_rows"])

    def _keep_metrics(self, n: int) -> None:
        if distributed.is_first():
            self.folder.keep_metrics(n)

    def _check_finite(self, tensors: Mapping[str, Tensor]) -> None:
        """Raise a UserError when training has diverged: a loss, a weight or a momentum is not finite."""
        watched = ("totals.", "method.", "optimizer.")
        for name, value in tensors.items():
            wrong = value.isnan() if name in self._infinite else ~value.isfinite()
            if name.startswith(watched) and wrong.any():
                raise self.diverged(f"{name} is")

    def diverged(self, what: str) -> UserError:
        """The error for a run of which something is not finite."""
        kept = f" {self.folder.state} keeps the last good state." if self.folder.state.exists() else ""
        return UserError(
            f"training diverged in epoch {self.state.epoch}: {what} not finite. Start again with a lower "
            f"--optim.lr or more --optim.warmup-epochs, and another --out.{kept}"
        )
