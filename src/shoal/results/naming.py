"""Names that suggest themselves: what the network of a result knows of its clusters, and images found by text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from hashlib import blake2b
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from shoal.clustering.grouping import grouped_rows
from shoal.clustering.rows import subsample
from shoal.data.cache import cache_folder
from shoal.errors import UserError
from shoal.features import EncoderSpec
from shoal.features.classifier import Classifier, imagenet_words, load_classifier
from shoal.features.text import TextTower, load_text_tower, reader_among, reads_text
from shoal.progress import Progress
from shoal.results.networks import NetworkFeatures, features_by, network_by
from shoal.results.result import Result
from shoal.tensors import read_tensors, write_tensors

_OF_EACH = 1000
"""Images of a cluster that are looked at, drawn at random: a mean of this many is known to 0.02."""

_CELLS = 2**24
"""Probabilities computed at once: 67 MB."""

_KEPT_FROM = 1000
"""Words whose features are kept in the cache."""

_PRIOR = 0.01
"""Added to probabilities before their odds are compared: what hardly any image shows, says nothing."""

_LEAST = math.log(2)
"""Score of the weakest suggestion: twice the odds that it has in the other clusters."""

_READER = "--backbone.name open_clip:ViT-B-32:laion2b_s34b_b79k (pip install 'shoal[words]')"

_TEXT_NEEDED = f"cluster the images with a network that does, such as {_READER}"

_CLASSES_NEEDED = (
    "cluster the images with a network that has a classifier, such as --backbone.name tf_efficientnet_lite0, or that "
    f"reads text, such as {_READER}"
)


class SuggestedName(NamedTuple):
    """A name that a cluster might get."""

    name: str
    score: float
    """Natural logarithm of the odds of the name in the cluster, over those in the other clusters."""


def suggest_names(
    result: Result, words: Sequence[str] | None = None, *, most: int = 3, progress: Progress | None = None
) -> list[list[SuggestedName]]:
    """Names for each cluster, best first; they are suggestions, and nothing is renamed.

    Where the network has a text tower, the names are words whose features are near those of the cluster's images:
    ``words``, or the names of ImageNet-21k's classes. Any other network gives those of its own classifier's classes
    that it sees in the cluster. Either way a probability p of each name in each cluster is compared with its mean q
    over the other clusters, by the log-odds ratio log[p (1 − q) / (q (1 − p))], after 0.01 has been added to p, q and
    their complements. So names that fit all clusters are not suggested, nor are those that hardly fit.

    Args:
        result: the clusters. Its images are not needed.
        words: the names to choose from, a word or a phrase each.
        most: names of a cluster at most; there may be none.
        progress: reports how many words are embedded.

    Returns:
        A list for each cluster, in the order of ``result.model.numbers``.

    Raises:
        UserError: the network suggests no names, or takes no words; its weights are gone or have changed.
    """
    model = result.model
    rows = _drawn_rows(model.slots_of(result.labels), len(model.numbers), result.seed)
    if reads_text(result.encoder):
        names, shares = _by_words(result, rows, words, progress or Progress())
    elif words is not None:
        raise UserError(f"the network of {result.folder.path} reads no words: leave them out, or {_TEXT_NEEDED}.")
    else:
        names, shares = _by_classifier(result, rows)
    filled = torch.tensor([len(each) > 0 for each in rows])
    scores = torch.full_like(shares, -math.inf)
    scores[filled] = log_odds(shares[filled])
    return [_best(each, names, most) for each in scores]


def search_text(result: Result, text: str, n: int = 20) -> tuple[Int64[Tensor, "m"], Float32[Tensor, "m"]]:
    """Find the images that are nearest to a text, by the cosine of their features.

    Args:
        result: whose network must have a text tower. Its images are not needed.
        text: a word or a sentence.
        n: how many images at most.

    Returns:
        Rows of the images, nearest first, and their cosines in [−1, 1].

    Raises:
        UserError: the network reads no text, or its weights are gone or have changed; the text is empty.
    """
    if not text.strip():
        raise UserError("the text is empty: say what to look for.")
    reader = reader_among(result.encoder)
    if reader is None:
        raise UserError(f"{result.folder.path} cannot be searched by text, since {_reason(result)}: {_TEXT_NEEDED}.")
    wanted = _tower(result, reader).embed([text])[0]
    seen = features_by(result, reader)
    found = cosines_to(seen.features, wanted)
    found = found if seen.rows is None else found[seen.rows]
    best = torch.sort(found, descending=True, stable=True).indices[: max(n, 0)]
    return best, found[best]


def cosines_to(features: Float[Tensor, "n d"], direction: Float32[Tensor, "d"]) -> Float32[Tensor, "n"]:
    """The cosine of each row to a direction of unit length, a part at a time: the features may be a memory map."""
    return torch.cat([_unit(part) @ direction for part in torch.split(features, _rows_at_once(features.shape[1]))])


def read_words(path: Path) -> list[str]:
    """Read a word or a phrase from each line of a file, each once; empty lines are skipped.

    Raises:
        UserError: it cannot be read, is not UTF-8 text, or is empty.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text: save it as UTF-8, with a word or a phrase in each line.") from error
    words = [*dict.fromkeys(text for line in lines if (text := " ".join(line.split())))]
    if not words:
        raise UserError(f"{path} has no words: write a word or a phrase into each line.")
    return words


