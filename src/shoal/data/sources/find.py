"""What a path, a name or a list of images leads to: the one function that every image comes through."""

from __future__ import annotations

import codecs
import dataclasses
import difflib
import functools
import logging
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

from shoal import job
from shoal.data.kinds import ARCHIVE, TABLE, Kind, is_image_name
from shoal.data.listing import Blob, Listing, Names, Source
from shoal.data.sources.archive import archive_source, is_archive
from shoal.data.sources.array import digits, images_from_npy, npy_listing
from shoal.data.sources.folder import (
    check_any,
    first_missing,
    folder_source,
    is_pattern,
    list_source,
    match_files,
    matcher,
    pattern_root,
    root_of,
    walk,
)
from shoal.data.sources.hub import SCHEME, hub_source
from shoal.data.sources.others import Collector, head_of
from shoal.data.sources.own import own_source, scheme_of
from shoal.data.sources.parquet import parquet_source
from shoal.data.sources.published import DATA_SETS, named_source
from shoal.data.sources.stored import Folder, StoredFolder, exists_at, folder_of, found_at, located_in, stored_source
from shoal.data.sources.stored_file import StoredFile
from shoal.data.sources.table import is_table_of_paths, table_source
from shoal.data.sources.video import framed_source, is_video
from shoal.data.storage import Storage
from shoal.data.urls import is_url, public, scheme_of_url
from shoal.data.video.every import check_every
from shoal.errors import UserError
from shoal.files import expand_home, is_folder, real
from shoal.progress import ProgressCallback
from shoal.types import Others

_LOG = logging.getLogger("shoal")
IN_MEMORY = "(images given in Python)"
"""Replaces the path in the config of a run whose images were given in Python."""
STDIN = "-"
"""Stands for a list of paths on standard input."""

_LOCAL = ("file", "local")
"""Schemes of files on this machine."""
_HUB_FILES = ("hf://datasets/", "hf://buckets/", "hf://spaces/")
"""Begin addresses of files on the hub; hf://owner/name is a data set of Parquet files, which is downloaded."""
_KINDS = "an image, a folder, a .zip, .tar, .parquet, .csv or .npy file"


def find_source(
    spec: str | Path | Sequence[str | Path],
    *,
    root: str = "",
    every: str = "",
    progress: ProgressCallback | None = None,
) -> Source:
    """Find images without opening archives, tables and videos yet.

    Args:
        spec: a folder, an image, a file (``.zip``, ``.tar``, ``.tar.gz``, ``.parquet``, ``.csv``, ``.npy``), a pattern
            such as ``photos/**/*.jpg`` or ``shards/{000..099}.tar``, ``hf://owner/name``, an address that fsspec knows
            (``s3://bucket/photos``, ``https://host/photos.zip``), ``scheme://...`` of a plugin,
            the name of a data set, a list of paths, or ``-`` for one on standard input.
        root: folder with the files of a named data set.
        every: how often a frame of a video is taken, such as 2s, or scene; "" reads no videos.
        progress: called while a data set is downloaded, with the downloaded share of its images, and while videos are
            gone through, with megabytes.

    Raises:
        UserError: it leads to no images, or videos cannot be read.
    """
    if not every:
        return _found(spec, root, progress)
    check_every(every)
    return framed_source(_found(spec, root, progress, videos=True), every, progress)


def _found(
    spec: str | Path | Sequence[str | Path], root: str, progress: ProgressCallback | None, *, videos: bool = False
) -> Source:
    """``find_source``, with videos as they are among the files where they are asked for."""
    if not isinstance(spec, str | Path):
        return list_source(spec)
    if spec in DATA_SETS:
        return _named(str(spec), root, progress)
    if root:
        raise UserError(f"--data.root needs the name of a data set, which {spec} is not: leave it out.")
    if spec == IN_MEMORY:
        advice = "fit them in Python again, or save them as a folder or a .npy file and give its path"
        raise UserError(f"the images of this run were given in Python, so no path leads to them: {advice}.")
    if spec == "":
        raise UserError(f"the path of the images is empty: give {_KINDS}, or a data set name.")
    if spec == STDIN:
        return list_source(_stdin_paths())
    if scheme := scheme_of_url(str(spec)):
        return _at_url(str(spec), scheme, videos)
    return _at_path(expand_home(spec), videos)


