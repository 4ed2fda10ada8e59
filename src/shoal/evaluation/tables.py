"""An evaluation as tables with notes, for the terminal (``as_text``) and the report alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from textwrap import wrap

from shoal.evaluation.result import Baseline, Evaluation, Ranking
from shoal.progress import counted

SCORES = {
    "acc": "Accuracy (one-to-one matching)",
    "purity": "Purity (majority class)",
    "nmi": "NMI (equals V-measure)",
    "ami": "AMI (NMI adjusted for chance)",
    "homogeneity": "Homogeneity",
    "completeness": "Completeness",
    "ari": "ARI (adjusted for chance)",
    "fmi": "FMI (Fowlkes–Mallows)",
}
SIGNALS = {
    "silhouette": "Silhouette (−1 to 1)",
    "davies_bouldin": "Davies–Bouldin (lower is better)",
    "calinski_harabasz": "Calinski–Harabasz (higher is better)",
    "smallest": "Share of the smallest cluster",
    "largest": "Share of the largest cluster",
    "feature_std": "Spread of the features (0: collapsed)",
}
COMPARED = {"acc": "accuracy", "purity": "purity", "nmi": "NMI", "ari": "ARI"}
SHARES = {"acc", "purity", "smallest", "largest"}

MAX_CLASSES = 50
"""Classes printed in the terminal; evaluation.json has all."""

NAME_WIDTH, VALUE_WIDTH = 38, 8
"""Characters of a name and of a value at least, so that the tables of an evaluation stand in line."""

CELL_WIDTH, TEXT_WIDTH = 60, 86
"""Characters of a cell at most, and of a note's lines."""


class Share(float):
    """A fraction of the images, which the report shows as a percentage."""


class Best(str):
    """The best value of a column, which is shown in bold."""

    __slots__ = ()


Cell = float | str | None


@dataclass(frozen=True)
class Row:
    """A name and a value for each column; None where there is none."""

    name: str
    values: Sequence[Cell]