def log_odds(shares: Float[Tensor, "k v"]) -> Float[Tensor, "k v"]:
    """How much likelier each name is in a cluster than in the others, as in ``suggest_names``.

    Args:
        shares: probability of each of v names in each of k clusters. A single cluster is compared with chance, 1 / v.
    """
    k, v = shares.shape
    rest = (shares.sum(0) - shares) / (k - 1) if k > 1 else torch.full_like(shares, 1 / v)
    return _logit(shares) - _logit(rest)


def _logit(p: Float[Tensor, "k v"]) -> Float[Tensor, "k v"]:
    return torch.log((p + _PRIOR) / (1 - p + _PRIOR))


def _best(scores: Float[Tensor, "v"], names: Sequence[str], most: int) -> list[SuggestedName]:
    """The names of a cluster with the highest scores; of a name that several classes share, the highest."""
    found: dict[str, float] = {}
    for at in torch.sort(scores, descending=True, stable=True).indices.tolist():
        score = float(scores[at])
        if len(found) >= most or score < _LEAST:
            break
        found.setdefault(names[at], score)
    return [SuggestedName(name, score) for name, score in found.items()]


def _by_classifier(result: Result, rows: Sequence[Int64[Tensor, "_"]]) -> tuple[Sequence[str], Float[Tensor, "k v"]]:
    """Names of the classes that the network knows, and the mean of their probabilities over the images of each cluster.

    Raises:
        UserError: it knows none.
    """
    reason = _reason(result)
    for spec in () if result.encoder is None else result.encoder.networks:  # of several, the first that names classes
        if spec.kind != "timm":
            continue
        network = network_by(result, spec)
        try:
            classifier = load_classifier(network)
        except UserError as error:
            reason = str(error).rstrip(".")
        else:
            return classifier.classes, _mean_probabilities(features_by(result, spec), classifier, rows)
    raise UserError(
        f"no names can be suggested for {result.folder.path}, since {reason}. To get some, {_CLASSES_NEEDED}."
    )


def _mean_probabilities(
    seen: NetworkFeatures, classifier: Classifier, rows: Sequence[Int64[Tensor, "_"]]
) -> Float[Tensor, "k v"]:
    """The mean over the images of each cluster; zeros where there are none."""
    many = _rows_at_once(len(classifier.classes))
    shares = torch.zeros(len(rows), len(classifier.classes), dtype=torch.float64)
    for cluster, own in enumerate(rows):
        for start in range(0, len(own), many):
            shares[cluster] += classifier.probabilities(seen.take(own[start : start + many])).sum(0)
        shares[cluster] /= max(len(own), 1)
    return shares


def _by_words(
    result: Result, rows: Sequence[Int64[Tensor, "_"]], words: Sequence[str] | None, progress: Progress
) -> tuple[Sequence[str], Float[Tensor, "k v"]]:
    """Words, and the probability that the network gives each for the mean image of a cluster."""
    names = imagenet_words() if words is None else [*words]
    if not names:
        raise UserError("there are no words to choose from: give some.")
    texts = [f"a photo of a {name}." for name in names] if words is None else names
    reader = reader_among(result.encoder)
    assert reader is not None
    tower, seen = _tower(result, reader), features_by(result, reader)
    embedded = _embedded(tower, reader, texts, progress)
    means = torch.stack([_unit(seen.take(own)).mean(0) for own in rows])
    return names, (tower.scale * means.double() @ embedded.double().T).softmax(1)


def _embedded(tower: TextTower, spec: EncoderSpec, texts: Sequence[str], progress: Progress) -> Float32[Tensor, "v d"]:
    """Features of words; those of a long list are kept in the cache, since they take minutes on a CPU."""
    if len(texts) < _KEPT_FROM:
        return tower.embed(texts, progress.counter("embedding words"))
    key = blake2b("\n".join([spec.digest, spec.name, *texts]).encode(), digest_size=16).hexdigest()
    path = cache_folder() / f"words-{key}.safetensors"
    with suppress(UserError):  # one that is damaged is written again
        if path.is_file():
            return read_tensors(path)[1]["features"]
    found = tower.embed(texts, progress.counter("embedding words"))
    with suppress(UserError):  # without a cache it takes as long the next time
        write_tensors(path, {}, {"features": found})
    return found


def _tower(result: Result, spec: EncoderSpec) -> TextTower:
    try:
        return _loaded(spec)
    except UserError as error:
        raise UserError(
            f"the network that made the features of {result.folder.path} cannot be used: {error}"
        ) from error


@lru_cache(maxsize=1)
def _loaded(spec: EncoderSpec) -> TextTower:
    """The tower that was asked for last is kept: a page searches again and again."""
    return load_text_tower(spec)


def _reason(result: Result) -> str:
    """Why the network neither names classes nor reads text."""
    if result.encoder is None:
        return "features were clustered, whose network is not known"
    if result.encoder.kind == "run":
        return "a network that was trained without labels knows no words"
    if result.encoder.parts:
        return f"none of the networks {result.encoder.name} reads text"
    return f"timm's network {result.encoder.name} reads no text"


def _drawn_rows(labels: Int64[Tensor, "n"], k: int, seed: int) -> list[Int64[Tensor, "_"]]:
    """Rows of each cluster, no more than suffice for a mean."""
    generator = torch.Generator().manual_seed(seed)
    order, places = grouped_rows(labels, k)
    groups = (order[start:end] for start, end in pairwise(places))
    return [own[subsample(len(own), _OF_EACH, generator)] for own in groups]


def _rows_at_once(width: int) -> int:
    return max(1, _CELLS // width)


def _unit(features: Float[Tensor, "b d"]) -> Float32[Tensor, "b d"]:
    return torch.nn.functional.normalize(features.float(), dim=1)
