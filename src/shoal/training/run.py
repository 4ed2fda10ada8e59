"""A training run: what it is made of, how it logs metrics, and how it is saved and resumed.

``state.safetensors`` holds everything needed to continue bit for bit: weights, optimiser, random number generators and
``State``. It is replaced atomically, so a run killed at any moment resumes from its last save: ``reopen`` in
``results/train.py`` builds the run again from its folder and calls ``load``.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from shoal import distributed
from shoal.config import RunConfig, config_digest
from shoal.data import place_on, steps_of_epoch
from shoal.data.images import digest
from shoal.device import compute_device, first_rng, gathered_rng, own_rng, preserve_rng
from shoal.errors import UserError
from shoal.folder import ResultFolder
from shoal.methods import Method, build
from shoal.models import Backbone, average_statistics, compiler_error, evaluating, sync_batch_norm
from shoal.models.backbone import short
from shoal.report import ReportData
from shoal.tensors import damaged, read_tensors, write_tensors
from shoal.training.optim import build_optimizer, restore_optimizer
from shoal.training.state import State
from shoal.types import Clustering, Images

SAVE_SECONDS = 10.0
"""A save is due this long after the last one,"""
SAVE_PATIENCE = 50
"""or this many times as long as the last one took: saving takes at most 2 % of the time."""

LONG_STEPS = 20_000
"""Steps from which ``compile: auto`` compiles on a GPU: compiling takes a minute or two and saves up to a third of each
step."""


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
            self.method = build(config.method, config.backbone, config.n_clusters, self.generator)
            if config.sync_batch_norm:
                sync_batch_norm(self.method)
            # A backbone with dropout draws from torch's default generators, so their state belongs to the run.
            self.default_rng = first_rng(self.device, config.seed)
        self.method.to(self.device)
        # Such as ranges without an end, to which Gemma's layers clip what goes in and out.
        self._infinite = {f"method.{name}" for name, buffer in self.method.named_buffers() if buffer.isinf().any()}
        self.forward = distributed.averaging(self.method)
        height, width = images.pixels.shape[2:]
        check_takes(self.method, config, (height, width), self.device)
        self.optimizer = build_optimizer(self.method, config.optim)
        self.state = State()
        self.features: Tensor | None = None
        """Features of the last E-step of this process: not saved."""
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

    @property
    def clusterings(self) -> tuple[Clustering, ...]:
        """Those of the last E-step; the first is the one the user asked for."""
        return self.state.clusterings

    @property
    def scores(self) -> dict[str, int | float]:
        """Scores of the last E-step."""
        return self.state.scores

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
    def active_clusterings(self) -> tuple[Clustering, ...]:
        """The clusterings that the losses use in this epoch, one per granularity; none before they begin."""
        if not self.uses_clusters(self.state.epoch):
            return ()
        by_k = {len(clustering.centers): clustering for clustering in self.state.clusterings}
        return tuple(by_k[k] for k in self.method.granularities)

    def uses_clusters(self, epoch: int) -> bool:
        """Whether the losses use clusters in this epoch."""
        return epoch >= self.config.cluster_from and epoch / self.config.epochs >= self.method.clusters_from

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
        terms = {name: float(total) / state.step for name, total in state.totals.items()}
        rate = state.step * self.batch_size / state.seconds
        row = {"epoch": state.epoch, "steps": self.steps_done, "loss": sum(terms.values()), **terms, "lr": lr}
        row |= {"seconds": round(state.seconds, 3), "images_per_second": round(rate, 1)}
        row |= {"e_step_seconds": round(state.e_step_seconds, 3), **state.scores}
        self._append(row)
        state.scores = {}
        state.order, state.totals, state.seconds, state.e_step_seconds = None, {}, 0.0, 0.0
        if state.step == self.steps_per_epoch:
            state.epoch, state.step = state.epoch + 1, 0
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
        if header.get("config") != config_digest(self.config):
            raise UserError(
                f"{self.folder.config} has changed since the run began, and a run resumes with the settings it began "
                f"with. For a new run: shoal train {self.folder.config} --out ANOTHER"
            )
        batch_size = header.get("batch_size", self.batch_size)
        if batch_size != global_batch(self.config, batch_size):
            raise UserError(
                f"the run in {path} takes {batch_size} images a step, which {distributed.world_size()} processes "
                "cannot share equally: resume with another number of processes."
            )
        self._set_batch(batch_size)  # also where other processes share it now
        try:
            self._restore(header, tensors)
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
        self.state = State.restore(header, tensors, self.device)
        self._compile(header["compiled"])
        self._keep_metrics(header["metrics_rows"])

    def _keep_metrics(self, n: int) -> None:
        if distributed.is_first():
            self.folder.keep_metrics(n)

    def _check_finite(self, tensors: Mapping[str, Tensor]) -> None:
        """Raise a UserError when training has diverged: a loss, a weight or a momentum is not finite."""
        watched = ("totals.", "method.", "optimizer.")
        for name, value in tensors.items():
            diverged = value.isnan() if name in self._infinite else ~value.isfinite()
            if name.startswith(watched) and diverged.any():
                kept = f" {self.folder.state} keeps the last good state." if self.folder.state.exists() else ""
                raise UserError(
                    f"training diverged in epoch {self.state.epoch}: {name} is not finite. Start again with a lower "
                    f"--optim.lr or more --optim.warmup-epochs.{kept}"
                )


def global_batch(config: RunConfig, n_images: int) -> int:
    """Images per step: as configured, at most all of them, and a multiple of the parts it is computed in."""
    batch = min(config.optim.batch_size, n_images)
    return max(batch - batch % (config.optim.accumulate * config.method.parts * distributed.world_size()), 1)


def compiles(config: RunConfig, n_steps: int, device: torch.device) -> bool:
    """Whether a run compiles its backbones: ``auto`` does so for long runs on a GPU, where the compiler works."""
    if config.compile != "auto":
        return config.compile == "on"
    # Synchronised batch-norm talks to other processes in the middle of the network.
    synced = config.sync_batch_norm and distributed.world_size() > 1
    if device.type != "cuda" or n_steps < LONG_STEPS or synced:
        return False
    error = compiler_error(device)
    if error:
        logging.getLogger("shoal").warning(f"training without torch.compile, which does not work here: {error}")
    return not error


def check_fits(config: RunConfig, n: int, n_images: int) -> None:
    """Raise a UserError when ``n_images``, ``n`` of which are clustered, cannot be clustered or trained on as asked."""
    optim = config.optim
    if config.n_clusters > n:
        raise UserError(
            f"{config.n_clusters} clusters need at least as many images, and there are {n}: ask for fewer clusters."
        )
    batch = global_batch(config, n_images)
    if batch < 2 * optim.accumulate:
        raise UserError(
            f"{min(optim.batch_size, n_images)} images a step are too few for {optim.accumulate} parts of two or more: "
            "lower --optim.accumulate."
        )
    if config.augment.views > 2 and not config.method.many_views:
        raise UserError(
            f"{config.method.name} takes two views of an image, not {config.augment.views}: leave --augment.views at 2."
        )
    config.method.check_fits(batch, batch // optim.accumulate // distributed.world_size(), n)
    config.method.check_epochs(config.epochs, config.cluster_from)


def check_takes(method: Method, config: RunConfig, size: tuple[int, int], device: torch.device) -> None:
    """Raise a UserError when the backbone cannot take images of this height and width, or their views."""
    height, width = size
    side = config.augment.side
    try:
        with evaluating(method):
            method.embed(torch.zeros(1, 3, height, width, device=device))
            if side is not None:
                method.embed(torch.zeros(1, 3, side, side, device=device))
    except (RuntimeError, AssertionError, ValueError, TypeError) as error:
        backbone = next(part for part in method.modules() if isinstance(part, Backbone))
        fitting = f", such as {backbone.made_for[0]}" if backbone.made_for and len(set(backbone.made_for)) == 1 else ""
        raise UserError(
            f"the backbone {config.backbone.name} cannot take images of {height} × {width} px"
            f"{f' or views of {side} px' if side else ''} ({short(error)}): give another --data.size{fitting}"
            f"{' or --augment.side' if side else ''}."
        ) from error
