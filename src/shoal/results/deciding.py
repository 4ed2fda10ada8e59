"""Decisions of a person on a result: checked, kept, and taken from files that others have edited."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch

from shoal.decisions.log import Decision, DecisionLog
from shoal.decisions.replay import Replayed
from shoal.errors import UserError
from shoal.files import atomic_write
from shoal.results.decided import decided
from shoal.results.edited import Edited
from shoal.results.result import Result

MOST_SKIPPED = 10_000
"""Numbers that an edited file may leave out."""


def record(result: Result, decisions: Sequence[Decision]) -> Result:
    """Keep decisions; they are on the disk when this returns. The caller holds the folder (``ResultFolder.alone``).

    Returns:
        The result with them; tables and report are as they were.

    Raises:
        UserError: a decision cannot be followed, or the folder cannot be written.
    """
    folder, log = result.folder, DecisionLog(result.folder.decisions)
    replayed_with(result, decisions)  # so that what is kept can be followed
    if not folder.clustered.exists():
        atomic_write(folder.clustered, folder.assignments.read_bytes())
    log.append(decisions)
    return replace(result)


def replayed_with(result: Result, decisions: Sequence[Decision]) -> Replayed:
    """What decisions would make of a result; nothing is kept.

    Raises:
        UserError: one of them cannot be followed.
    """
    ids, base, names = result.clustered
    return decided(result.folder, base, len(result.centers), names, ids, decisions).replayed


def decisions_of(edited: Edited, result: Result) -> list[Decision]:
    """Decisions that make of a result what was edited on a copy of its report.

    A cluster all of whose images are to be in another is merged with it. Where the report showed a sample, the other
    images follow their cluster.

    Raises:
        UserError: an image or a cluster of the file is none of the result's.
    """
    labels = result.labels
    present = result.model.numbers.tolist()
    ever = result.decided.replayed.into if result.decided else {number: number for number in present}
    odd = sorted({*edited.clusters} - {*ever})
    if odd:
        raise UserError(f"cluster {odd[0]} is in the edited file and not in the clustering: export it again.")
    goal = edited.apply(result.table_ids, labels)
    goal = torch.tensor([ever.get(number, number) for number in goal.tolist()])  # merged since the file was made
    found: list[Decision] = []
    into: dict[int, int] = {}
    for number in present:
        goals = torch.unique(goal[labels == number]).tolist()
        if number in edited.clusters:
            into[number] = ever.get(edited.clusters[number], edited.clusters[number])
        elif len(goals) == 1:
            into[number] = goals[0]
    # A cluster whose number others take can only give its images: once merged, it would stand for where these went.
    taken = {*goal.tolist()}
    into = {number: target for number, target in into.items() if target == number or number not in taken}
    merged: dict[int, list[int]] = {}
    for number, target in into.items():
        if target not in (number, -1):
            merged.setdefault(target, []).append(number)
    known = {*present}
    _check_new(taken - {*ever}, 1 + max(ever))
    for target, sources in merged.items():
        if target not in known:  # a number that a person has made up: the first cluster that it takes gets it
            found.append({"do": "new", "cluster": target, "images": [], "name": ""})
        found.append({"do": "merge", "clusters": sources, "into": target})
    moved = np.array([into.get(number, number) if number >= 0 else -1 for number in labels.tolist()])
    moved[moved < 0] = labels.numpy()[moved < 0]
    return (
        found
        + _moves(result.table_ids, moved, goal.numpy(), known | {*merged})
        + _renames({own: name for own, name in edited.names.items() if ever.get(own, own) == own}, result.names)
    )


def _check_new(numbers: set[int], free: int) -> None:
    """Raise a UserError for new clusters with numbers so high that tables of all numbers would not fit anywhere."""
    odd = max(numbers, default=-1)
    if odd >= free + MOST_SKIPPED:
        raise UserError(
            f"cluster {odd} of the edited file is new, and its number is far too high: new clusters have numbers from "
            f"{free} on; write {free} there."
        )


def _moves(ids: Sequence[str], now: np.ndarray, goal: np.ndarray, known: set[int]) -> list[Decision]:
    """Images that are to be in another cluster than they are in now."""
    found: list[Decision] = []
    apart = np.flatnonzero(now != goal)
    for target in np.unique(goal[apart]).tolist():
        images = [ids[row] for row in apart[goal[apart] == target].tolist()]
        if target in known or target < 0:
            found.append({"do": "move", "images": images, "cluster": target})
        else:
            found.append({"do": "new", "cluster": target, "images": images, "name": ""})
    return found


def _renames(names: Mapping[int, str], before: Mapping[int, str]) -> list[Decision]:
    """Clusters that have another name."""
    return [
        {"do": "rename", "cluster": cluster, "name": name}
        for cluster, name in names.items()
        if cluster >= 0 and name != before.get(cluster, "")
    ]
