"""A project of Label Studio: tasks with what the clustering predicts and what a person has said, and its labels.

Formats: https://labelstud.io/guide/predictions (tasks), https://labelstud.io/tags/choices (labels),
https://labelstud.io/guide/storage (files).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree

from shoal.errors import UserError
from shoal.export.images import LabelledImage, files_of, labelled_images, new_folder, not_free
from shoal.files import atomic_file, atomic_write
from shoal.progress import ProgressCallback
from shoal.results.result import Result
from shoal.results.tables import as_utf8

TASKS, CONFIG, IMAGES = "tasks.json", "config.xml", "images"

FROM, TO = "cluster", "image"
"""Names of the two tags of the labelling configuration."""


def export_label_studio(result: Result, folder: Path, progress: ProgressCallback) -> tuple[int, int]:
    """Write ``tasks.json`` and ``config.xml``, and copies of the images that have no file of their own.

    Returns:
        The numbers of tasks, and of those that a person has labelled.

    Raises:
        UserError: as ``labelled_images``; or the folder is not free or cannot be written.
    """
    folder = new_folder(folder, TASKS, CONFIG, IMAGES)
    images = labelled_images(result)
    labelling = config(images).encode()
    before = folder / CONFIG
    if before.exists() and not (before.is_file() and before.read_bytes() == labelling):  # that of another project
        raise not_free(folder)
    files = files_of(result, images, folder / IMAGES, progress)
    atomic_write(folder / CONFIG, labelling)
    with atomic_file(folder / TASKS) as file:
        for number, task in enumerate(tasks(images, [path for path, _ in files])):
            file.write(b",\n" if number else b"[\n")
            file.write(json.dumps(task, ensure_ascii=False).encode())
        file.write(b"\n]\n")
    return len(images), sum(image.by_person for image in images)


def config(images: Sequence[LabelledImage]) -> str:
    """The labelling configuration, with a choice for each label."""
    labels = dict(sorted({image.cluster: image.label for image in images if image.label}.items()))
    view = ElementTree.Element("View")
    ElementTree.SubElement(view, "Image", name=TO, value="$image")
    choices = ElementTree.SubElement(view, "Choices", name=FROM, toName=TO, choice="single", showInline="true")
    for label in dict.fromkeys(labels.values()):
        ElementTree.SubElement(choices, "Choice", value=label)
    ElementTree.indent(view)
    return ElementTree.tostring(view, encoding="unicode") + "\n"


def tasks(images: Sequence[LabelledImage], files: Sequence[Path]) -> Iterator[dict[str, Any]]:
    """A task for each image: predicted where shoal has chosen the cluster, annotated where a person has.

    An image in no cluster has no prediction; one that a person has taken out of all has an empty annotation.
    """
    model = f"shoal {version('shoal')}"
    for number, (image, file) in enumerate(zip(images, files, strict=True)):
        data = {"image": local_url(file), "file": as_utf8(image.id), "cluster": image.cluster}
        chosen = {
            "id": f"shoal-{number}",
            "from_name": FROM,
            "to_name": TO,
            "type": "choices",
            "value": {"choices": [image.label]},
        }
        result = [chosen] if image.label else []
        task: dict[str, Any] = {"data": data}
        if image.by_person:
            task["annotations"] = [{"result": result}]
        elif result:
            score = {} if image.confidence is None else {"score": image.confidence}
            task["predictions"] = [{"model_version": model, **score, "result": result}]
        yield task


def local_url(file: Path) -> str:
    """Where Label Studio serves a file of its own machine: by its path below the document root, which is ``/``.

    Raises:
        UserError: text cannot name the file.
    """
    try:
        return f"/data/local-files/?d={quote(file.relative_to(file.anchor).as_posix())}"
    except UnicodeEncodeError as error:
        raise UserError(
            f"{as_utf8(str(file))} is not valid text, so JSON cannot name it: choose a folder whose path is."
        ) from error
