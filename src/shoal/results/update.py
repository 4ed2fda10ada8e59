"""``shoal update``: images that have come, changed or gone are taken into a result, whose clusters stay as they are."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Bool, Int64, UInt8
from torch import Tensor
from torch.nn.functional import interpolate

from shoal import distributed, job
from shoal.clustering.maps import MAX_ROWS, place_among
from shoal.clustering.rows import subsample
from shoal.data.greys import Ranges, Scale, describe
from shoal.data.listing import Listing, Source, others_of
from shoal.data.reach import LostError, Reach
from shoal.data.reading import map_rows, read_blob, read_pixels
from shoal.data.unread import reading_notes
from shoal.errors import UserError
from shoal.features import Embedded
from shoal.features.matching import Matched, known_rows, match_once
from shoal.files import atomic_write
from shoal.folder import ResultFolder
from shoal.progress import Progress
from shoal.results.atlas import decode, encode, read_encoded
from shoal.results.carrying import carry_decisions
from shoal.results.changes import none_left
from shoal.results.cluster_images import config_of
from shoal.results.far import Reference
from shoal.results.finish import Outcome, write_files
from shoal.results.inputs import Inputs
from shoal.results.networks import embed_more
from shoal.results.places import Places, places_of
from shoal.results.result import Result
from shoal.results.rows import Assignments, assign_rows
from shoal.results.tables import as_utf8, read_csv, unread, write_columns, write_skipped
from shoal.types import Others

COLUMNS = ("update", "change", "id", "was", "cluster", "far")
"""Of ``changes.csv``."""


@dataclass(frozen=True)
class Updated:
    """Summary of an update; ``n_clusters`` is what the far images suggest, None where they suggest nothing."""

    n_new: int
    n_changed: int
    n_renamed: int
    n_gone: int
    n_far: int
    n_usual: float
    n_clusters: int | None
    outcome: Outcome


@dataclass(frozen=True, eq=False)
class _Step:
    """Images before and after: ``was`` is the image that each one was, −1 for one that has been embedded now."""

    before: Result
    after: Embedded
    matched: Matched
    was: Int64[np.ndarray, "n"]
    listing: Listing
    others: Others

    @property
    def joined(self) -> Int64[Tensor, "m"]:
        """Images that have been embedded now."""
        return torch.from_numpy(np.flatnonzero(self.was < 0))


def update(result: Result, given: str | None, progress: Progress, *, strict: bool) -> Updated | None:
    """Embed what is new or changed, put it into the existing clusters, and leave out what is gone.

    Everything else stays as it is, to the last bit. The new files are made ready beside the old ones and put in their
    place together, so that an interrupted update leaves the old result, and the next call resumes it. The processes of
    a job call it together and embed together; the first alone does the rest.

    Args:
        result: finished.
        given: a source that joins those of the result, or is their new place; None looks at the old ones again.
        progress: reports progress.
        strict: whether to fail on the first new image that cannot be read instead of skipping it.

    Returns:
        What has changed; None if nothing has, and in processes other than the first.

    Raises:
        UserError: features were clustered and not images; the images or the network are gone; none of the images is
            there; another process is at it; the disk is full.
    """
    embedded = result.embedded
    if embedded is None:
        raise UserError(f"{result.folder.path} holds clusters of features, not of images: cluster all of them again.")
    first = distributed.is_first()
    with distributed.only_first(result.folder.alone()):
        places = Places.from_json(job.of_first(lambda: places_of(result, given).as_json()))
        images = places.images(result)
        matched = match_once(embedded, images, result.prepare)
        if not len(matched.there):
            raise none_left(result)
        others = others_of(images)
        if job.of_first(lambda: str(_is_done(result, places, matched, images))) == str(True):
            if first:
                _keep_skipped(result.folder, embedded, others)
            return None
        staged = result.folder.staged()
        after = embed_more(
            result,
            images,
            staged.features,
            matched=matched,
            ranges=embedded.ranges,
            strict=strict,
            progress=progress,
        )
        if not first:
            return None
        for line in reading_notes(after.skipped, after.notes, len(after.ids)):
            progress.warn(line)
        if after.ranges != embedded.ranges and (shown := describe(after.ranges)):
            progress.say(f"range        {shown}")
        was = known_rows(matched, len(images.listing().ids))[after.rows.numpy()]
        step = _Step(result, after, matched, was, images.listing(), others)
        stayed = list(after.ids) == list(embedded.ids) and np.array_equal(was, np.arange(len(was)))
        if stayed and places == places_of(result, None):
            _keep_skipped(result.folder, after, others)
            shutil.rmtree(staged.path)  # what could not be read before cannot be read now
            return None
        return _finish(step, places, staged)


def _is_done(result: Result, places: Places, matched: Matched, images: Source) -> bool:
    """Whether there is nothing to do; whatever stands in the way is reported before anything is embedded.

    Raises:
        UserError: a drive has gone away, or somebody has changed the table of changes.
    """
    _check_reach(result, matched, images.listing())
    done = _is_same(result, places, matched, images.listing())
    if not done:
        _earlier_changes(result.folder)
    return done


def _keep_skipped(folder: ResultFolder, embedded: Embedded, others: Others) -> None:
    """Write anew which files are not read, where that alone has changed."""
    write_skipped(unread(embedded, others), folder.skipped)


def _finish(step: _Step, places: Places, staged: ResultFolder) -> Updated:
    before, new, matched = step.before, step.joined, step.matched
    found = _assigned(step)
    reference = before.reference or _reference(before)
    far = torch.zeros(len(found.labels), dtype=torch.bool)
    far[new] = reference.are_far(found.labels[new], found.distance[new])
    n_far = int(far.sum())
    unusual = reference.is_unusual(n_far, len(new))
    groups = reference.n_groups(step.after.features[far], found.labels[far], before.metric) if unusual else 0
    result = _updated_result(step, places, staged, reference)
    if before.decided is not None:
        result = carry_decisions(before, result, found, step.was, _renames(step))
        found = result.assignments
    _write_changes(step, found, far, staged.changes)
    inputs = Inputs.of_images(step.after, staged.features, before.encoder, _Pictures(step), places.source, step.others)
    inputs = replace(inputs, root=places.root, joined=places.joined)
    outcome = write_files(result, inputs, found, before.names)
    folder = before.folder
    stale = [folder.evaluation, folder.graph, *([] if staged.skipped.exists() else [folder.skipped])]
    folder.put_in_place([path for path in stale if path.exists()])
    n_changed = int(np.isin(np.flatnonzero(step.was < 0), _changed_places(step)).sum())
    return Updated(
        n_new=len(new) - n_changed,
        n_changed=n_changed,
        n_renamed=int(matched.renamed.sum()),
        n_gone=len(_vanished(step)),
        n_far=n_far if unusual else 0,
        n_usual=reference.share * len(new),
        n_clusters=len(before.centers) + groups if groups else None,
        outcome=outcome,
    )


def _reference(result: Result) -> Reference:
    """What was far from its centre when the images were clustered."""
    found = result.clustered[1]
    return Reference.of(found.labels, found.distance, len(result.centers), result.metric)


def _updated_result(step: _Step, places: Places, staged: ResultFolder, reference: Reference) -> Result:
    """The clustering with the present images, and the settings of the result in the staged folder."""
    before = step.before
    flags = {
        name: _extended(flag, step.was, default=name == "clustered") for name, flag in (before.flags or {}).items()
    }
    result = replace(
        before,
        folder=staged,
        source=places.source,
        root=places.root,
        joined=places.joined,
        features_at=staged.features.absolute(),
        flags=flags,
        reference=reference,
    )
    _copy_settings(before, result)
    return result


def _check_reach(result: Result, matched: Matched, listing: Listing) -> None:
    """Tell images that were deleted from a drive that has gone away since it was listed.

    Raises:
        LostError: it has.
    """
    gone = {result.ids[i] for i in np.flatnonzero(matched.gone).tolist()}
    place = next((i for i, name in enumerate(listing.ids) if name in gone), None) if gone else None
    if place is None:
        return
    reach, reason = Reach(listing), os.strerror(errno.ENOENT).lower()
    for row in matched.rows[matched.there[[0, -1]]].tolist():
        reach.saw(row)
    if reach.is_lost(place, reason):
        raise LostError(listing.ids[place], reason)


def _is_same(result: Result, places: Places, matched: Matched, listing: Listing) -> bool:
    """Whether there is nothing to do, and nothing that could not be read before."""
    assert result.embedded is not None
    whole = len(matched.there) == len(listing.ids) == len(matched.rows)
    return whole and not matched.renamed.any() and places == places_of(result, None)


def _assigned(step: _Step) -> Assignments:
    """Those of before, and for each new image its cluster and a place on the map among the others."""
    before, features, new = step.before, step.after.features, step.joined
    old = before.clustered[1]
    assert old.positions is not None
    kept = torch.from_numpy(step.was).clamp(min=0)
    found = old[kept]  # a copy
    if not len(new):
        return found
    fresh = assign_rows(features[new], before.posterior, before.centers, before.metric)
    assert found.positions is not None
    for mine, theirs in (
        (found.labels, fresh.labels),
        (found.confidence, fresh.confidence),
        (found.distance, fresh.distance),
        (found.margin, fresh.margin),
    ):
        mine[new] = theirs.to(mine.dtype)
    guides = torch.from_numpy(step.matched.there)
    guides = guides[subsample(len(guides), MAX_ROWS, torch.Generator().manual_seed(before.seed))]
    rows = before.features[guides]
    found.positions[new] = place_among(rows, old.positions[guides], features[new], metric=before.metric)
    return found


def _extended(flag: Bool[Tensor, "m"], was: Int64[np.ndarray, "n"], *, default: bool) -> Bool[Tensor, "n"]:
    index = torch.from_numpy(was)
    return torch.where(index >= 0, flag[index.clamp(min=0)], torch.tensor(default))


def _renames(step: _Step) -> dict[str, str]:
    """Images that have another name now."""
    places = {was: i for i, was in enumerate(step.was.tolist()) if was >= 0}
    names, ids = step.before.table_ids, step.after.ids
    return {names[was]: as_utf8(ids[places[was]]) for was in np.flatnonzero(step.matched.renamed).tolist()}


class _Pictures:
    """Thumbnails: those of the old report as they are, and others of the same size."""

    def __init__(self, step: _Step) -> None:
        self.step = step

    def __call__(self, index: Int64[Tensor, "m"], _edge: int) -> list[bytes]:
        step = self.step
        known, encoded = read_encoded(step.before.folder.atlas)
        kept, names = dict(zip(known, encoded, strict=True)), step.before.table_ids
        was = step.was[index.numpy()].tolist()
        found = [kept.get(names[i], b"") if i >= 0 else b"" for i in was]
        lacking = [place for place, image in enumerate(found) if not image]
        if lacking:
            height, width = decode(encoded[0]).shape[1:]
            rows = step.after.rows[index[lacking]].tolist()
            pixels = _thumbnails(step.before, step.listing, rows, (height, width), step.after.ranges)
            for place, image in zip(lacking, pixels, strict=True):
                found[place] = encode(image, max(height, width))
        return found


def _thumbnails(
    result: Result, listing: Listing, rows: list[int], size: tuple[int, int], ranges: Ranges
) -> UInt8[Tensor, "m 3 h w"]:
    if size[0] == size[1]:
        return read_pixels(listing, rows, size[0], ranges)
    prepare = result.network.prepare  # of a run on images that are not square: all have its size
    order = sorted(set(rows))
    with contextlib.closing(map_rows(lambda blob: read_blob(blob)[0], listing, order)) as contents:
        pixels = {
            row: torch.from_numpy(prepare(data, Scale(ranges)))
            for row, data in zip(order, contents, strict=True)
            if not isinstance(data, str)
        }
    grey = torch.full((3, *result.network.input_size), 128, dtype=torch.uint8)
    whole = torch.stack([pixels.get(row, grey) for row in rows]).float()
    return interpolate(whole, size=size, mode="bilinear", antialias=True).round().to(torch.uint8)


def _copy_settings(before: Result, result: Result) -> None:
    """What the report reads beside the tables."""
    folder = result.folder
    if before.folder.is_run:
        for path in (before.folder.config, before.folder.metrics):
            if path.exists():
                atomic_write(folder.path / path.name, path.read_bytes())
    else:
        atomic_write(folder.config, config_of(result).encode())


def _vanished(step: _Step) -> list[int]:
    """Images that are not there any more: nothing has their name, or another image has it, which had one of its own."""
    matched, ids = step.matched, step.before.ids
    taken = {step.listing.ids[row] for row in matched.rows[matched.renamed].tolist()}
    overwritten = [i for i in np.flatnonzero(matched.changed).tolist() if ids[i] in taken]
    return sorted([*np.flatnonzero(matched.gone).tolist(), *overwritten])


def _changed_places(step: _Step) -> Int64[np.ndarray, "c"]:
    """Images, by their number now, that have the name of one with another content."""
    embedded = step.before.embedded
    assert embedded is not None
    names = {embedded.ids[i] for i in np.flatnonzero(step.matched.changed).tolist()}
    new = step.joined.tolist()
    return np.array([i for i in new if step.after.ids[i] in names], dtype=np.int64)


def _earlier_changes(folder: ResultFolder) -> list[tuple[str, ...]]:
    """What earlier updates have found.

    Raises:
        UserError: somebody has changed the columns of the table, which would be lost.
    """
    try:
        return [*read_csv(folder.changes, *COLUMNS, whole=True)]
    except UserError as error:
        raise UserError(
            f"{folder.changes} is not the table that 'shoal update' writes and adds to, with the columns "
            f"{','.join(COLUMNS)}: rename it to keep it, or give it these columns again."
        ) from error


def _write_changes(step: _Step, found: Assignments, far: Bool[Tensor, "n"], path: Path) -> None:
    """Add the changes of this update to those of earlier ones."""
    before, after = step.before, step.after
    assert before.embedded is not None
    rows = _earlier_changes(before.folder)
    number = str(1 + max((int(row[0]) for row in rows if row[0].isdecimal()), default=0))
    replaced = set(_changed_places(step).tolist())
    for i in step.joined.tolist():
        change = "changed" if i in replaced else "new"
        rows.append((number, change, after.ids[i], "", str(int(found.labels[i])), "yes" if far[i] else "no"))
    renamed = np.flatnonzero((step.was >= 0) & step.matched.renamed[step.was])
    for i in renamed[np.argsort(step.was[renamed])].tolist():
        was = int(step.was[i])
        rows.append((number, "renamed", after.ids[i], before.ids[was], str(int(found.labels[i])), ""))
    changed = {before.ids[was]: was for was in np.flatnonzero(step.matched.changed).tolist()}
    if changed:
        for name in after.ids:
            changed.pop(name, None)
    lost = [*((was, "vanished") for was in _vanished(step)), *((was, "unreadable") for was in changed.values())]
    labels = before.assignments.labels
    rows += [(number, change, before.ids[was], "", str(int(labels[was])), "") for was, change in lost]
    columns = zip(*rows, strict=True) if rows else [[] for _ in COLUMNS]
    texts = {name: [as_utf8(each) for each in values] for name, values in zip(COLUMNS, columns, strict=True)}
    write_columns(path, {name: (pa.string(), values) for name, values in texts.items()})
