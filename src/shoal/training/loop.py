"""The expectation–maximisation loop of deep clustering, on one screen: ``fit``, ``e_step``, ``m_step``."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int64, Shaped, UInt8
from torch import Tensor
from torch.profiler import record_function

from shoal import distributed, job
from shoal.clustering.kmeans import assign, kmeans
from shoal.clustering.smoothing import smoothed_kmeans
from shoal.clustering.suggest.suggest import MAX_ROWS, suggest_k
from shoal.data import apply_views, draw_view, feed, order_of_epoch
from shoal.device import autocast, preserve_rng, set_default_rng
from shoal.evaluation import collapse_warning, score, unsettled_warning
from shoal.methods.embedding import embed_all
from shoal.models import average_statistics
from shoal.progress import Progress
from shoal.training.optim import full_lr, lr_factor, set_lr
from shoal.training.partners import drawn_partners, pixel_neighbours
from shoal.training.run import Interrupted, Run, Watcher
from shoal.types import Batch, Clustering

STARTS = 10
"""Starts of k-means in the first E-step and the last, as published."""
STARTS_BETWEEN = 3
"""Starts of k-means in the other E-steps, which also start from the last centres."""

SETTLED_FROM = 10
"""Epochs from which clusters are expected to have settled at the end; shorter runs are tries."""


@dataclass(frozen=True, eq=False)
class EStep:
    """What an E-step finds."""

    clusterings: tuple[Clustering, ...]
    """The one the user asked for, then those of other granularities that the method's losses want."""
    features: Float[Tensor, "n d"]
    """Of unit length; zeros for images that are not clustered."""
    scores: dict[str, int | float]
    """On the first rank; empty on the others."""


def fit(run: Run, progress: Progress, watchers: Sequence[Watcher] = ()) -> None:
    """Train from where the run stands until all epochs are done, then cluster a last time; a finished run stays as is.

    Raises:
        Interrupted: the run was asked to stop; the step is finished and the state saved.
        UserError: the loss is no longer finite, the disk is full, or another process is changing the run.
    """
    with distributed.only_first(run.folder.alone()), preserve_rng(run.device):
        set_default_rng(run.default_rng, run.device)
        if distributed.is_first():
            run.folder.sweep()
        try:
            while not run.trained or run.state.order is not None:
                if run.state.order is None:  # else the run was resumed within an epoch
                    if _e_step_is_due(run):
                        start = time.monotonic()
                        _store(run, e_step(run, progress))
                        run.state.e_step_seconds = time.monotonic() - start
                    run.state.order = _order(run)
                    run.state.partners = _partners(run, progress)
                _tell(run, m_step(run, progress, watchers), progress, watchers)
            if not run.done:
                _store(run, e_step(run, progress))
                _tell(run, run.finish(), progress, watchers)
        except Interrupted:
            run.save()
            raise


def _store(run: Run, found: EStep) -> None:
    run.state.clusterings, run.state.scores, run.features = found.clusterings, found.scores, found.features


def _tell(run: Run, row: Mapping[str, int | float], progress: Progress, watchers: Sequence[Watcher]) -> None:
    progress.epoch(row, run.config.epochs)
    for watcher in watchers:
        watcher.epoch(row)


def e_step(run: Run, progress: Progress) -> EStep:
    """Cluster the features of all images that take part, and score the result."""

    def after_batch(done: int, total: int) -> None:
        progress.update("clustering", done, total, within=True)
        if distributed.world_size() == 1:  # else ranks stop together, after a step
            run.stop_if_asked()

    config, images = run.config, run.images
    take_part = images.clustered.to(run.device)
    rows = take_part.nonzero()[:, 0]
    average_statistics(run.method)
    own = rows[distributed.part(len(rows))]
    embedded = embed_all(run.method, images.pixels, run.device, config.precision, rows=own, after_batch=after_batch)
    gathered = distributed.gather_uneven(embedded)
    if run.steps_done and not gathered.isfinite().all():
        raise run.diverged("features are")
    if run.n_clusters_is_open:
        _find_n_clusters(run, gathered, progress)
    clusterings = tuple(
        _spread(_cluster(run, gathered, k), take_part)
        for k in dict.fromkeys((run.n_clusters, *_granularities_until_next(run)))
    )
    features = _among_all(gathered, take_part, 0.0)
    if not distributed.is_first():
        return EStep(clusterings, features, {})
    previous = run.clusterings[0].labels if run.clusterings else None
    scores = score(images, features, clusterings[0], previous, config.seed)
    # An untrained network may well see all images alike.
    if run.steps_done and (warning := _alarm(run, scores)):
        progress.warn(f"epoch {run.state.epoch}: {warning}")
    return EStep(clusterings, features, scores)


