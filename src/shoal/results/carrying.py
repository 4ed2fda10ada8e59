"""A person's decisions, carried on to the images that an update has found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Int64

from shoal.decisions.log import Decision, DecisionLog, effective
from shoal.files import atomic_write
from shoal.results.decided import Learned
from shoal.results.result import Result
from shoal.results.rows import Assignments, assign_rows
from shoal.results.tables import as_utf8, write_assignments


def carry_decisions(
    before: Result, after: Result, clustered: Assignments, was: Int64[np.ndarray, "n"], renames: Mapping[str, str]
) -> Result:
    """Stage the decisions of a result for what an update has made of it.

    Decisions on images that have another name follow them; those on images that are gone or have other content lapse.
    New images go where the present model puts them.

    Args:
        before: the result that is updated.
        after: the same with the present images, in the folder of the update.
        clustered: assignments of these without any decision.
        was: the image that each one was, −1 for a new one.
        renames: new names of images, by their old ones.

    Returns:
        ``after``, with the decisions.

    Raises:
        UserError: a decision cannot be read or followed, or the folder cannot be written.
    """
    assert after.embedded is not None  # images were updated
    folder, ids = after.folder, [as_utf8(name) for name in after.embedded.ids]
    write_assignments(clustered, ids, folder.clustered, names=before.clustered[2])
    decisions = DecisionLog(before.folder.decisions)
    steps = effective(decisions.read()[0])
    atomic_write(folder.decisions, decisions.content())
    kept = set(was[was >= 0].tolist())
    gone = [name for row, name in enumerate(before.table_ids) if row not in kept]
    lines: list[Decision] = [{"do": "gone", "images": gone}] if gone else []
    lines += [{"do": "renamed", "images": dict(renames)}] if renames else []
    log = DecisionLog(folder.decisions)
    log.append(lines)
    for name in {step["file"] for step in steps if step["do"] == "learn"}:
        _carry_learned(before, after, was, name)
    carried = replace(after)  # reads the decisions anew
    new = torch.from_numpy(np.flatnonzero(was < 0))
    if not len(new):
        return carried
    assert carried.decided is not None
    model, labels = carried.model, torch.from_numpy(carried.decided.replayed.labels)
    found = model.numbers_of(assign_rows(after.features[new], model, model.centers, after.metric).labels)
    placed = {ids[row]: own for row, own in zip(new.tolist(), found.tolist(), strict=True) if own != labels[row]}
    if not placed:
        return carried
    log.append([{"do": "placed", "images": placed}])
    return replace(after)


def _carry_learned(before: Result, after: Result, was: Int64[np.ndarray, "n"], name: str) -> None:
    """Stage what was learned, for the present images."""
    old = Learned.load(before.folder.path / name, len(before.table_ids))
    index = torch.from_numpy(was)
    new = (index < 0).nonzero()[:, 0]
    labels, confidence = old.labels[index.clamp(min=0)], old.confidence[index.clamp(min=0)]
    if len(new):
        shares = torch.as_tensor(old.clusterer.predict_proba(after.features[new]))
        top = shares.max(1)
        labels[new], confidence[new] = torch.tensor(old.known)[top.indices], top.values.float()
    replace(old, labels=labels, confidence=confidence).save(after.folder.path / name)