def resolve_spec(spec: str) -> str:
    """Make paths in a spec absolute, so that it holds from any folder, and leave out what is secret of an address."""
    if spec in DATA_SETS or spec in ("", STDIN, IN_MEMORY) or scheme_of(spec):
        return spec
    if scheme := scheme_of_url(spec):
        return str(real(_local_path(spec))) if scheme in _LOCAL else public(spec)
    if is_pattern(spec) and not os.path.lexists(spec):
        return str(Path.cwd() / expand_home(spec))
    return str(real(spec))


def is_stored(spec: str) -> bool:
    """Whether a spec leads to a storage, of which nothing is on this machine."""
    scheme = scheme_of_url(spec)
    if not scheme or scheme in _LOCAL or scheme_of(spec):
        return False
    return scheme != SCHEME.partition(":")[0] or spec.startswith(_HUB_FILES)


def short_name(spec: str) -> str:
    """A name for what a spec leads to: of photos/, photos.zip and photos/**/*.jpg, photos."""
    whole = _path_in(spec) if is_url(spec) else spec
    if is_pattern(whole) and not os.path.lexists(whole):
        root = pattern_root(whole)
        path = real(root) if root != Path() else Path("images")
    else:
        path = real(whole or "images")
    if is_folder(path):
        return path.name or "images"
    name = path.name if whole != STDIN else "stdin"
    return name.removesuffix("".join(Path(name).suffixes[-2:])) if ".tar." in name else Path(name).stem or "images"


def _named(name: str, root: str, progress: ProgressCallback | None) -> Source:
    if Path(name).is_dir():
        kind = "built-in digits" if name == "digits" else f"published {name}"
        _LOG.warning("reading the %s: to read the folder of that name, give ./%s", kind, name)
    if name == "digits":
        return Source((name,), (), _digits_listing, digits)
    return named_source(name, root, progress)


def _at_url(spec: str, scheme: str, videos: bool) -> Source:
    """Read what an address leads to: by a plugin, from the hub's downloads, or in place by fsspec."""
    if scheme in _LOCAL:
        return _at_path(_local_path(spec), videos)
    if scheme_of(spec):
        return own_source(spec)
    if scheme == SCHEME.partition(":")[0] and not spec.startswith(_HUB_FILES):
        return hub_source(spec)
    url = public(spec)
    if is_pattern(url) and ("*" in url or not exists_at(url)):
        return _matching_urls(url, videos)
    found = found_at(url)
    if isinstance(found, StoredFile):
        return _in_file(folder_of(found), found.name, videos)
    passed = Collector(videos=videos)
    return _of_files(found, passed.without_passed(found.names), passed)


def _matching_urls(pattern: str, videos: bool) -> Source:
    folder, passed = StoredFolder.listed(Storage(root_of(pattern))), Collector(videos=videos)
    wanted = matcher(pattern)
    return _of_pattern(pattern, folder, (name for name in passed.without_passed(folder.names) if wanted(name)), passed)


def _local_path(spec: str) -> Path:
    return expand_home(spec.partition("://")[2])


def _path_in(spec: str) -> str:
    """What an address is named by: its last part before any wildcard, or else its host or bucket."""
    path = public(spec).partition("://")[2]
    if is_pattern(path):
        path = root_of(path)
    parts = [part for part in path.split("/") if part not in ("", ".", "..")]
    return parts[-1].replace(":", "-") if parts else "images"


def _at_path(path: Path, videos: bool) -> Source:
    try:
        if is_pattern(str(path)) and not os.path.lexists(path):  # exists() fails on one longer than a name may be
            return _matching(str(path), videos)
        if not path.exists():
            raise UserError(_missing(path))
        is_folder = path.is_dir()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}.") from error
    if not is_folder:
        return _in_file(path.parent, path.name, videos)
    passed = Collector(videos=videos)
    return _of_files(path, walk(path, passed=passed), passed)


def _in_file(folder: Folder, name: str, videos: bool) -> Source:
    path = folder / name
    kind = path.suffix.lower()
    if kind == ".npy":
        if isinstance(path, StoredFile):
            raise UserError(f"{path} would have to be mapped into memory: download it, and give the path of the file.")
        file = path.absolute()
        return Source(("npy", str(file)), [file], partial(npy_listing, path), partial(images_from_npy, path))
    if kind == ".csv" or (kind == ".parquet" and is_table_of_paths(path)):
        return table_source(path)
    if kind == ".parquet":
        return parquet_source(folder, [name])
    if is_archive(name):
        return archive_source(folder, [name], Collector(videos=videos))
    film = not is_image_name(name) and is_video(name, partial(_head_of, folder, name))
    if is_image_name(name) or (videos and film):
        return _of_images(folder, Names([name]), Others())
    if film:
        raise UserError(f"{path} is a video: say how often to take a frame of it, as with --every 2s.")
    raise UserError(f"cannot take images from {path}: give {_KINDS}.")