def _alarm(run: Run, scores: Mapping[str, float]) -> str | None:
    """The warning of a collapse, if there is one, or at the end of clusters that have not settled.

    A method's own head is undecided at the start: its probabilities are nearly the same for all images, and one cluster
    may be ahead everywhere. So no warning is given while they keep spreading out, until the end.
    """
    warning = collapse_warning(scores)
    if warning is None and run.trained and run.state.epoch >= SETTLED_FROM:
        return unsettled_warning(scores)
    if warning is None or run.trained or run.method.head_centers() is None:
        return warning
    before = run.scores_before
    return None if before is None or scores["feature_std"] > before["feature_std"] else warning


def m_step(run: Run, progress: Progress, watchers: Sequence[Watcher] = ()) -> dict[str, int | float]:
    """The rest of an epoch of gradient descent on the method's losses, and its metrics."""
    state, config = run.state, run.config
    with closing(pixels_to_come(run)) as pixels:
        while state.step < run.steps_per_epoch and not run.trained:
            start = time.monotonic()
            terms = train_step(run, pixels)
            run.count_step(terms, time.monotonic() - start)
            rate = f"{(state.step - state.logged) * run.batch_size / max(state.seconds, 1e-9):.0f} images/s"
            progress.update(f"epoch {state.epoch + 1}/{config.epochs}", run.steps_done, run.n_steps, rate)
            for watcher in watchers:
                watcher.step(run)
            run.stop_or_save()
    return run.finish_epoch(full_lr(run.batch_size, config.optim) * _lr_factor(run, run.steps_done - 1))


def pixels_to_come(run: Run) -> Generator[UInt8[Tensor, "b 3 h w"], None, None]:
    """This rank's share of each part of each batch, from the next step to the end of the epoch; then its partners."""
    assert run.state.order is not None
    pixels, size = run.images.pixels, run.batch_size
    left = run.state.order[run.state.step * size : run.steps_per_epoch * size].to(pixels.device)
    partners = None if run.state.partners is None else run.state.partners.to(pixels.device)

    def rows(part: Int64[Tensor, "p"]) -> Int64[Tensor, "_"]:
        own = part[distributed.part(len(part))]
        return own if partners is None else torch.cat((own, partners[own]))

    parts = (part for batch in torch.split(left, size) for part in _parts(run, batch))
    return feed(pixels, map(rows, parts), run.device)


def train_step(run: Run, pixels: Iterator[UInt8[Tensor, "b 3 h w"]]) -> dict[str, Tensor]:
    """One step of gradient descent on the next batch of the epoch's order, and its loss terms.

    ``pixels`` are those of ``pixels_to_come``.
    """
    config, method, order, step = run.config, run.method, run.state.order, run.state.step
    assert order is not None
    set_lr(run.optimizer, full_lr(run.batch_size, config.optim), _lr_factor(run, run.steps_done))
    run.optimizer.zero_grad()
    terms = _backward(run, order[step * run.batch_size : (step + 1) * run.batch_size], pixels)
    progress = (run.steps_done + 1) / (run.steps_per_epoch * config.epochs)
    with record_function("target"):
        method.before_step(progress)
    with record_function("optimiser"):
        run.optimizer.step()
    with record_function("target"):
        method.after_step(progress)
    return terms


def _backward(run: Run, index: Int64[Tensor, "b"], pixels: Iterator[UInt8[Tensor, "p 3 h w"]]) -> dict[str, Tensor]:
    """Gradient of the loss on a global batch, and its terms, as means over the parts that it is computed in."""
    sums: dict[str, Tensor] = {}
    n_parts = run.config.optim.accumulate
    for number, part in enumerate(_parts(run, index), 1):
        with record_function("read"):
            own = next(pixels)
        with record_function("augment"):
            batch = _batch(run, part, own)
        with distributed.averaged_at_last(run.forward, last=number == n_parts):
            with record_function("forward"), autocast(run.device, run.config.precision):
                terms = run.forward(batch, run.active_clusterings)
            with record_function("backward"):
                (torch.stack(list(terms.values())).sum() / n_parts).backward()  # type: ignore[no-untyped-call]
        for name, term in terms.items():
            sums[name] = sums.get(name, 0) + term.detach() / n_parts
    return sums


def _lr_factor(run: Run, step: int) -> float:
    return lr_factor(step, run.steps_per_epoch, run.config.epochs, run.config.optim)


def _order(run: Run) -> Int64[Tensor, "m"]:
    labels = run.clusterings[0].labels if run.config.resample else None
    return order_of_epoch(run.images.clustered.to(run.device), run.batch_size, labels, run.generator)


