"""The one door through which images come in: what a path, a name or a list leads to."""

from __future__ import annotations

import codecs
import difflib
import functools
import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from shoal.data.decode import FORMATS
from shoal.data.listing import Blob, Listing, Names, Source
from shoal.data.sources.archive import is_archive, packed_source
from shoal.data.sources.array import digits, images_from_npy
from shoal.data.sources.folder import (
    folder_source,
    is_pattern,
    is_picture,
    lacking,
    list_source,
    matches,
    root_of,
    walk,
)
from shoal.data.sources.hub import SCHEME, hub_source
from shoal.data.sources.parquet import parquet_source
from shoal.data.sources.published import DATA_SETS, named_source
from shoal.data.sources.table import is_parquet_manifest, manifest_source
from shoal.errors import UserError
from shoal.files import expand_home, real
from shoal.progress import ProgressCallback
from shoal.types import Images

_LOG = logging.getLogger("shoal")
IN_MEMORY = "(images given in Python)"
"""Stands for the path of the images in the config of a run whose images no path leads to."""
STDIN = "-"
"""Stands for a list of paths on the standard input."""

_KINDS = "a folder, a .zip, .tar, .parquet, .csv or .npy file"


def find_source(
    spec: str | Path | Sequence[str | Path], *, root: str = "", progress: ProgressCallback | None = None
) -> Source:
    """Find images; those of archives and tables are not opened yet.

    Args:
        spec: a folder, a file (``.zip``, ``.tar``, ``.tar.gz``, ``.parquet``, ``.csv``, ``.npy``), a pattern such as
            ``photos/**/*.jpg`` or ``shards/{000..099}.tar``, ``hf://owner/name``, the name of a data set, a list of
            paths, or ``-`` for one on the standard input.
        root: folder with the files of a data set that is named.
        progress: told what share of a data set has been downloaded.

    Raises:
        UserError: it leads to no images.
    """
    if not isinstance(spec, str | Path):
        return list_source(spec)
    if spec in DATA_SETS:
        return _by_name(str(spec), root, progress)
    if root:
        raise UserError(f"--data.root goes with the name of a data set, and {spec} is none: leave it out.")
    if spec == IN_MEMORY:
        advice = "fit them in Python again, or save them as a folder or a .npy file and give its path"
        raise UserError(f"the images of this run were given in Python, so no path leads to them: {advice}.")
    if spec == "":
        raise UserError(f"the path of the images is empty: give {_KINDS}, or a data set name.")
    if spec == STDIN:
        return list_source(_listed_on_stdin())
    if str(spec).startswith(SCHEME):
        return hub_source(str(spec))
    return _by_path(expand_home(spec))


def resolve_spec(spec: str) -> str:
    """Write what leads to images such that it holds from any folder; names of data sets and the like stay."""
    if spec in DATA_SETS or spec in ("", STDIN, IN_MEMORY) or spec.startswith(SCHEME):
        return spec
    if is_pattern(spec) and not os.path.lexists(spec):
        return str(Path.cwd() / expand_home(spec))
    return str(real(spec))


def _by_name(name: str, root: str, progress: ProgressCallback | None) -> Source:
    if Path(name).is_dir():
        kind = "built-in digits" if name == "digits" else f"published {name}"
        _LOG.warning("these are the %s: to read the folder of that name, give ./%s", kind, name)
    if name == "digits":
        return _of_pixels((name,), (), digits)
    return named_source(name, root, progress)


def _by_path(path: Path) -> Source:
    try:
        if not path.exists():
            if is_pattern(str(path)):
                return _by_pattern(str(path))
            raise UserError(_missing(path))
        is_folder = path.is_dir()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}.") from error
    if is_folder:
        return _among(path, walk(path))
    kind = path.suffix.lower()
    if kind == ".npy":
        return _of_pixels(("npy", str(path.absolute())), [path.absolute()], lambda size: images_from_npy(path, size))
    if kind == ".csv" or (kind == ".parquet" and is_parquet_manifest(path)):
        return manifest_source(path)
    if kind == ".parquet":
        return parquet_source(path.parent, [path.name])
    if is_archive(path.name):
        return packed_source(path.parent, [path.name])
    alone = "one image is not a data set; " if kind in FORMATS else ""
    raise UserError(f"cannot take images from {path}: {alone}give {_KINDS}.")


def _by_pattern(pattern: str) -> Source:
    root = root_of(pattern)
    found = Names(matches(pattern) if root.is_dir() else ())
    if not len(found):
        raise UserError(f"no file is like {pattern}: mend the pattern; it is to be in quotes, or the shell reads it.")
    if "{" in pattern and (name := lacking(pattern, set(found))) is not None:
        raise UserError(f"there is no file {root / name}, which {pattern} stands for: mend the numbers in braces.")
    return _among(root, found)


def _among(folder: Path, found: Iterable[str]) -> Source:
    """Take the image files among those found in a folder, or else its Parquet files, or else its archives."""
    tables: list[str] = []
    archives: list[str] = []

    def pictures() -> Iterator[str]:
        for name in found:
            if is_picture(name):
                yield name
            elif name.lower().endswith(".parquet"):
                tables.append(name)
            elif is_archive(name):
                archives.append(name)

    names = Names(pictures())
    if len(names) and archives:
        n = len(archives)
        what = f"the archive beside the images in {folder} is" if n == 1 else f"the {n} archives in {folder} are"
        _LOG.warning("%s not read, the image files are: give an archive by its own path", what)
    if tables and not len(names):
        return parquet_source(folder, tables)
    if archives and not len(names):
        return packed_source(folder, archives)
    return folder_source(folder, names)


def _of_pixels(origin: Sequence[str], files: Sequence[Path], images: Callable[[int | None], Images]) -> Source:
    def listing() -> Listing:
        found = images(None)

        def blobs() -> Iterator[Blob]:
            return (image.numpy() for image in found.pixels)

        return Listing(found.ids, found.targets.numpy(), found.classes, blobs)

    return Source(origin, files, listing, images)


def _missing(path: Path) -> str:
    if path.is_symlink():
        return f"{path} is a link that leads nowhere: give a path that is there."
    beside = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    known = [*beside, *DATA_SETS] if path.name == str(path) else beside
    near = difflib.get_close_matches(path.name, known, n=3)
    hint = f": did you mean {' or '.join(str(path.parent / name) for name in near)}?" if near else "."
    return f"there is no file or folder {path}{hint}"


@functools.cache  # it can be read once
def _listed_on_stdin() -> Names:
    """Read paths from the standard input: each on a line, or each ended by a zero byte, as ``find -print0`` does."""
    data = b"" if sys.stdin is None else sys.stdin.buffer.read().removeprefix(codecs.BOM_UTF8)
    lines = data.split(b"\0") if b"\0" in data else data.splitlines()
    paths = Names(os.fsdecode(line) for line in lines if line.strip())
    if not len(paths):
        raise UserError("there is no path on the standard input: give one a line, as in find photos -name '*.jpg'.")
    return paths
