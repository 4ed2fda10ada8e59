"""Runs side by side: means over seeds, paired differences, what differs, and what is chosen without labels.

Runs whose settings differ in the seed alone are one variant. Differences between variants are taken seed by seed, which
cancels what a seed has in common (images' order, views, first weights), and get a t interval.
"""

from __future__ import annotations

import itertools
import json
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scipy.stats import t as student

from shoal.clustering.contingency import adjusted_rand
from shoal.errors import UserError
from shoal.evaluation import collapse_warning
from shoal.folder import ResultFolder
from shoal.progress import counted
from shoal.results.figures import LABELLED, Figures, read_figures
from shoal.sweeps.folder import Member, SweepFolder

LEVEL = 0.95
"""Of the intervals."""

SHOWN = {"acc": "ACC", "nmi": "NMI", "ari": "ARI", "silhouette": "silhouette", "loss": "loss"}
LOWER_IS_BETTER = ("loss",)

MISSING = "–"


@dataclass(frozen=True)
class Stat:
    """A figure over the runs of a variant."""

    mean: float
    std: float | None
    """Sample standard deviation; None of a single run."""
    best: float
    n: int

    @classmethod
    def of(cls, values: Sequence[float], *, lower: bool = False) -> Stat:
        """Of one value or more."""
        spread = statistics.stdev(values) if len(values) > 1 else None
        return cls(statistics.fmean(values), spread, min(values) if lower else max(values), len(values))


@dataclass(frozen=True)
class Difference:
    """Mean difference from the first variant, over the seeds that both have, with its t interval."""

    mean: float
    low: float | None
    high: float | None
    n: int

    @classmethod
    def of(cls, pairs: Sequence[tuple[float, float]]) -> Difference:
        """Second minus first of one pair or more; a single pair has no interval."""
        values = [after - before for before, after in pairs]
        mean, n = statistics.fmean(values), len(values)
        if n < 2:
            return cls(mean, None, None, n)
        half = float(student.ppf((1 + LEVEL) / 2, n - 1)) * statistics.stdev(values) / math.sqrt(n)
        return cls(mean, mean - half, mean + half, n)


@dataclass(frozen=True, eq=False)
class Variant:
    """Runs that differ in the seed alone."""

    label: str
    runs: Sequence[Figures]
    """In the order of their seeds."""
    stats: Mapping[str, Stat]
    differences: Mapping[str, Difference]
    """From the first variant; empty of itself, and where the images differ."""
    agreement: float | None
    """Mean adjusted Rand index between the clusters of two seeds: how stable they are. None of a single run."""
    chosen: Figures
    """The run that its training signal chooses."""
    chosen_by: str


@dataclass(frozen=True, eq=False)
class Comparison:
    """What a comparison shows."""

    title: str
    variants: Sequence[Variant]
    measured: Sequence[str]
    """Figures that any run has, in the order of ``SHOWN``."""
    comparable: Sequence[str]
    """Those of them that can be compared between variants."""
    settings: Mapping[str, Sequence[Any]]
    """Settings that differ, and the value of each variant; ``MISSING`` where it has none."""
    chosen: Variant | None
    """The variant that is chosen without labels."""
    choice: str
    """Why, or why none is."""
    notes: Sequence[str] = ()


@dataclass
class _Found:
    """Results that are compared, and what is known of them from sweeps."""

    figures: list[Figures] = field(default_factory=list)
    members: dict[Path, Member] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def compare(paths: Sequence[Path]) -> Comparison:
    """Compare results, and the finished runs of sweeps; damaged ones are left out and named.

    Raises:
        UserError: a result is not finished or is given twice, a sweep has no finished run, or all are damaged.
    """
    found = _read(paths)
    groups = _groups(found)
    labels = _labels(groups, found.members)
    notes = [*found.notes, *_notes_on_data(groups, labels)]
    same = all(run.images.is_same(found.figures[0].images) for run in found.figures)
    measured = [name for name in SHOWN if any(name in run.scores for run in found.figures)]
    comparable = [name for name in measured if name in LABELLED or (name == "silhouette" and _same_features(found))]
    compared = comparable if same else []
    variants = [
        _variant(label, runs, groups[0], measured, compared) for label, runs in zip(labels, groups, strict=True)
    ]
    chosen, choice = _choose(variants, same=same)
    return Comparison(
        title=paths[0].resolve().name if len(paths) == 1 else counted(len(found.figures), "result"),
        variants=variants,
        measured=measured,
        comparable=comparable,
        settings=_differing(groups),
        chosen=chosen,
        choice=choice,
        notes=notes,
    )