def _partners(run: Run, progress: Progress) -> Int64[Tensor, "n"] | None:
    """The image that the other views of each show in this epoch; None where it is always the image itself."""
    state, augment = run.state, run.config.augment
    if not augment.neighbours:
        return None
    if state.neighbours is None:
        progress.update("neighbours", 0, 1)
        state.neighbours = pixel_neighbours(run.images.pixels, augment.neighbours).to(run.device)
    return drawn_partners(state.neighbours, augment, run.generator)


def _e_step_is_due(run: Run) -> bool:
    """Every ``cluster_every`` epochs; before the first, whose features are random, only if clusters are needed.

    Also where a run goes on that had ended, after an E-step for its end alone.
    """
    epoch = run.state.epoch
    if run.uses_clusters(epoch) and not run.has_clusterings:
        return True
    needed = epoch > 0 or run.config.resample or _granularities_until_next(run)
    return epoch % run.config.cluster_every == 0 and bool(needed)


def _granularities_until_next(run: Run) -> tuple[int, ...]:
    """Those that the losses will use before the next E-step: none at the end, nor long before they begin."""
    used = not run.trained and run.uses_clusters(run.state.epoch + run.config.cluster_every - 1)
    return run.method.granularities if used else ()


def _find_n_clusters(run: Run, features: Float[Tensor, "m d"], progress: Progress) -> None:
    """Take the number of groups in the features, two at least."""
    words = ""
    if distributed.is_first():
        found = suggest_k(features, (2, min(len(features), MAX_ROWS)), metric="cosine", seed=run.config.seed)
        words = f"{found.k} {found.interval[0]} {found.interval[1]}"
    k, low, high = map(int, job.of_first(lambda: words).split())
    first = max(run.state.epoch, run.config.cluster_from) + 1  # as people count them
    stays = f" from epoch {first} on" if _granularities_until_next(run) else ""
    if distributed.is_first() and (stays or k != run.n_clusters):
        progress.say(
            f"{'clusters':<12} {k}{stays}, by the features of epoch {run.state.epoch}; plausible {low} to {high}"
        )
    run.take_n_clusters(k)


def _cluster(run: Run, every: Float[Tensor, "m d"], k: int) -> Clustering:
    """By the method's own head where it has one, by k-means otherwise; each rank does a share of the work."""
    features, sharded = every[distributed.part(len(every))], distributed.world_size() > 1
    centers = run.method.head_centers()
    if centers is not None:
        labels, distances, _ = assign(features, centers, "cosine")
        found = Clustering(labels, centers, distances)
    elif run.config.smooth_features:
        found = smoothed_kmeans(every, k, generator=run.generator, n_init=STARTS, sharded=sharded)
    else:
        last = {len(clustering.centers): clustering.centers for clustering in run.clusterings}.get(k)
        n_init = STARTS if last is None or run.trained else STARTS_BETWEEN
        found = kmeans(features, k, generator=run.generator, n_init=n_init, warm_start=last, sharded=sharded)
    gather = distributed.gather_uneven
    return replace(found, labels=gather(found.labels), distances=gather(found.distances))


def _parts(run: Run, index: Int64[Tensor, "b"]) -> tuple[Int64[Tensor, "_"], ...]:
    """A global batch in the parts that its gradient is computed in."""
    return index.chunk(run.config.optim.accumulate)


def _batch(run: Run, index: Int64[Tensor, "b"], pixels: UInt8[Tensor, "s 3 h w"]) -> Batch:
    """This rank's share of a global batch, in views whose random numbers are drawn for the whole batch."""
    size, augment = (pixels.shape[2], pixels.shape[3]), run.config.augment
    mine = distributed.part(len(index))
    draws = [draw_view(len(index), size, augment, run.view_generator, view)[mine] for view in range(augment.views)]
    if run.state.partners is None:
        view1, view2, *more = apply_views(pixels, draws, augment.side)
    else:
        own, partners = pixels.chunk(2)
        (view1,) = apply_views(own, draws[:1], augment.side)
        view2, *more = apply_views(partners, draws[1:], augment.side)
    return Batch(view1, view2, index, run.state.epoch / run.config.epochs, tuple(more))


def _spread(clustering: Clustering, take_part: Bool[Tensor, "n"]) -> Clustering:
    """The clustering of some images as one of all: the others get −1 and no distance."""
    labels = _among_all(clustering.labels, take_part, -1.0)
    return replace(clustering, labels=labels, distances=_among_all(clustering.distances, take_part, torch.nan))


def _among_all(values: Shaped[Tensor, "m ..."], take_part: Bool[Tensor, "n"], other: float) -> Shaped[Tensor, "n ..."]:
    """Values of the images that take part as values of all; the rest have another."""
    everyone = values.new_full((len(take_part), *values.shape[1:]), other)
    everyone[take_part] = values
    return everyone
