"""The folder of the features of all images: written in steps that survive a crash, then mapped from the disk."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import IO

import numpy as np
from jaxtyping import Float, Int64, Shaped, UInt8
from torch import Tensor

from shoal.data.file_stats import NO_STAT, FileStat
from shoal.data.greys import Ranges
from shoal.data.listing import Listing, write_names
from shoal.data.sketch import SKETCH
from shoal.errors import UserError
from shoal.features.embedded import (
    ADDED,
    FEATURES,
    FILES,
    FORMAT,
    LINKS,
    SHARDS,
    SINGLE,
    SKETCHES,
    Header,
    Progressed,
    damaged_error,
    read_journal,
    row_bytes_of,
)
from shoal.files import DISK_FULL, atomic_write, try_lock


class Store:
    """A folder that features are appended to; only what is committed survives a crash."""

    def __init__(self, folder: Path, header: Header) -> None:
        self.folder = folder
        self.header = header
        self.done, self.skipped, _ = read_journal(folder)
        self._fresh: dict[int, str] = {}  # skipped since the last commit
        self._fresh_notes: dict[int, str] = {}
        self._kept = self.done.kept

    @classmethod
    def begin(cls, folder: Path, header: Header, listing: Listing) -> Store:
        """Create a folder, replacing what a process left that was killed before it had done so.

        Raises:
            UserError: the folder cannot be written, or another process is writing to it.
        """
        with writing(folder, 0), contextlib.ExitStack() as stack:
            folder.mkdir(parents=True, exist_ok=True)
            journal = stack.enter_context((folder / "journal.jsonl").open("ab"))
            if not try_lock(journal) or (folder / "header.json").exists():
                raise _busy(folder)
            journal.truncate(0)
            with (folder / "names.txt").open("wb") as text, (folder / "names.i64").open("wb") as ends:
                write_names(listing.ids, text.write, ends.write)
            np.asarray(listing.targets, dtype=np.int64).tofile(folder / "labels.i64")
            (folder / LINKS).unlink(missing_ok=True)
            for name in row_bytes_of(header):
                (folder / name).unlink(missing_ok=True)  # another result may share what was there
                (folder / name).write_bytes(b"")
            for name in FILES:
                if name != LINKS:  # written last
                    _sync(folder / name)
            write_header(folder, header)
        return cls(folder, header)

    def begin_part(self, folder: Path, start: int) -> Store:
        """A folder for a part of the images, from a row of the listing on, which has what this one has of an image.

        Raises:
            UserError: the folder cannot be written.
        """
        with writing(folder, 0):
            folder.mkdir(parents=True, exist_ok=True)
            for name in self.row_bytes:
                (folder / name).write_bytes(b"")
            begun = {**asdict(Progressed(start, 0, 0)), "skipped": []}
            (folder / "journal.jsonl").write_text(f"{json.dumps(begun)}\n")
            write_header(folder, self.header)
        return Store(folder, self.header)

    def __enter__(self) -> Store:
        """Open the files and truncate what was not committed."""
        with contextlib.ExitStack() as stack, writing(self.folder, self.done.kept):
            self._files: dict[str, IO[bytes]] = {}
            self._journal = stack.enter_context((self.folder / "journal.jsonl").open("r+b"))
            if not try_lock(self._journal):
                raise _busy(self.folder)
            self.done, self.skipped, _ = read_journal(self.folder)
            self._kept = self.done.kept
            for name, size in self.row_bytes.items():
                file = stack.enter_context((self.folder / name).open("r+b"))
                if file.seek(0, os.SEEK_END) < self.done.kept * size:
                    raise damaged_error(self.folder, ValueError(f"{name} is too short"))
                file.truncate(self.done.kept * size)
                file.seek(0, os.SEEK_END)
                self._files[name] = file
            self._journal.truncate(_whole_lines(self.folder))
            self._journal.seek(0, os.SEEK_END)
            self._open = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):  # on a full disk, the last flush fails again
            self._open.close()

    @property
    def row_bytes(self) -> dict[str, int]:
        """Bytes of each row, by the file that has them."""
        whole = row_bytes_of(self.header)
        return {name: size for name, size in whole.items() if name not in ADDED or (self.folder / name).exists()}

    def skip(self, row: int, reason: str) -> None:
        """Record why an image has no features."""
        self._fresh[row] = reason

    def note(self, notes: Mapping[int, str]) -> None:
        """Record what images that have features lack, by row."""
        self._fresh_notes |= notes

    def keep_ranges(self, ranges: Ranges) -> None:
        """Record which values of more than 8 bits became black and white.

        Raises:
            UserError: the folder cannot be written.
        """
        if dict(ranges) != dict(self.header.ranges):
            self.header = replace(self.header, ranges=dict(ranges))
            with writing(self.folder, self.done.kept):
                write_header(self.folder, self.header)

    def columns(
        self,
        rows: Sequence[int],
        fingerprints: Sequence[bytes],
        features: Float[Tensor, "b d"],
        stats: Sequence[FileStat] | None = None,
        sketches: Sequence[bytes] | None = None,
    ) -> dict[str, UInt8[np.ndarray, "b _bytes"]]:
        """What the files have of some images, a row of bytes for each."""
        n = len(rows)
        columns: dict[str, Shaped[np.ndarray, "..."]] = {
            FEATURES: features.contiguous().numpy(),
            "rows.i64": np.asarray(rows, dtype=np.int64),
            "fingerprints.bin": np.frombuffer(b"".join(fingerprints), np.uint8),
            "looks.i64": np.asarray([NO_STAT] * n if stats is None else stats, dtype=np.int64),
            SKETCHES: np.frombuffer(b"".join(sketches or [bytes(SKETCH.itemsize)] * n), np.uint8),
        }
        return {name: value.reshape(n, -1).view(np.uint8) for name, value in columns.items()} if n else {}

    def append_columns(self, columns: Mapping[str, UInt8[np.ndarray, "b _bytes"]]) -> None:
        """Add rows of ``columns``; what a folder of an older version did not keep is zero.

        Raises:
            UserError: the disk is full.
        """
        if not columns:
            return
        n, sizes = len(columns["rows.i64"]), row_bytes_of(self.header)
        with writing(self.folder, self.done.kept):
            for name, file in self._files.items():
                column = columns[name] if name in columns else np.zeros((n, sizes[name]), np.uint8)
                file.write(np.ascontiguousarray(column).data)
        self._kept += n

    def commit(self, looked_at: int, batch_size: int) -> None:
        """Write everything appended since the last commit to disk.

        Raises:
            UserError: the disk is full.
        """
        done = Progressed(looked_at, self._kept, batch_size)
        line = {**asdict(done), "skipped": list(self._fresh.items())}
        if self._fresh_notes:
            line["notes"] = list(self._fresh_notes.items())
        with writing(self.folder, self.done.kept):
            for file in self._files.values():
                file.flush()
                os.fsync(file.fileno())
            self._journal.write(f"{json.dumps(line)}\n".encode())
            self._journal.flush()
            os.fsync(self._journal.fileno())
        self.done = done
        self.skipped |= self._fresh
        self._fresh, self._fresh_notes = {}, {}


def write_links(folder: Path, links: Int64[np.ndarray, "m 2"]) -> None:
    """Note which rows are other names of a file, and of which row's.

    Raises:
        UserError: the folder cannot be written.
    """
    atomic_write(folder / LINKS, links.astype(np.int64).tobytes())


def check_free(folder: Path) -> None:
    """Raise a UserError if the folder has anything but the files of a process that was killed at its start."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file: give another --out.")
    found = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    odd = next((name for name in found if name not in FILES and not name.endswith(".tmp")), None)
    if odd is not None:
        raise UserError(f"{folder} holds other things, such as {odd}: give another --out.")


