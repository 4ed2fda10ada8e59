"""Writes what both engines end in: tables, map, report, and the clustering itself."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from shoal import job
from shoal.clustering import map_positions
from shoal.clustering.calibration import Calibration, fit_calibration
from shoal.clustering.density import in_series
from shoal.clustering.grouping import group_sizes
from shoal.clustering.neighbours import Neighbours, Recall, approximate_neighbours, neighbours_by_cell
from shoal.clustering.rows import LOCAL, Shards
from shoal.data.equal import first_of_each, first_rows
from shoal.data.sources.others import in_words
from shoal.data.unread import count_kinds
from shoal.evaluation import clustering_scores
from shoal.files import atomic_write
from shoal.folder import ResultFolder
from shoal.mapped import scratch
from shoal.report import edge_for, sample_of_page
from shoal.results.atlas import read_encoded, write_atlas
from shoal.results.copies import Pairs, alike_cosine, copies, pairs_by_cosine
from shoal.results.decided import keep_decisions
from shoal.results.duplicates import duplicates, write_duplicates
from shoal.results.inputs import Inputs
from shoal.results.outliers import isolation, outliers, renew_outliers, write_outliers
from shoal.results.page import rows_of, write_page
from shoal.results.representatives import representatives, write_representatives
from shoal.results.result import Result
from shoal.results.rows import Assignments, assign_rows
from shoal.results.tables import unread, write_assignments, write_skipped
from shoal.types import Clustering

_WITHOUT_SKETCHES = (
    "The features are from an earlier version of shoal, which kept no thumbnails: duplicates are found by the features "
    "alone, and none is marked to keep. Cluster the images into a new folder to find all of them."
)

_SET_ASIDE = (
    "The clusters are others than those that you had decided about, so what you had decided is set aside in {} and no "
    "longer counts."
)


@dataclass(frozen=True)
class Outcome:
    """Summary of a clustering."""

    n_rows: int
    n_clusters: int
    """That have rows."""
    n_asked: int
    scores: dict[str, float]
    """Agreement with true classes, where there are any."""
    n_duplicates: int = 0
    n_outliers: int = 0
    n_different: int | None = None
    """Images that differ from each other; None: unknown."""
    not_read: Mapping[str, int] = field(default_factory=dict)
    """Files of the source that were not read, by their kinds."""
    n_named: int = 0
    """Those of them that the table of skipped files names: not texts and others that plainly are not images."""
    n_links: int = 0
    """Images that are other names of a file."""
    recall: float | None = None
    """Share of the true neighbours of an image that were found, where not all images were compared; None: all."""
    note: str = ""
    """What stands in the way of finding duplicates."""
    how: str = ""
    """What found the clusters, in words."""
    n_nowhere: int = 0
    """Images that are in no cluster."""
    layers: Mapping[int, str] = field(default_factory=dict)
    """Other numbers of clusters, and the commands that make that many of the result without fitting anything."""

    def as_text(self, folder: ResultFolder) -> str:
        """One line per figure and per file to look at."""
        lines = [f"clusters     {self.n_clusters}, of {self.n_rows}{self._shortfall()}"]
        if self.n_nowhere:
            share = f"({self.n_nowhere / self.n_rows:.1%})"
            lines.append(
                f"nowhere      {self.n_nowhere} {share} {'is' if self.n_nowhere == 1 else 'are'} in no cluster"
            )
        if self.layers:
            k = next((k for k in self.layers if k > self.n_clusters), max(self.layers))
            lines.append(f"layers       also {in_series([*self.layers])} clusters: {self.layers[k]}")
        lines += [f"method       {self.how}"] if self.how else []
        if self.scores:
            agreement = ", ".join(f"{name.upper()} {self.scores[name]:.3f}" for name in ("acc", "nmi", "ari"))
            among = " among the images in clusters" if self.n_nowhere else ""
            lines.append(f"labels       {agreement}{among}; they had no part in the clustering")
        for what, n, path in (
            ("duplicates", self.n_duplicates, folder.duplicates),
            ("outliers", self.n_outliers, folder.outliers),
        ):
            lines += [f"{what:<12} {n}: {path}"] if n else []
        if self.recall is not None:
            found = f"{self.recall:.1%} of the ten nearest were found, as 200 images show"
            lines.append(f"neighbours   {found}: with this many images, not all pairs are compared")
        if self.not_read:
            n, where = sum(self.not_read.values()), f": {folder.skipped}"
            if self.n_named < n:
                where = f"; {self.n_named} of them in {folder.skipped}" if self.n_named else ""
            lines.append(f"not read     {n}: {in_words(self.not_read)}{where}")
        if self.n_links:
            what = "name is a link" if self.n_links == 1 else "names are links"
            lines.append(f"links        {self.n_links} {what} to a file that is listed already: no duplicates")
        lines += [self.note] if self.note else []
        lines.append(f"assignments  {folder.assignments_csv}")
        lines += [f"report       {folder.report}"] if folder.report.exists() else []
        return "\n".join(lines)

    def _shortfall(self) -> str:
        """Why there are fewer clusters than were asked for, if there are."""
        if self.n_clusters == self.n_asked:
            return ""
        repeats = self.n_different is not None and self.n_different <= self.n_clusters
        left = self.n_asked - self.n_clusters
        differ = f"{self.n_different} images differ" if self.n_different != 1 else "1 image differs"
        others = "and one is empty" if left == 1 else f"and the other {left} are empty"
        return f"; {self.n_asked} were asked for, {f'but only {differ}' if repeats else others}"


@dataclass(frozen=True, eq=False)
class Measured:
    """What is found out about the rows before anything is written."""

    result: Result
    """With its calibration."""
    found: Assignments
    near: Neighbours | None
    """Of the images that differ, where several processes have looked for them."""


def measure(result: Result, inputs: Inputs, labels: Int64[Tensor, "n"], shards: Shards = LOCAL) -> Measured:
    """Calibrate the probabilities, draw the map, and look for neighbours.

    Args:
        result: the fitted clusters, none of them empty.
        inputs: what was clustered.
        labels: the cluster of each row.
        shards: whether all ranks see all rows and have a share of the work each.

    Raises:
        UserError: features hold NaN or infinity.
    """
    features = inputs.features

    def calibrated() -> str:
        found = fit_calibration(result.clusterer, features, labels, result.metric, result.seed)
        return json.dumps(None if found is None else asdict(found))

    values = json.loads(job.of_first(calibrated) if shards.cut else calibrated())
    result = replace(result, calibration=None if values is None else Calibration(**values))
    positions = map_positions(features, metric=result.metric, seed=result.seed, shards=shards)
    found = assign_rows(
        features,
        result.posterior,
        result.centers,
        result.metric,
        labels=labels,
        positions=positions,
        shards=shards,
    )
    near = None
    if shards.cut and inputs.embedded is not None:
        rows = first_rows(first_of_each(inputs.embedded.fingerprints))
        near = approximate_neighbours(features, rows, result.seed, shards)
    return Measured(result, found, near)


def finish(result: Result, inputs: Inputs, labels: Int64[Tensor, "n"]) -> Outcome:
    """Calibrate the probabilities; write tables, map, report and last the clustering itself.

    Args:
        result: the fitted clusters, none of them empty.
        inputs: what was clustered.
        labels: the cluster of each row.

    Raises:
        UserError: features hold NaN or infinity, or the folder cannot be written.
    """
    return write_measured(measure(result, inputs, labels), inputs)


def write_measured(measured: Measured, inputs: Inputs) -> Outcome:
    """The last part of ``finish``.

    Raises:
        UserError: the folder cannot be written.
    """
    result, found, near = measured.result, measured.found, measured.near
    if not result.folder.clustered.exists():
        return write_files(result, inputs, found, near=near)
    if not keep_decisions(result.folder, inputs.ids, found):  # other clusters than a person has decided about
        outcome = write_files(replace(result), inputs, found, near=near)
        return replace(outcome, note=_SET_ASIDE.format(result.folder.earlier))
    decided = result.decided
    assert decided is not None
    found = decided.assignments(result.model, inputs.features, result.metric, found.positions)
    return write_files(result, inputs, found, result.names, near)


def write_files(
    result: Result,
    inputs: Inputs,
    found: Assignments,
    names: Mapping[int, str] | None = None,
    near: Neighbours | None = None,
) -> Outcome:
    """``finish`` for assignments that are known; ``names`` are those of clusters that have one, ``near`` neighbours.

    Raises:
        UserError: the folder cannot be written.
    """
    _write_assignments(result, inputs, found, names or {})
    _write_tables(result, inputs, found)
    n_clusters = int((group_sizes(found.labels) > 0).sum())  # an update may have emptied some
    n_asked = result.asked if result.decided is None else n_clusters  # a person has made and emptied others
    scores, nowhere = clustering_scores(inputs.targets, found.labels), int((found.labels < 0).sum())
    outcome = Outcome(len(inputs), n_clusters, n_asked, scores, n_nowhere=nowhere)
    if inputs.embedded is not None:
        outcome = _of_images(outcome, result, inputs, found, near)
        write_page(result)
    result.save()  # last: with it the folder is finished
    return outcome


def rewrite(result: Result) -> None:
    """Write tables, atlas and report of a finished result again, as the decisions have it.

    Raises:
        UserError: something in the folder is damaged or missing, or the folder cannot be written.
    """
    inputs, found, folder = _renewed_tables(result), result.assignments, result.folder
    if result.embedded is not None:
        ids, pictures = read_encoded(folder.atlas)
        write_atlas(found[rows_of(ids, result)], ids, pictures, folder.atlas)
        write_page(result)
    _write_assignments(result, inputs, found, result.names)


def rewrite_tables(result: Result) -> None:
    """The tables alone, which is quicker.

    Raises:
        UserError: as ``rewrite``.
    """
    _write_assignments(result, _renewed_tables(result), result.assignments, result.names)


def _renewed_tables(result: Result) -> Inputs:
    """What was clustered, once all tables but the assignments are written again."""
    inputs = Inputs(result.features, result.ids, "images", result.source, embedded=result.embedded)
    renew_outliers(result.folder.outliers, inputs.ids, result.assignments.labels)
    _write_tables(result, inputs, result.assignments)
    return inputs


def _write_assignments(result: Result, inputs: Inputs, found: Assignments, names: Mapping[int, str]) -> None:
    """Who is in which cluster. After decisions it comes last, since ``Result.tables_are_behind`` goes by it."""
    stamp = result.decided.size if result.decided else 0
    for path in (result.folder.assignments_csv, result.folder.assignments):
        write_assignments(
            found, inputs.ids, path, names=names, targets=inputs.targets, classes=inputs.classes, stamp=stamp
        )


def _write_tables(result: Result, inputs: Inputs, found: Assignments) -> None:
    """What represents each cluster, and the centres."""
    folder = result.folder
    standing = representatives(inputs.features, found, _alike(result, inputs.features))
    write_representatives(standing, inputs.ids, folder.representatives)
    file = io.BytesIO()
    np.save(file, result.model.centers.numpy())
    atomic_write(folder.centers, file.getvalue())


def _alike(result: Result, features: Float[Tensor, "n d"]) -> float:
    """Cosine from which images are alike; after training no cosine says so, since it pulls clusters together."""
    return math.inf if _is_trained(result) else alike_cosine(features, result.seed)


def _is_trained(result: Result) -> bool:
    """Whether the features are those of a training run."""
    return result.encoder is not None and result.encoder.is_trained_here


def _copies(
    result: Result, inputs: Inputs, rows: Int64[Tensor, "m"], alone: Float[Tensor, "n"], near: Neighbours | None
) -> tuple[Pairs, float | None]:
    """Copies among some images, and the recall of the search; how far these are from all others goes into ``alone``."""
    assert inputs.embedded is not None
    sketches, recall = inputs.embedded.sketches, Recall(inputs.features, rows, result.seed)
    blocks = neighbours_by_cell(inputs.features, rows, result.seed) if near is None else near.blocks()

    def found() -> Iterator[Neighbours]:
        for block in blocks:
            alone[block.rows] = isolation(block)
            recall.add(block)
            yield block

    if sketches is not None:
        trained = _is_trained(result)
        pairs = copies(inputs.features, rows, found(), sketches, trained=trained, seed=result.seed)
    else:
        alike = _alike(result, inputs.features)
        pairs = Pairs.of([Pairs.none(), *(pairs_by_cosine(block, alike) for block in found())])
    return pairs, recall.share()


def _of_images(
    outcome: Outcome, result: Result, inputs: Inputs, found: Assignments, near: Neighbours | None
) -> Outcome:
    """Duplicates, outliers and thumbnails: what there is to say of images and not of mere rows."""
    assert inputs.embedded is not None
    assert inputs.pictures is not None
    folder, embedded = result.folder, inputs.embedded
    first = first_of_each(inputs.embedded.fingerprints)
    rows, alone = first_rows(first), scratch((len(inputs),), torch.float32)
    pairs, recall = _copies(result, inputs, rows, alone, near)
    same = duplicates(first, pairs, inputs.ids, links=embedded.links, sketches=embedded.sketches)
    odd = outliers(rows, alone, found.labels)
    write_duplicates(same, inputs.ids, folder.duplicates, embedded.sketches)
    write_outliers(odd, inputs.ids, folder.outliers)
    skipped, others = inputs.embedded.skipped, inputs.others
    write_skipped(unread(embedded, others), folder.skipped)
    clustering = Clustering(found.labels, result.centers, found.distance)
    index = sample_of_page(clustering, found.confidence, result.seed).nonzero()[:, 0]
    ids = [inputs.ids[i] for i in index.tolist()]
    write_atlas(found[index], ids, inputs.pictures(index, edge_for(len(index))), folder.atlas)
    return replace(
        outcome,
        n_duplicates=len(same),
        n_outliers=len(odd),
        n_different=len(rows),
        not_read=count_kinds(skipped, others),
        n_named=len(skipped) + len(others.reasons),
        n_links=0 if embedded.links is None else len(embedded.links),
        recall=recall,
        note=_WITHOUT_SKETCHES if embedded.sketches is None else "",
    )
