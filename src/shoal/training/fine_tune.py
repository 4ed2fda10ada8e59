"""Fine-tuning of a trained network on what a person has said of single images, as IDC does it.

    L = L_pos + L_neg + L_easy

"Interactive Deep Clustering via Value Mining" (IDC, NeurIPS 2024): images that were given a cluster, images of which
only clusters are known that they are not in, and images about which the network is sure, so that the rest stays put.

Here the images about which it is not sure have the clusters that ``shoal.learning`` gives them, and there are as many
steps for few answers as for many: a hundred answers alone teach a network less than they do when they are spread first.
Halfway they are learned anew, from the features as they are by then.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, Int64, UInt8
from torch import Tensor, nn

from shoal.clustering.rows import draw_rows
from shoal.data import apply_view, draw_view, feed
from shoal.device import autocast, preserve_rng
from shoal.errors import UserError
from shoal.losses import balanced_cross_entropy, confident_labels, ruled_out_loss
from shoal.models import Backbone, evaluating
from shoal.progress import Progress
from shoal.training.trained import Trained
from shoal.types import Images

ASKED, OTHERS = 100, 500
"""Images of a batch that a person has spoken of, and others, as published."""

EPOCHS, STEPS = 100, 10
"""Epochs, and steps in each; published are as many steps in all as there are answers."""

LEARNING_RATE = WEIGHT_DECAY = 1e-4

SCALE = 8.0
"""Length of the head's rows at first. Where clusters are far apart it gives central images probabilities above the 0.99
from which L_easy takes them."""


@dataclass(frozen=True, eq=False)
class Told:
    """What a person has said of n images, with clusters by their places 0 … k − 1."""

    classes: Int64[Tensor, "n"]
    """−1: nothing, or nothing but clusters that are ruled out."""
    ruled_out: Mapping[int, tuple[int, ...]]
    """By image, the clusters that it is not in; never empty."""
    learned: Int64[Tensor, "n"]
    """Clusters of the images about which nothing was said, as they were learned from the rest; −1: takes no part."""

    @cached_property
    def asked(self) -> Int64[Tensor, "a"]:
        """Images of which something was said, ascending."""
        asked = self.classes >= 0
        asked[torch.tensor([*self.ruled_out], dtype=torch.int64)] = True
        return asked.nonzero()[:, 0]


Relearn: TypeAlias = Callable[[Float[Tensor, "n d"], Int64[Tensor, "n"]], Int64[Tensor, "n"]]
"""Features and the network's own clusters in, clusters of all images out; those of ``Told.learned`` count."""


@dataclass(frozen=True, eq=False)
class FineTuned:
    """The linear head that was trained with the network; softmax(z · weightᵀ + bias) for features z of unit length."""

    weight: Float32[Tensor, "k d"]
    bias: Float32[Tensor, "k"]
    metrics: list[dict[str, int | float]]
    """A row per epoch."""

    def __call__(self, features: Float[Tensor, "n d"]) -> Int64[Tensor, "n"]:
        """The cluster that is most likely for each row."""
        return torch.addmm(self.bias, features, self.weight.T).argmax(1)


def fine_tune(
    trained: Trained,
    images: Images,
    told: Told,
    centers: Float[Tensor, "k d"],
    relearn: Relearn,
    progress: Progress,
) -> FineTuned:
    """Train a network further on answers, in place: the encoder, and a head that starts at the clusters' centres.

    The same seed, network and answers give the same outcome.

    Args:
        trained: the network; its recipe's augmentation makes the strong views.
        images: all n.
        told: what was said of them.
        centers: of the present clusters, those that a person made included.
        relearn: asked once, halfway, for the clusters of images about which nothing was said.
        progress: reports progress.

    Raises:
        UserError: nothing was said, there is a single image to train on, or the loss is no longer finite.
    """
    job = _Job(trained, images, told, centers, relearn)
    with preserve_rng(job.device):
        torch.manual_seed(trained.config.seed)  # of dropout
        metrics = [*job.epochs(progress)]
    return job.found(metrics)