def _read(paths: Sequence[Path]) -> _Found:
    found = _Found()
    seen: set[Path] = set()
    damaged: list[str] = []
    for folder, member in (each for path in paths for each in _finished(path, found.notes)):
        if folder.resolve() in seen:
            raise UserError(f"{folder} is given twice: each result counts once.")
        seen.add(folder.resolve())
        try:
            found.figures.append(_whole_figures(folder))
        except UserError as error:
            if not ResultFolder(folder).is_finished:  # a wrong path
                raise
            damaged.append(f"{folder} is damaged and left out: {error}")
            continue
        if member is not None:
            found.members[folder] = member
    if not found.figures:
        raise UserError(" ".join(["no result can be compared.", *damaged]))
    found.notes += damaged
    return found


def _finished(path: Path, notes: list[str]) -> Iterator[tuple[Path, Member | None]]:
    """The finished runs of a sweep, or the one result in a folder; ``notes`` are told which runs are left out."""
    sweep = SweepFolder(path)
    if not sweep.is_sweep:
        yield path, _member_at(path)
        return
    members = sweep.members()
    done = [member for member in members if sweep.run(member.name).is_finished]
    left_out = [member.name for member in members if member not in done]
    if not done:
        raise UserError(f"{path} holds a sweep without a finished run: give its 'shoal sweep' command again.")
    if left_out:
        names = ", ".join(left_out[:3]) + (f" and {len(left_out) - 3} more" if len(left_out) > 3 else "")
        n, are = counted(len(members), "run"), "is" if len(left_out) == 1 else "are"
        notes.append(f"{len(left_out)} of {n} of {path} {are} not finished and left out: {names}.")
    yield from ((path / member.name, member) for member in done)


def _whole_figures(path: Path) -> Figures:
    """The figures of a result, once all that a comparison reads of it has been read.

    Raises:
        UserError: something in its folder is damaged.
    """
    figures = read_figures(path)
    _ = figures.images, figures.labels, figures.result.decided
    return figures


def _member_at(path: Path) -> Member | None:
    """A run as the sweep that it lies in names it; None if it lies in none."""
    sweep = SweepFolder(path.resolve().parent)
    if not sweep.is_sweep:
        return None
    try:
        members = sweep.members()
    except UserError:  # only a name for the run is lost
        return None
    return next((member for member in members if member.name == path.resolve().name), None)


def _groups(found: _Found) -> list[list[Figures]]:
    """Runs that differ in the seed alone, in the order of their seeds; copies of a run count once."""
    groups: dict[str, dict[int, Figures]] = {}
    for run in found.figures:
        own = groups.setdefault(json.dumps(run.settings, sort_keys=True, default=str), {})
        if run.seed in own:
            found.notes.append(f"{run.path} has the settings and the seed of {own[run.seed].path}, and is left out.")
            continue
        own[run.seed] = run
    return [[own[seed] for seed in sorted(own)] for own in groups.values()]


def _differing(groups: Sequence[Sequence[Figures]]) -> dict[str, list[Any]]:
    """Settings that differ between variants, with the value of each."""
    every = [group[0].settings for group in groups]
    keys = dict.fromkeys(key for settings in every for key in settings)
    values = {key: [settings.get(key, MISSING) for settings in every] for key in keys}
    return {key: each for key, each in values.items() if any(value != each[0] for value in each)}


def _labels(groups: Sequence[Sequence[Figures]], members: Mapping[Path, Member]) -> list[str]:
    """What each variant is called: by its sweep, or by its folder, or by what differs."""
    known = [members.get(group[0].path) for group in groups]
    if all(member is not None for member in known):
        labels = _labels_of_sweep([member for member in known if member is not None])
    elif all(len(group) == 1 for group in groups):
        labels = [group[0].path.resolve().name for group in groups]
    else:
        differing = list(_differing(groups).items())
        everywhere = [(key, values) for key, values in differing if MISSING not in values][:3]
        labels = [
            ", ".join([group[0].method, *(f"{key} {values[i]}" for key, values in everywhere if key != "method.name")])
            for i, group in enumerate(groups)
        ]
    if len(set(labels)) == len(labels):
        return labels
    return [str(group[0].path) for group in groups]


