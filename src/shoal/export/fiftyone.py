"""A data set that FiftyOne imports: labels with their confidences, by the paths of the images, which stay in place.

Format: FiftyOneImageClassificationDataset, https://docs.voxel51.com/user_guide/import_datasets.html. A key of
``labels`` is an absolute path, or the name of a file in ``data/`` without its ending.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from shoal.errors import UserError
from shoal.export.images import LabelledImage, files_of, labelled_images, new_folder
from shoal.files import atomic_file
from shoal.progress import ProgressCallback
from shoal.results.result import Result

LABELS, DATA = "labels.json", "data"


def export_fiftyone(result: Result, folder: Path, progress: ProgressCallback) -> int:
    """Write ``labels.json``, and into ``data/`` copies of the images that have no file of their own.

    Returns:
        The number of images.

    Raises:
        UserError: as ``labelled_images``; or the folder is not free or cannot be written.
    """
    folder = new_folder(folder, LABELS, DATA)
    images = labelled_images(result)
    files = files_of(result, images, folder / DATA, progress)
    try:
        (folder / DATA).mkdir(parents=True, exist_ok=True)  # FiftyOne looks for it, even if there is nothing in it
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror}.") from error
    with atomic_file(folder / LABELS) as file:
        file.write(b'{"labels": {')
        for number, (key, label) in enumerate(labels(images, files).items()):
            line = f"{json.dumps(key, ensure_ascii=False)}: {json.dumps(label, ensure_ascii=False)}"
            file.write(("," if number else "").encode() + b"\n" + line.encode())
        file.write(b"\n}}\n")
    return len(images)


def labels(images: Sequence[LabelledImage], files: Sequence[tuple[Path, bool]]) -> dict[str, dict[str, Any] | None]:
    """What is said of each image, by the key that it has; None of one that is in no cluster.

    ``files`` have of each image its file, and whether this is a copy in ``data/``.
    """
    found: dict[str, dict[str, Any] | None] = {}
    for image, (file, is_copy) in zip(images, files, strict=True):
        key = file.stem if is_copy else str(file)
        attributes = {"cluster": image.cluster, "said_by": "person" if image.by_person else "shoal"}
        confidence = {} if image.confidence is None else {"confidence": image.confidence}
        found[key] = {"label": image.label, **confidence, "attributes": attributes} if image.label else None
    return found
