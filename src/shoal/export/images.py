"""What every format takes of a result: each image with its cluster in words, and the images that have no file."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import torch

from shoal.data.kinds import is_image_name
from shoal.data.video.every import video_of
from shoal.errors import UserError
from shoal.files import atomic_write, real
from shoal.folder import is_unfinished
from shoal.progress import ProgressCallback
from shoal.results.present import PresentImages
from shoal.results.result import Result
from shoal.results.tables import as_utf8
from shoal.sort.names import safe_name
from shoal.sort.plan import as_file

NOWHERE = -1

_COPY = re.compile(r"\d{6}")
"""How the name of a copy begins."""

_NO_TEXT = ("Cc", "Cs", "Zl", "Zp")
"""Categories of what stands in no line of text: control characters, stray bytes and line breaks."""
_NO_CHARACTERS = (0xFFFE, 0xFFFF)
"""The last two of each plane are characters of no text, and XML has none of the first plane's."""


@dataclass(frozen=True)
class LabelledImage:
    """An image that is there, and what the result says of it now."""

    id: str
    """Its present name in the source; stray bytes of one that is not UTF-8 are surrogates."""
    path: Path | None
    """Its file, absolute; None inside an archive, a table, a video or a storage."""
    cluster: int
    """−1: in none."""
    label: str
    """Its cluster in words; empty: in none."""
    confidence: float | None
    """None where the result does not know."""
    by_person: bool
    """Whether a person has said the cluster."""
    video: str = ""
    """The name of the video that it is a frame of; empty: of none."""
    video_path: Path | None = None
    """The file of that video; None inside an archive or a storage."""


def labelled_images(result: Result) -> list[LabelledImage]:
    """The images of a result that are there and unchanged, in the order in which they are listed.

    Raises:
        UserError: features were clustered; the images are gone; or none of them is in a cluster.
    """
    rows, listing_rows = result.present, PresentImages(result).listed.tolist()
    listing, found, decided = result.listing, result.assignments, result.decided
    at = torch.from_numpy(rows)
    clusters = found.labels[at].tolist()
    confidences = found.confidence[at].tolist()
    fixed = [False] * len(rows) if decided is None else decided.replayed.fixed[rows].tolist()
    labels = cluster_labels(clusters, result.names)
    if not labels:
        raise UserError(f"none of the images of {result.folder.path} is in a cluster: there is nothing to export.")
    return [
        LabelledImage(
            id=listing.ids[row],
            path=listing.path(row),
            cluster=cluster,
            label=labels.get(cluster, ""),
            confidence=round(confidence, 6) if confidence == confidence else None,  # not NaN
            by_person=by_person,
            video=video_of(listing.ids[row]) if listing.is_frame(row) else "",
            video_path=listing.files[row] if listing.is_frame(row) and len(listing.files) else None,
        )
        for row, cluster, confidence, by_person in zip(listing_rows, clusters, confidences, fixed, strict=True)
    ]


def cluster_labels(clusters: Iterable[int], names: Mapping[int, str]) -> dict[int, str]:
    """A line of text for each cluster but −1: its name if it has one, else ``cluster 03``.

    Clusters of one name have one label; one without a name never has that of another.
    """
    present = sorted({*clusters} - {NOWHERE})
    named = {cluster: one_line(names.get(cluster, "")) for cluster in present}
    taken = {*named.values()}
    width = max(2, len(str(max(present, default=0))))
    for cluster, name in named.items():
        label = name or f"cluster {cluster:0{width}d}"
        while not name and label in taken:
            label += "*"
        named[cluster] = label
    return named


def one_line(name: str) -> str:
    """A name as keywords and labels hold it: what breaks lines, or is not a character of any text, becomes a space."""
    return "".join(" " if _is_no_text(char) else char for char in name.replace("\r\n", "\n")).strip()


def _is_no_text(char: str) -> bool:
    return unicodedata.category(char) in _NO_TEXT or ord(char) & 0xFFFF in _NO_CHARACTERS


def file_of(image: LabelledImage) -> Path | None:
    """The file of an image, if text can name it."""
    return image.path if image.path is not None and as_utf8(str(image.path)) == str(image.path) else None


def files_of(
    result: Result, images: Sequence[LabelledImage], folder: Path, progress: ProgressCallback
) -> list[tuple[Path, bool]]:
    """A file for each image, and whether it is a copy that was written into a folder.

    Images inside archives, tables, videos and storages are copied, and files whose names are not text, which JSON
    cannot hold.

    Raises:
        UserError: one of these can no longer be read, or the folder cannot be written or is one of images.
    """
    files = [file_of(image) for image in images]
    if all(file is not None for file in files):
        return [(file, False) for file in files if file is not None]
    _check_apart(result, folder)
    contents = PresentImages(result).contents([number for number, file in enumerate(files) if file is None])
    found = []
    for number, (image, file) in enumerate(zip(images, files, strict=True)):
        progress(number, len(images))
        if file is not None:
            found.append((file, False))
            continue
        data, ending = as_file(next(contents, None), image.id)
        name = safe_name(f"{number:06d}-{PurePosixPath(image.id).name}", f"{number:06d}")
        copy = folder / (name if is_image_name(name) else name + ending)
        atomic_write(copy, data)
        found.append((copy, True))
    return found


def _check_apart(result: Result, folder: Path) -> None:
    """Refuse copies in a folder that is looked at for images: the next clustering would find them twice."""
    goal = real(folder)
    for source in map(real, PresentImages(result).source_folders):
        if source in (goal, *goal.parents):
            raise UserError(f"images have to be copied, and {folder} lies inside {source}: give a folder beside it.")


def not_free(path: Path) -> UserError:
    """What to say of a folder that holds something else than a stopped export."""
    return UserError(f"{path} exists and is not an empty folder: give another one.")


def new_folder(path: Path, last: str, *others: str) -> Path:
    """Check that a folder is free to be written, and make its path absolute.

    Args:
        path: of the folder. An export that was stopped may have left files in it.
        last: what an export writes last: with it one is finished.
        others: what it writes before.

    Raises:
        UserError: there is something else already.
    """
    if os.path.lexists(path) and not path.is_dir():
        raise UserError(f"{path} is a file: give a folder.")
    there = {each.name for each in path.iterdir() if not is_unfinished(each)} if path.is_dir() else set()
    inside = [each for name in there & {*others} if (path / name).is_dir() for each in (path / name).iterdir()]
    strange = [each for each in inside if not is_unfinished(each) and not _COPY.match(each.name)]
    if last in there or not there <= {*others} or strange:
        raise not_free(path)
    return Path(os.path.abspath(path))  # noqa: PTH100 - links stay as the user has named them
