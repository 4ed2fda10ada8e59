"""One small picture in more than five hundred kinds of file: container × mode × depth × tag.

They stand in for the files of real cameras, phones, scanners and microscopes where these are not at hand: Pillow,
tifffile and imagecodecs write them, and, where they are installed, pillow-heif, pillow-jxl-plugin and pydicom.

    python benchmarks/corpus.py FOLDER

Each kind knows what a right reader shows of it (``Kind.right``), so that readers can be held to the picture itself and
not only to each other.
"""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from pathlib import Path

import corpus_pillow
import corpus_plugins
import corpus_tiff
from corpus_kind import Kind


def kinds() -> list[Kind]:
    """All kinds that can be written here."""
    families = (*corpus_pillow.FAMILIES, *corpus_tiff.FAMILIES, *corpus_plugins.FAMILIES)
    found = [kind for family in families for kind in family()]
    return [kind for kind in found if not kind.needs or importlib.util.find_spec(kind.needs)]


def write_corpus(folder: Path) -> list[Kind]:
    """Write a file of each kind into a folder, and return those that could be written by the libraries installed."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for kind in kinds():
        try:
            data = kind.encode()
        except Exception as error:  # whatever a writer does not support in this version
            print(f"not written: {kind.name}: {type(error).__name__}: {error}", file=sys.stderr)
            continue
        (folder / kind.name).write_bytes(data)
        written.append(kind)
    return written


def main() -> None:
    """Write the corpus into a folder, and say what it is made of."""
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        raise SystemExit(__doc__)
    with contextlib.suppress(BrokenPipeError):
        written = write_corpus(Path(sys.argv[1]))
        counts: dict[str, int] = {}
        for kind in written:
            counts[kind.container] = counts.get(kind.container, 0) + 1
        for container, n in sorted(counts.items()):
            print(f"{n:>5}  {container}")
        print(f"{len(written):>5}  kinds")


if __name__ == "__main__":
    main()
