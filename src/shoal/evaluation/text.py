"""Clusters beside the plain methods, in words for terminal and report alike."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from textwrap import wrap

from shoal.evaluation.result import Baseline, ClassScore, Evaluation, Linear, Neighbours, Ranking

COMPARED = ("acc", "purity", "nmi", "ari")

AGREEMENT = "agreement"
"""Key of the last column."""


@dataclass(frozen=True)
class Line:
    """Figures of a method by key; some may be missing."""

    name: str
    values: Mapping[str, float]


@dataclass(frozen=True)
class Comparison:
    """Rows of the clusters, if they have scores, and of each plain method, keys of the columns, and what it means."""

    keys: Sequence[str]
    rows: Sequence[Line]
    notes: Sequence[str]


def comparison(found: Evaluation) -> Comparison | None:
    """The table; None where nothing was compared."""
    if not found.baselines:
        return None
    own = {key: found.scores[key] for key in COMPARED if key in found.scores}
    return Comparison(
        keys=[*own, AGREEMENT],
        rows=[*([Line("These clusters", own)] if own else []), *map(_of_baseline, found.baselines)],
        notes=list(_notes(found)),
    )


def _of_baseline(plain: Baseline) -> Line:
    scores = {key: plain.scores[key] for key in COMPARED if key in plain.scores}
    agreement = {} if plain.agreement is None else {AGREEMENT: plain.agreement}
    return Line(f"{_name(plain)} *" if plain.sampled else _name(plain), scores | agreement)


def _name(plain: Baseline) -> str:
    if (plain.of, plain.method) == ("features", "k-means"):
        return "The same k-means, other seeds"  # as the clusters are
    on = {"features": "the features", "backbone": "the backbone", "pixels": "pixels"}
    return f"{plain.method} on {on[plain.of]}"


def _notes(found: Evaluation) -> Iterator[str]:
    on_pixels = any(plain.of == "pixels" for plain in found.baselines)
    for size in {plain.sampled for plain in found.baselines if plain.sampled}:
        yield f"* on {size} images drawn at random."
    for plain in found.baselines:
        if plain.failed:
            yield f"{_name(plain)}: {plain.failed}"
    yield "Agreement: ARI with these clusters, 1 for the same ones, 0 by chance."
    if found.scores:
        training = ", and training where it is ahead of those on pixels" if on_pixels else ""
        yield f"A method earns its keep where it is ahead of the plain methods on the same features{training}."
    else:
        yield "Where plain methods on the same features agree little, much is chance: try another number of clusters."
        if on_pixels:
            yield "Where those on pixels agree much, training has found little that pixels do not show."


SCORES = {
    "acc": "accuracy, a cluster for each class",
    "purity": "purity, each cluster votes its class",
    "nmi": "NMI (V-measure), shared information",
    "ami": "AMI, the same beyond chance",
    "homogeneity": "homogeneity, clusters are of a class",
    "completeness": "completeness, classes are in a cluster",
    "ari": "ARI, pairs agreed on beyond chance",
    "fmi": "FMI, pairs agreed on",
}
SIGNALS = {
    "silhouette": "silhouette, separation of clusters",
    "davies_bouldin": "Davies–Bouldin, less is better",
    "calinski_harabasz": "Calinski–Harabasz, more is better",
    "smallest": "share of the smallest cluster",
    "largest": "share of the largest cluster",
    "feature_std": "spread of features, 0 is collapsed",
}
MAX_CLASSES = 50
"""Classes that a terminal is shown; evaluation.json has all."""

_WIDTH = 38
_PLAIN_WIDTH = 32
_WIDE = 82


def as_text(found: Evaluation) -> str:
    """Every figure with its meaning; shares and scores are of 1."""
    return "\n".join(_lines(found))


def _lines(found: Evaluation) -> Iterator[str]:
    labelled = "all" if found.labelled == found.images else str(found.labelled)
    yield f"{found.images} images, {labelled} labelled, {found.held_out} held out; {found.clusters} clusters"
    if found.scores:
        yield from _scores(found)
    if compared := comparison(found):
        yield from _comparison(compared)
    yield ""
    yield "Without labels"
    yield from (_line(SIGNALS[key], value) for key, value in found.signals.items())
    if found.calibration:
        yield ""
        yield f"Confidence, softmax of cosines at T = {found.calibration.temperature:g}"
        yield _line("mean confidence", found.calibration.confidence)
        yield _line("share in the matched class", found.calibration.accuracy)
        yield _line("expected calibration error", found.calibration.error)
    if found.knn:
        yield from _neighbours(found.knn)
    if found.linear:
        yield from _linear(found.linear)
    if found.classes:
        yield from _classes(found.classes)


def _scores(found: Evaluation) -> Iterator[str]:
    split = found.train_to_test
    yield ""
    heading = f"{'Clusters against classes':<{_WIDTH}} {'all':>8}"
    yield f"{heading} {'test':>8}" if split else heading
    for key, meaning in SCORES.items():
        line = _line(meaning, found.scores[key])
        yield f"{line} {split.scores[key]:8.4f}" if split else line
    if ignored := found.images - found.labelled:
        yield f"{ignored} images without a label are left out"
    if split:
        yield f"{'the same, matched on the train part':<{_WIDTH}} {'':8} {split.accuracy_matched_on_train:8.4f}"
        yield f"test: {split.test} images, put into clusters found in the {split.train} of the train part"


def _comparison(compared: Comparison) -> Iterator[str]:
    names = {"acc": "accuracy", "nmi": "NMI", "ari": "ARI"}
    yield ""
    heading = "".join(f" {names.get(key, key):>9}" for key in compared.keys)
    yield f"{'Beside plain methods':<{_PLAIN_WIDTH}}{heading}"
    for row in compared.rows:
        values = "".join(f" {row.values[key]:9.4f}" if key in row.values else f" {'':9}" for key in compared.keys)
        yield f"{row.name:<{_PLAIN_WIDTH}}{values}".rstrip()
    for note in compared.notes:
        yield from wrap(note, _WIDE)


def _neighbours(knn: Neighbours) -> Iterator[str]:
    yield ""
    how = "each image among all others" if knn.protocol == "leave one out" else "test images among train images"
    yield f"{knn.k} nearest neighbours, T = {knn.temperature:g}: {how} ({knn.queries} among {knn.bank})"
    yield from _ranking("", knn.accuracy)


def _linear(linear: Linear) -> Iterator[str]:
    yield ""
    how = "the test part" if linear.protocol == "test part" else "a random fifth"
    yield f"Linear probe, trained on {linear.train} images and tested on {how} ({linear.test})"
    yield from _ranking("SGD: ", linear.sgd)
    if linear.lars:
        yield from _ranking("LARS: ", linear.lars)


def _ranking(name: str, ranking: Ranking) -> Iterator[str]:
    yield _line(f"{name}right at first guess", ranking.top1)
    if ranking.top5 is not None:
        yield _line(f"{name}right within five guesses", ranking.top5)


def _classes(rows: Sequence[ClassScore]) -> Iterator[str]:
    names = [row.name if row.name.isprintable() else repr(row.name)[1:-1] for row in rows]
    width = max(map(len, ("Class", *names)))
    yield ""
    yield f"{'Class':<{width}}  {'images':>7}  {'cluster':>7}  {'recall':>7}  {'precision':>9}"
    for name, row in list(zip(names, rows, strict=True))[:MAX_CLASSES]:
        cluster = "none" if row.cluster is None else row.cluster
        precision = "" if row.precision is None else f"{row.precision:.4f}"
        yield f"{name:<{width}}  {row.images:>7}  {cluster:>7}  {row.recall:>7.4f}  {precision:>9}".rstrip()
    if len(rows) > MAX_CLASSES:
        yield f"and {len(rows) - MAX_CLASSES} more"


def _line(meaning: str, value: float) -> str:
    return f"{meaning:<{_WIDTH}} {value:8.4f}"