@dataclass(frozen=True)
class Table:
    """Figures with a title, names of the columns, and notes on how to read them."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Row]
    notes: Sequence[str] = ()


def tables(found: Evaluation) -> list[Table]:
    """The tables that terminal and report share; what was not measured has no table."""
    made = (_agreement(found), _merged(found), _comparison(found), _signals(found), _classifiers(found))
    return [table for table in made if table is not None]


def as_text(found: Evaluation) -> str:
    """Every figure of an evaluation, for the terminal; shares are fractions of 1."""
    labelled = "all" if found.labelled == found.images else found.labelled
    summary = f"{counted(found.images, 'image')}, {labelled} labelled, {found.held_out} held out; "
    summary += counted(found.clusters, "cluster")
    more = (_calibration(found), _reliability(found), _classes(found))
    every = [*tables(found), *(table for table in more if table is not None)]
    return "\n\n".join([summary, *("\n".join(text_lines(table, NAME_WIDTH, VALUE_WIDTH)) for table in every)])


def text_lines(table: Table, name_width: int = 0, value_width: int = 0) -> list[str]:
    """A table for the terminal, with columns as wide as they must be, and at least so wide."""
    rows = [[table.title, *table.columns], *([row.name, *map(cell_text, row.values)] for row in table.rows)]
    cut = [[text if len(text) <= CELL_WIDTH else f"{text[: CELL_WIDTH - 1]}…" for text in row] for row in rows]
    name, *values = (max(map(len, column)) for column in zip(*cut, strict=True))
    name, values = max(name, name_width), [max(width, value_width) for width in values]
    found = []
    for first, *others in cut:
        cells = (f"{text:>{width}}" for text, width in zip(others, values, strict=True))
        found.append("  ".join([f"{first:<{name}}", *cells]).rstrip())
    for note in table.notes:
        found += wrap(note, TEXT_WIDTH, break_long_words=False, break_on_hyphens=False)
    return found


def cell_text(value: Cell) -> str:
    """A value as text: numbers with four digits, nothing for none."""
    return "" if value is None else f"{value:.4f}" if isinstance(value, float) else value


def _agreement(found: Evaluation) -> Table | None:
    """Clusters against classes."""
    if not found.scores:
        return None
    split = found.train_to_test
    parts = [found.scores, split.scores] if split else [found.scores]
    # A file of an older version has fewer scores.
    known = {key: name for key, name in SCORES.items() if key in found.scores}
    rows = [Row(name, [_value(part, key) for part in parts]) for key, name in known.items()]
    notes = []
    if split:
        rows.append(Row("Accuracy, matched on the train part", [None, Share(split.accuracy_matched_on_train)]))
        notes.append(
            f"Test: {split.test} images of the test part, assigned to clusters found in the {split.train} images of "
            "the train part alone."
        )
    if unlabelled := found.images - found.labelled:
        notes.append(f"{counted(unlabelled, 'image without a label is', 'images without a label are')} left out.")
    if found.nowhere:
        inside = 1 - found.nowhere / found.labelled
        left_out = counted(found.nowhere, "image that belongs nowhere is", "images that belong nowhere are")
        notes.append(f"{left_out} left out; as errors they would make the accuracy {inside * found.scores['acc']:.4f}.")
    return Table("Clusters against classes", ["all", "test"] if split else ["all"], rows, notes)


def _merged(found: Evaluation) -> Table | None:
    """The clusters, and what they become when they are merged."""
    merged = found.merged
    if merged is None:
        return None
    names = {"acc": "Accuracy, one-to-one", "purity": "Accuracy, many-to-one (purity)", "nmi": "NMI", "ari": "ARI"}
    parts = (found.scores, merged.scores)
    rows = [Row(name, [_value(part, key) for part in parts]) for key, name in names.items() if key in found.scores]
    signals = ("silhouette", "smallest", "largest")
    rows += [Row(SIGNALS[key], [_value(part, key) for part in (found.signals, merged.signals)]) for key in signals]
    note = (
        "One-to-one: each class has one cluster, and the images of other clusters count as wrong. Many-to-one: each "
        "cluster stands for its most frequent class. Merged by Ward's criterion, without labels."
    )
    return Table("Merged clusters", [str(found.clusters), f"to {merged.clusters}"], rows, [note])


def _comparison(found: Evaluation) -> Table | None:
    """The clusters and the plain methods."""
    if not found.baselines:
        return None
    keys = [key for key in COMPARED if key in found.scores]
    own = [Row("These clusters", [*(_value(found.scores, key) for key in keys), None])] if keys else []
    plain = [
        Row(_name(each) + (" *" if each.sampled else ""), [*(_value(each.scores, k) for k in keys), each.agreement])
        for each in found.baselines
    ]
    return Table(
        "Compared with plain methods",
        [*(COMPARED[key] for key in keys), "agreement"],
        [*own, *plain],
        list(_notes_on_baselines(found)),
    )


def _name(plain: Baseline) -> str:
    if (plain.of, plain.method) == ("features", "k-means"):
        return "k-means again, other seeds"  # the clusters are from k-means on the features as well
    on = {"features": "the features", "backbone": "backbone features", "pixels": "pixels"}
    return f"{plain.method} on {on[plain.of]}"


def _notes_on_baselines(found: Evaluation) -> Iterator[str]:
    on_pixels = any(plain.of == "pixels" for plain in found.baselines)
    for size in {plain.sampled for plain in found.baselines if plain.sampled}:
        yield f"* on a random sample of {counted(size, 'image')}."
    for plain in found.baselines:
        if plain.failed:
            yield f"{_name(plain)}: {plain.failed}"
    yield "Agreement: ARI with these clusters; 1 if identical, 0 by chance."
    if found.scores:
        yield "The method is worth its cost if it beats the plain methods on the same features."
        if on_pixels:
            yield "Training is worth its cost if it beats the plain methods on pixels."
    else:
        yield "Where plain methods agree little on the same features, the clusters are unstable: try another number."
        if on_pixels:
            yield "Where they agree much on pixels, training found little that the pixels do not show."


def _signals(found: Evaluation) -> Table | None:
    rows = [Row(SIGNALS[key], [_value(found.signals, key)]) for key in SIGNALS if key in found.signals]
    return Table("Without labels", ["value"], rows) if rows else None


def _classifiers(found: Evaluation) -> Table | None:
    """Nearest neighbours and linear probe."""
    ranked, notes = dict[str, Ranking](), []
    if knn := found.knn:
        ranked[f"{knn.k} nearest neighbours"] = knn.accuracy
        bank = "all others" if knn.protocol == "leave one out" else f"{knn.bank} train images"
        notes.append(
            f"Nearest neighbours: {counted(knn.queries, 'image')}, each among {bank}, T = {knn.temperature:g}."
        )
    if linear := found.linear:
        ranked["Linear probe (SGD)"] = linear.sgd
        if linear.lars:
            ranked["Linear probe (LARS)"] = linear.lars
        part = "the test part" if linear.protocol == "test part" else "a random fifth"
        notes.append(f"Linear probe: trained on {linear.train} images, tested on {part} ({linear.test} images).")
    rows = [
        Row(name, [Share(each.top1), None if each.top5 is None else Share(each.top5)]) for name, each in ranked.items()
    ]
    return Table("Classifiers on the features", ["top-1", "top-5"], rows, notes) if rows else None


def _calibration(found: Evaluation) -> Table | None:
    """Of the terminal; the report draws it."""
    if not (calibration := found.calibration):
        return None
    rows = [
        Row("Mean confidence", [calibration.confidence]),
        Row("Share in the matched class", [calibration.accuracy]),
        Row("Expected calibration error", [calibration.error]),
    ]
    if calibration.adaptive_error is not None:
        rows.append(Row("The same, bins of equal size", [calibration.adaptive_error]))
    return Table("Calibration", ["value"], rows, [])


def _reliability(found: Evaluation) -> Table | None:
    """Of the terminal; the report draws it."""
    if not (calibration := found.calibration):
        return None
    rows = [
        Row(f"{each.low:.2f} to {each.high:.2f}", [str(each.images), each.confidence, each.accuracy])
        for each in calibration.bins
    ]
    return Table("Confidence", ["images", "mean", "correct"], rows, [])


def _classes(found: Evaluation) -> Table | None:
    """Of the terminal; the report links its rows to the clusters."""
    if not found.classes:
        return None
    rows = [
        Row(
            row.name if row.name.isprintable() else repr(row.name)[1:-1],
            [str(row.images), "none" if row.cluster is None else str(row.cluster), row.recall, row.precision],
        )
        for row in found.classes[:MAX_CLASSES]
    ]
    left_out = len(found.classes) - len(rows)
    notes = [f"and {left_out} more"] if left_out else []
    return Table("Class", ["images", "cluster", "recall", "precision"], rows, notes)


def _value(figures: dict[str, float], key: str) -> Cell:
    value = figures.get(key)
    return Share(value) if value is not None and key in SHARES else value
