"""Formats of published data sets, read in place: nothing is unpacked to disk, and no pickle is opened.

Only the members of an archive that have a published name are read.
"""

from __future__ import annotations

import contextlib
import gzip
import re
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from jaxtyping import UInt8

from shoal.data.listing import Blob, Listing, Pixels
from shoal.errors import UserError

_CHUNK = 2**21  # bytes of records read at a time
_CIFAR = (3, 32, 32)
_STL = (3, 96, 96)
DAMAGE = (
    *(OSError, EOFError, ValueError, IndexError, RuntimeError, struct.error),
    *(zlib.error, tarfile.TarError, zipfile.BadZipFile),
)
"""Exceptions that reading a damaged archive may raise."""
_TINY = re.compile(r"tiny-imagenet-200/train/(n\d{8})/images/([^/]+\.JPEG)")

Reader: TypeAlias = Callable[[Sequence[Path]], Listing]
"""Lists the images of a data set from its files, in the order of its ``Published``."""


@dataclass(frozen=True)
class _Split:
    """A published split: the label of each image (-1: none), and a function that iterates over the images."""

    name: Literal["train", "test", "unlabelled"]
    labels: Sequence[int]
    images: Callable[[], Iterator[Pixels]]


def cifar(train: Sequence[str], test: str, n_labels: int, classes: tuple[str, ...]) -> Reader:
    """Read a binary version of CIFAR: records of ``n_labels`` label bytes and 3 × 32 × 32 pixels.

    The first label byte is used: of CIFAR-100's two it is the superclass (www.cs.toronto.edu/~kriz/cifar.html).
    """
    length = n_labels + int(np.prod(_CIFAR))

    def part(name: Literal["train", "test"], archive: Path, members: Sequence[str]) -> _Split:
        def images() -> Iterator[Pixels]:
            for records in _records(archive, members, length):
                yield from records[:, n_labels:].reshape(-1, *_CIFAR)

        return _Split(name, _first_bytes(archive, members, length), images)

    def listing(files: Sequence[Path]) -> Listing:
        return _joined([part("train", files[0], train), part("test", files[0], [test])], classes)

    return listing


def stl10(classes: tuple[str, ...]) -> Reader:
    """Read the binary version of STL-10, whose unlabelled images are not clustered.

    Its images are stored column by column, and its labels start at 1 (cs.stanford.edu/~acoates/stl10).
    """
    length = int(np.prod(_STL))

    def part(name: Literal["train", "test", "unlabelled"], archive: Path, member: str, labels: Sequence[int]) -> _Split:
        def images() -> Iterator[Pixels]:
            for records in _records(archive, [member], length):
                yield from records.reshape(-1, *_STL).transpose(0, 1, 3, 2)

        return _Split(name, labels, images)

    def listing(files: Sequence[Path]) -> Listing:
        folder, parts = "stl10_binary", []
        for name in ("train", "test"):
            labels = [label - 1 for label in _first_bytes(files[0], [f"{folder}/{name}_y.bin"], 1)]
            parts.append(part(name, files[0], f"{folder}/{name}_X.bin", labels))
        rest = f"{folder}/unlabeled_X.bin"
        parts.append(part("unlabelled", files[0], rest, [-1] * (_size_of(files[0], rest) // length)))
        return _joined(parts, classes)

    return listing


def mnist(files: Sequence[Path]) -> Listing:
    """Read MNIST's four files in the IDX format: images and labels of the training split, then of the test split."""

    def part(name: Literal["train", "test"], images: Path, labels: Path) -> _Split:
        def as_rgb() -> Iterator[Pixels]:
            for grey in _idx(images):
                yield np.broadcast_to(grey, (3, *grey.shape))

        return _Split(name, _idx(labels).tolist(), as_rgb)

    return _joined([part("train", *files[:2]), part("test", *files[2:])], tuple("0123456789"))


def tiny_imagenet(files: Sequence[Path]) -> Listing:
    """Read the training split of Tiny ImageNet: JPEG files in one folder per class, named by its synset."""
    with _reading(files[0]), zipfile.ZipFile(files[0]) as archive:
        found = sorted(name for name in archive.namelist() if _TINY.fullmatch(name))
    parts = [match.groups() for match in map(_TINY.fullmatch, found) if match]
    classes = sorted({synset for synset, _ in parts})
    label = {synset: index for index, synset in enumerate(classes)}

    def blobs() -> Iterator[Blob]:
        with _reading(files[0]), zipfile.ZipFile(files[0]) as archive:
            yield from map(archive.read, found)

    return Listing([f"{a}/{b}" for a, b in parts], [label[synset] for synset, _ in parts], tuple(classes), blobs)


def _joined(parts: Sequence[_Split], classes: tuple[str, ...]) -> Listing:
    def blobs() -> Iterator[Blob]:
        for part in parts:
            yield from part.images()

    names = [part.name for part in parts for _ in part.labels]
    return Listing(
        ids=[f"{part.name}#{row}" for part in parts for row in range(len(part.labels))],
        targets=[label for part in parts for label in part.labels],
        classes=classes,
        blobs=blobs,
        held_out=[name == "test" for name in names],
        clustered=[name != "unlabelled" for name in names],
    )


def _records(archive: Path, members: Sequence[str], length: int) -> Iterator[UInt8[np.ndarray, "n {length}"]]:
    """Read records of ``length`` bytes from members of a tar file, in large chunks."""
    with _reading(archive), tarfile.open(archive) as tar:
        for name in members:
            file = tar.extractfile(_member(tar, name))
            while file is not None and (data := file.read(length * max(1, _CHUNK // length))):
                yield np.frombuffer(data, np.uint8).reshape(-1, length)


def _first_bytes(archive: Path, members: Sequence[str], length: int) -> list[int]:
    return [byte for records in _records(archive, members, length) for byte in records[:, 0].tolist()]


def _size_of(archive: Path, name: str) -> int:
    with _reading(archive), tarfile.open(archive) as tar:
        return _member(tar, name).size


def _member(tar: tarfile.TarFile, name: str) -> tarfile.TarInfo:
    """Find a member without reading on past it, which may be 2 GB."""
    for member in tar:
        if member.name == name and member.isreg():
            return member
    raise ValueError(f"it has no {name}")


def _idx(path: Path) -> UInt8[np.ndarray, "..."]:
    """Read an IDX array of bytes: 4 bytes, the last of which is the number of axes; the axes' lengths; the values."""
    with _reading(path), gzip.open(path) as file:
        axes = file.read(4)[3]
        shape = struct.unpack(f">{axes}I", file.read(4 * axes))
        return np.frombuffer(file.read(), np.uint8).reshape(shape)


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn the exceptions of damaged files into a UserError.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        yield
    except DAMAGE as error:
        raise UserError(f"cannot read {path}: {error}.") from error