class _Job:
    """All that a step needs."""

    def __init__(
        self, trained: Trained, images: Images, told: Told, centers: Float[Tensor, "k d"], relearn: Relearn
    ) -> None:
        self.config, self.method, self.device = trained.config, trained.method, trained.centers.device
        self.trained, self.images, self.pixels = trained, images, images.pixels
        self.told, self.relearn = told, relearn
        self.asked, self.others = told.asked, (told.learned >= 0).nonzero()[:, 0]
        if not len(self.asked):
            raise UserError("nothing was said of any image, so there is nothing to learn from.")
        if len(self.asked) + len(self.others) < 2:
            raise UserError("one image alone is too little to train on.")
        self.head = nn.Linear(centers.shape[1], len(centers), device=self.device)
        with torch.no_grad():
            self.head.weight.copy_(SCALE * F.normalize(centers.float(), dim=1))
            self.head.bias.zero_()
        network = self.method.encoder.requires_grad_()
        for part in network.modules():
            if isinstance(part, Backbone):
                part.freeze(part.n_frozen)
        encoder = [p for p in network.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(
            [*encoder, *self.head.parameters()], lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY
        )
        self.n_asked, self.n_others = self._batch()
        # The order is drawn ahead of the views, perhaps in a thread.
        self.order, self.draws = (torch.Generator().manual_seed(self.config.seed + i) for i in (0, 1))
        self.easy = torch.full((len(self.pixels),), -1)

    def found(self, metrics: list[dict[str, int | float]]) -> FineTuned:
        """What came of it so far; the network is left in evaluation mode."""
        self.method.eval()
        return FineTuned(self.head.weight.detach().float().cpu(), self.head.bias.detach().float().cpu(), metrics)

    def _learn_anew(self) -> None:
        """Where the network has moved, neighbours say more than they did."""
        features = self.trained.embed(self.images)
        learned = self.relearn(features, self.found([])(features))
        self.told = replace(self.told, learned=learned.where(self.told.learned >= 0, -1))
        self.easy.fill_(-1)

    def _batch(self) -> tuple[int, int]:
        """Images of a batch that were and were not asked about.

        A run that accumulates its gradient says how many views the memory holds: more are not taken at once.
        """
        optim = self.config.optim
        held = 2 * optim.batch_size // optim.accumulate if optim.accumulate > 1 else ASKED + OTHERS
        share = min(1.0, held / (ASKED + OTHERS))
        return max(1, round(share * ASKED)), max(1, round(share * OTHERS))

    def epochs(self, progress: Progress) -> Iterator[dict[str, int | float]]:
        """Train, and give the metrics of each epoch."""
        batches = [batch for _ in range(EPOCHS) for batch in self._order()]
        parts = (torch.cat(batch).to(self.pixels.device) for batch in batches)
        done, total = 0, len(batches)
        with closing(feed(self.pixels, parts, self.device)) as pixels:
            for epoch in range(EPOCHS):
                start, terms, n_images = time.monotonic(), dict[str, float](), 0
                if epoch == EPOCHS // 2:
                    self._learn_anew()
                for asked, others in batches[done : done + STEPS]:
                    for name, value in self._step(asked, others, next(pixels)).items():
                        terms[name] = terms.get(name, 0.0) + value.item() / STEPS
                    done, n_images = done + 1, n_images + len(asked) + len(others)
                    progress.update("fine-tuning", done, total)
                loss, seconds = sum(terms.values()), time.monotonic() - start
                if not math.isfinite(loss):
                    raise UserError(f"fine-tuning diverged in epoch {epoch}: the loss is not finite.")
                row = {"epoch": epoch, "steps": done, "loss": loss, **terms, "lr": LEARNING_RATE}
                yield {**row, "seconds": round(seconds, 3), "images_per_second": round(n_images / seconds, 1)}

    def _order(self) -> list[tuple[Int64[Tensor, "a"], Int64[Tensor, "o"]]]:
        """The batches of an epoch."""

        def some(rows: Int64[Tensor, "r"], most: int) -> Int64[Tensor, "m"]:
            return rows[draw_rows(len(rows), most, self.order)]

        return [(some(self.asked, self.n_asked), some(self.others, self.n_others)) for _ in range(STEPS)]

    def _step(
        self, asked: Int64[Tensor, "a"], others: Int64[Tensor, "o"], pixels: UInt8[Tensor, "b 3 h w"]
    ) -> dict[str, Tensor]:
        """One step of gradient descent, and its loss terms."""
        easy = self._easy_labels(others, pixels[len(asked) :])
        height, width = pixels.shape[2:]
        views = apply_view(pixels, draw_view(len(pixels), (height, width), self.config.augment, self.draws))
        self.method.train()
        logits = self._logits(views)
        of_asked, of_others = logits[: len(asked)], logits[len(asked) :]
        terms = {"positive": balanced_cross_entropy(of_asked, self.told.classes[asked].to(self.device))}
        rows, clusters = self._ruled_out(asked)
        if len(rows):
            terms["negative"] = ruled_out_loss(of_asked[rows.to(self.device)], clusters.to(self.device))
        if len(others):
            terms["easy"] = balanced_cross_entropy(of_others, easy.to(self.device))
        self.optimizer.zero_grad()
        torch.stack([*terms.values()]).sum().backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return {name: term.detach() for name, term in terms.items()}

    def _logits(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k"]:
        with autocast(self.device, self.config.precision):
            features = self.method.embed(images)
        return F.linear(features.float(), self.head.weight, self.head.bias)

    def _easy_labels(self, others: Int64[Tensor, "o"], pixels: UInt8[Tensor, "o 3 h w"]) -> Int64[Tensor, "o"]:
        """Clusters that the network is sure of by the images' clean views, or else those that were learned."""
        if not len(others):
            return others
        with evaluating(self.method):
            p = self._logits(pixels.float().div_(255)).softmax(1).cpu()
        self.easy[others] = labels = confident_labels(p, self.easy[others])
        return labels.where(labels >= 0, self.told.learned[others])

    def _ruled_out(self, asked: Int64[Tensor, "a"]) -> tuple[Int64[Tensor, "r"], Int64[Tensor, "r"]]:
        """Places in a batch of images with clusters that are ruled out, and one of these for each, drawn anew."""
        found = [
            (place, self.told.ruled_out[row]) for place, row in enumerate(asked.tolist()) if row in self.told.ruled_out
        ]
        at = torch.rand(len(found), generator=self.draws).tolist()
        clusters = [out[int(share * len(out))] for share, (_, out) in zip(at, found, strict=True)]
        return torch.tensor([place for place, _ in found], dtype=torch.int64), torch.tensor(clusters, dtype=torch.int64)