def _labels_of_sweep(members: Sequence[Member]) -> list[str]:
    recipes = {member.recipe for member in members}
    keys = dict.fromkeys(key for member in members for key in member.settings)
    varied = [key for key in keys if len({json.dumps(member.settings.get(key)) for member in members}) > 1]
    labels = []
    for member in members:
        parts = [f"{key} {member.settings[key]}" for key in varied if key in member.settings]
        labels.append(", ".join([member.recipe, *parts] if len(recipes) > 1 or not parts else parts))
    return labels


def _notes_on_data(groups: Sequence[Sequence[Figures]], labels: Sequence[str]) -> list[str]:
    notes = []
    decided = [label for label, group in zip(labels, groups, strict=True) if any(run.result.decided for run in group)]
    if decided:
        notes.append(f"Clusters as they were found, before the decisions on {', '.join(decided)}.")
    notes += [
        f"Of {label} {'up to ' if len(group) > 1 else ''}{share:.1%} of the images are in no cluster: its scores are "
        "of the others alone."
        for label, group in zip(labels, groups, strict=True)
        if (share := max(map(_nowhere, group)))
    ]
    first = groups[0][0].images
    others = [
        f"{label} ({group[0].images.n})"
        for label, group in zip(labels, groups, strict=True)
        if not all(run.images.is_same(first) for run in group)
    ]
    if others:
        notes.append(
            f"Other images than those of {labels[0]} ({first.n}): {', '.join(others)}. Figures stand side by side, and "
            "no differences are taken."
        )
    return notes


def _nowhere(run: Figures) -> float:
    """Share of the images that are in no cluster."""
    return float((run.labels < 0).float().mean())


def _same_features(found: _Found) -> bool:
    """Whether all results are clusterings of the same features, whose silhouettes can be compared."""
    results = [run.result for run in found.figures]
    made_by = {None if result.encoder is None else result.encoder.digest for result in results}
    return len(made_by) == 1 and not any(result.folder.is_run for result in results)


def _variant(
    label: str,
    runs: Sequence[Figures],
    first: Sequence[Figures],
    measured: Sequence[str],
    compared: Sequence[str],
) -> Variant:
    values = {name: [run.scores[name] for run in runs if name in run.scores] for name in measured}
    differences = {}
    before = {run.seed: run.scores for run in first}
    paired = [(before[run.seed], run.scores) for run in runs if run.seed in before and runs is not first]
    for name in compared:
        pairs = [(one[name], two[name]) for one, two in paired if name in one and name in two]
        if pairs:
            differences[name] = Difference.of(pairs)
    chosen, by = _chosen_run(runs)
    return Variant(
        label,
        runs,
        {name: Stat.of(each, lower=name in LOWER_IS_BETTER) for name, each in values.items() if each},
        differences,
        _agreement(runs),
        chosen,
        by,
    )


def _agreement(runs: Sequence[Figures]) -> float | None:
    """Mean adjusted Rand index over pairs of runs of the same images."""
    pairs = [(a, b) for a, b in itertools.combinations(runs, 2) if a.images.is_same(b.images)]
    return statistics.fmean(adjusted_rand(a.labels, b.labels) for a, b in pairs) if pairs else None


def _chosen_run(runs: Sequence[Figures]) -> tuple[Figures, str]:
    """The run with the lowest final loss, which seeds of one variant share; clusterings by their silhouette."""
    if len(runs) == 1:
        return runs[0], "the only one"
    if all("loss" in run.scores for run in runs):
        return min(runs, key=lambda run: run.scores["loss"]), "lowest final loss"
    return max(runs, key=lambda run: run.scores["silhouette"]), "highest silhouette"


def _choose(variants: Sequence[Variant], *, same: bool) -> tuple[Variant | None, str]:
    """The variant whose seeds agree best, and why; or None, and why not."""
    if len(variants) == 1:
        return variants[0], "the only variant"
    if not same:
        return None, "no variant is chosen: the images differ"
    if any(variant.agreement is None for variant in variants):
        return None, "no variant is chosen: their seeds' agreement tells, which takes two seeds or more of each"
    numbers = {len(run.result.centers) for variant in variants for run in variant.runs}
    sound = [v for v in variants if not any(collapse_warning(run.scores) for run in v.runs)]
    if not sound:
        return None, "no variant is chosen: all have collapsed"
    best = max(sound, key=lambda variant: variant.agreement or 0.0)
    why = "seeds agree best (mean adjusted Rand index between their clusters)"
    why += "; numbers of clusters differ, and fewer agree more easily" if len(numbers) > 1 else ""
    return best, why