def _matching(pattern: str, videos: bool) -> Source:
    root, passed = pattern_root(pattern), Collector(videos=videos)
    return _of_pattern(pattern, root, match_files(pattern, passed) if root.is_dir() else (), passed)


def _of_pattern(pattern: str, folder: Folder, matching: Iterable[str], passed: Collector) -> Source:
    found = Names(matching)
    if not len(found):
        raise UserError(f"no file matches {pattern}: correct it, and quote it so that the shell does not expand it.")
    if "{" in pattern and (name := first_missing(pattern, set(found))) is not None:
        place = located_in(folder, name)
        raise UserError(f"there is no file {place}, to which {pattern} expands: correct the braces.")
    return _of_files(folder, found, passed)


def _of_files(folder: Folder, found: Iterable[str], passed: Collector) -> Source:
    """Read the image files among those found in a folder, or else its Parquet files, or else its archives."""
    tables: list[str] = []
    archives: list[str] = []
    names = Names(_image_files(folder, found, tables, archives, passed))
    if tables and not len(names):
        return dataclasses.replace(parquet_source(folder, tables), others=passed.others())
    if archives and not len(names):
        return archive_source(folder, archives, passed)
    if archives and len(names):
        what = "1 archive" if len(archives) == 1 else f"{len(archives)} archives"
        _LOG.warning("skipping %s beside the image files in %s: give the path of an archive to read it", what, folder)
    passed.add_all(TABLE, tables)
    passed.add_all(ARCHIVE, archives)
    return _of_images(folder, names, passed.others())


def _of_images(folder: Folder, names: Names, others: Others) -> Source:
    check_any(folder, names, others)
    if isinstance(folder, Path):
        return folder_source(folder, names, others)
    return stored_source(folder, names, others)


def _image_files(
    folder: Folder, found: Iterable[str], tables: list[str], archives: list[str], passed: Collector
) -> Iterator[str]:
    """Iterate over the names of image files; tables, archives and all others go into their collections."""
    for name in found:
        if is_image_name(name):
            yield name
        elif name.lower().endswith(".parquet"):
            tables.append(name)
        elif is_archive(name):
            archives.append(name)
        elif passed.is_image(name, partial(_head_of, folder, name)):
            yield name


def _head_of(folder: Folder, name: str) -> bytes | Kind:
    file = folder / name
    return head_of(file) if isinstance(file, Path) else file.head()


def _digits_listing() -> Listing:
    found = digits(None)

    def blobs() -> Iterator[Blob]:
        return (image.numpy() for image in found.pixels)

    return Listing(found.ids, found.targets.numpy(), found.classes, blobs)


def _missing(path: Path) -> str:
    if path.is_symlink():
        return f"{path} is a broken link: give an existing path."
    beside = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    known = [*beside, *DATA_SETS] if path.name == str(path) else beside
    close = difflib.get_close_matches(path.name, known, n=3)
    hint = f": did you mean {' or '.join(str(path.parent / name) for name in close)}?" if close else ": check the path."
    return f"there is no file or folder {path}{hint}"


@functools.cache  # standard input can be read once
def _stdin_paths() -> Names:
    """Read paths from standard input: one per line, or each ended by a zero byte as by ``find -print0``."""
    # Of several processes the first reads; any byte is a letter of latin-1.
    text = job.of_first(lambda: "" if sys.stdin is None else sys.stdin.buffer.read().decode("latin-1"))
    data = text.encode("latin-1").removeprefix(codecs.BOM_UTF8)
    if data[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        raise UserError("the list of paths on standard input is encoded as UTF-16: save it as UTF-8.")
    lines = data.split(b"\0") if b"\0" in data else data.splitlines()
    paths = Names(os.fsdecode(line) for line in lines if line.strip())
    if not len(paths):
        raise UserError("standard input has no paths: give one per line, as does find photos -name '*.jpg'.")
    return paths