def check_idle(folder: Path) -> None:
    """Raise a UserError if another process is writing to the folder."""
    with writing(folder, 0), (folder / "journal.jsonl").open("r+b") as journal:
        if not try_lock(journal):
            raise _busy(folder)


@contextlib.contextmanager
def writing(folder: Path, kept: int) -> Iterator[None]:
    """Turn an OSError into a UserError that says what is kept."""
    try:
        yield
    except OSError as error:
        need = "make room" if error.errno in DISK_FULL else "see that it can be written"
        advice = f"the features of {kept} images are kept: {need}, then run the same command again to resume"
        if not kept and error.errno not in DISK_FULL:
            advice = "give another --out"
        raise UserError(f"cannot write to {folder} ({error.strerror or error}): {advice}.") from error


def write_header(folder: Path, header: Header) -> None:
    """Write what a folder is created for.

    Raises:
        UserError: it cannot be written.
    """
    version = FORMAT if header.spec.parts else SINGLE
    values = {"format": version, **asdict(header), "spec": header.spec.as_values()}
    atomic_write(folder / "header.json", f"{json.dumps(values, indent=2)}\n".encode())


def _whole_lines(folder: Path) -> int:
    """Return the size of the journal up to its last complete line, in bytes."""
    return (folder / "journal.jsonl").read_bytes().rfind(b"\n") + 1


def _busy(folder: Path) -> UserError:
    advice = "wait until it is done, or give another --out"
    return UserError(f"another process is embedding images into {folder}: {advice}.")


def _sync(path: Path) -> None:
    with path.open("r+b") as file:
        os.fsync(file.fileno())


def remove_features(folder: Path) -> None:
    """Remove the files of a folder of features, with what a kill has left of them, and nothing else that is there."""
    for name in ("header.json", *FILES):
        for path in (folder / name, *folder.glob(f".{name}.*.tmp")):
            path.unlink(missing_ok=True)
    shutil.rmtree(folder / SHARDS, ignore_errors=True)


def write_features(
    folder: Path,
    header: Header,
    listing: Listing,
    features: Float[Tensor, "n d"],
    *,
    known: Iterable[tuple[bytes, bytes]],
    stats: Int64[Tensor, "n 3"] | None,
    skipped: Mapping[int, str],
    notes: Mapping[int, str],
) -> None:
    """Write a finished folder at once, of features that are there already.

    Args:
        folder: new, or empty.
        header: what the folder is created for.
        listing: names and true classes of all images.
        features: of the first of these, as many as there are rows.
        known: of each of these 16 bytes, equal for equal images, and a sketch (``data.sketch``).
        stats: of their files.
        skipped: why the other rows have none.
        notes: what rows with features lack.

    Raises:
        UserError: the folder cannot be written, or holds features already.
    """
    with Store.begin(folder, header, listing) as store:
        for row, reason in skipped.items():
            store.skip(row, reason)
        store.note(notes)
        seen = None if stats is None else [(size, changed, entry) for size, changed, entry in stats.tolist()]
        fingerprints, sketches = zip(*known, strict=True)
        store.append_columns(store.columns(range(len(features)), fingerprints, features.float(), seen, sketches))
        store.commit(header.n, len(features))
