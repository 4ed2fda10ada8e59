"""The expectation–maximisation loop of deep clustering, in one screen: ``fit``, ``e_step``, ``m_step``."""

from __future__ import annotations

import time
from dataclasses import replace

import torch
from jaxtyping import Bool
from torch import Tensor

from shoal import distributed
from shoal.clustering import kmeans
from shoal.data import apply_view, draw_view, equal_clusters, shuffled
from shoal.evaluation import collapse_warning, score
from shoal.methods.embedding import autocast, embed_all
from shoal.training.checkpoint import set_default_rng
from shoal.training.log import Log
from shoal.training.optim import set_lr
from shoal.training.schedule import lr_factor
from shoal.training.state import Interrupted, Run
from shoal.types import Batch, Clustering


def fit(run: Run, log: Log) -> None:
    """Train until all epochs are done, from wherever the run stands, and cluster a last time.

    A run that is done already stays as it is.

    Raises:
        Interrupted: the run was asked to stop; the step is finished and the state saved.
        UserError: the loss is no longer finite, or the disk is full.
    """
    with torch.random.fork_rng():
        set_default_rng(run.default_rng, run.device)
        try:
            while not run.trained or run.order is not None:
                if run.order is None:  # else the run was resumed inside an epoch
                    if run.epoch % run.config.cluster_every == 0:
                        run.clusterings = e_step(run, log)
                    run.order = _order(run)
                log.epoch(m_step(run, log))
            if not run.done:
                run.clusterings = e_step(run, log)
                log.epoch(run.finish())
        except Interrupted:
            run.save()
            raise


def e_step(run: Run, log: Log) -> tuple[Clustering, ...]:
    """Cluster the features of all images, once for each granularity, and read the scores.

    A method without clusters is clustered all the same, to be watched: its losses never see the result.
    """

    def after_batch(done: int, total: int) -> None:
        log.embedding(done, total)
        run.stop_if_asked()

    config, images = run.config, run.images
    run.features = embed_all(run.method, images.pixels, run.device, config.precision, after_batch=after_batch)
    take_part = images.clustered.to(run.device)
    clusterings = tuple(
        _spread(kmeans(run.features[take_part], k, generator=run.generator, metric="cosine"), take_part)
        for k in run.method.granularities or (config.n_clusters,)
    )
    previous = run.clusterings[0].labels if run.clusterings else None
    run.scores = score(images, run.features, clusterings[0], previous, config.seed)
    if warning := collapse_warning(run.scores):
        log.note(f"epoch {run.epoch}: {warning}")
    return clusterings


def m_step(run: Run, log: Log) -> dict[str, int | float]:
    """One epoch of gradient descent on the method's losses, from the step where the run stands."""
    config, method, order = run.config, run.method, run.order
    assert order is not None
    n_steps = run.steps_per_epoch
    while run.step < n_steps and not run.trained:
        start = time.monotonic()
        batch = _batch(run, order[run.step * run.batch_size : (run.step + 1) * run.batch_size])
        set_lr(run.optimizer, _lr(run, run.steps_done))
        with autocast(run.device, config.precision):
            terms = method(batch, run.active_clusterings)
        run.optimizer.zero_grad()
        torch.stack(list(terms.values())).sum().backward()  # type: ignore[no-untyped-call]
        progress = (run.steps_done + 1) / (n_steps * config.epochs)
        method.before_step(progress)
        run.optimizer.step()
        method.after_step(progress)
        run.count_step(terms, time.monotonic() - start)
        log.step(run)
        run.stop_if_asked()
        run.save_if_due()
    return run.finish_epoch(_lr(run, run.steps_done - 1))


def _lr(run: Run, step: int) -> float:
    """Rate at a step: the full one grows with the batch (linear scaling: Goyal et al., arXiv 1706.02677)."""
    optim = run.config.optim
    full = optim.lr * run.batch_size / 256
    return full * lr_factor(step, run.steps_per_epoch, run.config.epochs, optim)


def _order(run: Run) -> Tensor:
    if run.config.resample and run.active_clusterings:
        return equal_clusters(run.active_clusterings[0].labels, run.generator)
    return shuffled(len(run.images), run.generator)


def _batch(run: Run, index: Tensor) -> Batch:
    """This rank's share of a world batch, in two views whose random numbers are drawn for the whole batch."""
    mine = index[distributed.share(len(index))]
    pixels = run.images.pixels[mine.to(run.images.pixels.device)].to(run.device)
    size = (pixels.shape[2], pixels.shape[3])
    draws = [draw_view(len(index), size, run.config.augment, run.generator) for _ in range(2)]
    view1, view2 = (apply_view(pixels, draw[distributed.share(len(index))]) for draw in draws)
    return Batch(view1, view2, mine)


def _spread(clustering: Clustering, take_part: Bool[Tensor, "n"]) -> Clustering:
    """The clustering of some images as one of all: the others get −1 and no distance."""
    labels = clustering.labels.new_full((len(take_part),), -1)
    distances = clustering.distances.new_full((len(take_part),), torch.nan)
    labels[take_part] = clustering.labels
    distances[take_part] = clustering.distances
    return replace(clustering, labels=labels, distances=distances)
