"""Image files into one folder per cluster: a plan to review, then the files, and a manifest that undoes it."""

from __future__ import annotations

import errno
import io
import os
import shlex
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import repeat
from pathlib import Path
from typing import overload

import numpy as np
import torch
from jaxtyping import Int64
from PIL import Image
from torch import Tensor

from shoal.clustering.grouping import present_groups
from shoal.data.greys import Samples, Scale
from shoal.data.kinds import is_image_name
from shoal.data.listing import Names
from shoal.data.reading import Content, open_content
from shoal.errors import UserError
from shoal.files import real
from shoal.progress import counted
from shoal.sort import checks
from shoal.sort.manifest import How, Step, Writer, holder
from shoal.sort.moving import digest, move, put
from shoal.sort.names import distinct_names, folded, folder_names, numbered, portable_name, safe_name

_READ = 65_536
_AT_ONCE = 64
"""Steps whose intentions are flushed to the disk together."""
_BYTES_AT_ONCE = 2**25
_WIDEST = 40
"""Width of the column of folders, in characters; a longer name pushes its number to the right."""


@dataclass(frozen=True, eq=False)
class Plan:
    """Where each image goes: ``destinations`` under the folder ``into``, "" for an image that stays where it is.

    ``sources`` are absolute, None where an image lies inside an archive, a table, a video or a storage. ``n_renamed``
    images have another name than before, because their folder has that one already, and ``n_adapted`` because the file
    system cannot hold the one they had. ``n_bytes`` counts the files of their own, and images whose storage says how
    large they are; there are ``n_unsized`` others.
    """

    into: Path
    sources: Sequence[Path | None]
    destinations: Sequence[str]
    n_renamed: int
    n_bytes: int
    n_adapted: int = 0
    n_unsized: int = 0
    archives: Sequence[Path] = ()
    """The files that images without a file of their own lie inside."""

    @cached_property
    def folders(self) -> dict[str, int]:
        """How many files each folder gets, in the order of their names."""
        return dict(sorted(Counter(target.partition("/")[0] for target in self.destinations if target).items()))

    def check(self, how: How) -> None:
        """Raise a UserError for what would stop it on the way, before anything is done."""
        checks.check_sources(self.rows, how)
        checks.check_room(self.into, self.n_bytes, (source for _, source, _ in self.rows()), how)
        checks.check_free_targets(self.into, self.folders, (target for _, _, target in self.rows()))
        checks.check_free_stems(
            self.into, (target for _, source, target in self.rows() if _lacks_ending(source, target))
        )

    def rows(self) -> Iterator[tuple[int, Path | None, str]]:
        """Number, source and target of each image that goes somewhere."""
        for row, (source, target) in enumerate(zip(self.sources, self.destinations, strict=True)):
            if target:
                yield row, source, target

    def summary(self, how: How) -> str:
        """What would happen, in words and a line for each folder."""
        folders = self.folders
        n = sum(folders.values())
        lines = [f"{how} {counted(n, 'file')} ({self.n_bytes / 1e6:.1f} MB) into {self.into}"]
        width = min(_WIDEST, max(map(len, map(_shown, folders)), default=0))
        lines += [f"  {_shown(folder):<{width}}  {count}" for folder, count in folders.items()]
        if self.n_unsized:
            come = "comes" if self.n_unsized == 1 else "come"
            lines.append(f"{self.n_unsized} of them {come} out of archives, tables or videos, on top of that size")
        if self.n_renamed:
            get, their = ("gets", "its") if self.n_renamed == 1 else ("get", "their")
            lines.append(f"{self.n_renamed} {get} a number after {their} name: {their} folder has that name already")
        if self.n_adapted:
            get, have = ("gets", "it has") if self.n_adapted == 1 else ("get", "they have")
            refused = 'marks such as : ? * " <, endings or words'
            lines.append(f"{self.n_adapted} {get} another name: {self.into} cannot hold the {refused} that {have}")
        if left := len(self.destinations) - n:
            stay = ("image is", "stays where it is") if left == 1 else ("images are", "stay where they are")
            lines.append(f"{left} {stay[0]} in no cluster and {stay[1]}")
        apart = sum(checks.on_other_disk(self.into, (source for _, source, _ in self.rows() if source is not None)))
        if apart and how != "copy":
            effect = "each is copied, checked and removed" if how == "move" else "links there need it mounted"
            lines.append(f"{counted(apart, 'lies', 'lie')} on another file system: {effect}")
        return "\n".join(lines)

    def carry_out(
        self,
        how: How,
        contents: Callable[[Sequence[int]], Iterator[Content]] | None = None,
        skip: Callable[[str], object] | None = None,
    ) -> Path:
        """Do it; returns the manifest that ``undo`` takes.

        Links are symbolic and absolute: they show where an image is, and do not change with it by accident, as hard
        links would. Intentions are on the disk before anything is done.

        Args:
            how: what becomes of the files.
            contents: reads the images of some rows, which ascend: of those inside archives, tables, videos or storages.
            skip: told why one of these is left out; by default that is an error.

        Raises:
            UserError: it would overwrite something, cannot be done, or stopped on the way (and can be undone).
        """
        self.check(how)
        made = ([] if self.into.exists() else [""]) + [name for name in self.folders if not (self.into / name).exists()]
        try:
            self.into.mkdir(parents=True, exist_ok=True)
            writer = Writer(self.into, how, made, [holder(path) for path in self.archives])
        except OSError as error:
            raise UserError(f"cannot write into {self.into}: {error.strerror}.") from error
        try:
            for name in self.folders:
                (self.into / name).mkdir(exist_ok=True)
            for batch in _batches(self._steps(how, contents, skip)):
                for step, _ in batch:
                    if os.path.lexists(self.into / step.target):  # undoing must not take it for ours
                        raise FileExistsError(errno.EEXIST, f"{self.into / step.target} exists already")
                writer.intend([step for step, _ in batch])
                for step, content in batch:
                    self._do(step, how, content, writer.part)
        except OSError as error:
            what = f"cannot {how} files into {self.into}: {error.strerror or error}."
            raise UserError(f"{what} {_undo_hint(writer.path)}") from error
        except UserError as error:
            raise UserError(f"{error} {_undo_hint(writer.path)}") from error
        except BaseException as stop:
            stop.add_note(_undo_hint(writer.path))
            raise
        finally:
            writer.close()
        return writer.path

    def _steps(
        self,
        how: How,
        contents: Callable[[Sequence[int]], Iterator[Content]] | None,
        skip: Callable[[str], object] | None,
    ) -> Iterator[tuple[Step, bytes]]:
        """Each step, and what is written where that is a copy."""
        inside = [row for row, source, _ in self.rows() if source is None]
        assert contents is not None or not inside, "images inside archives come with their contents"
        blobs = contents(inside) if contents is not None and inside else iter(())
        free = self._namer()
        for _, source, planned in self.rows():
            if source is None:
                try:
                    data, ending = as_file(next(blobs, None), planned)
                except UserError as error:
                    if skip is None:
                        raise
                    skip(str(error))
                    continue
                target = free(planned + ending if _lacks_ending(source, planned) else planned)
                yield Step(None, target, digest(data)), data
                continue
            target = free(planned)
            if how == "copy":
                data = source.read_bytes()
                yield Step(str(source), target, digest(data)), data
            else:
                yield Step(str(source), target), b""

    def _namer(self) -> Callable[[str], str]:
        """Numbers a name that an image got together with its ending, which is known only once it is read."""
        if not any(_lacks_ending(source, target) for _, source, target in self.rows()):
            return str
        to_come = deque[str](maxlen=_AT_ONCE)  # given out, and perhaps not there yet

        def free(target: str) -> str:
            folder, _, name = target.rpartition("/")
            number, found = 1, target
            while folded(found) in to_come or os.path.lexists(self.into / found):
                number += 1
                found = f"{folder}/{numbered(name, number)}"
            to_come.append(folded(found))
            return found

        return free

    def _do(self, step: Step, how: How, content: bytes, part: Path) -> None:
        target = self.into / step.target
        if step.source is None:
            put(content, target, part)
        elif how == "copy":
            put(content, target, part, Path(step.source))
        elif how == "link":
            target.symlink_to(step.source)
        else:
            move(Path(step.source), target, part)


def plan_sort(
    ids: Sequence[str],
    paths: Sequence[Path | None],
    clusters: Int64[Tensor, "n"],
    names: Mapping[int, str],
    into: Path,
    folders_of_images: Sequence[Path] = (),
    sizes: Sequence[int] = (),
    archives: Sequence[Path] = (),
) -> Plan:
    """Plan a folder for each cluster under ``into``; nothing is written.

    Args:
        ids: names of the images.
        paths: their files, None for what lies inside an archive or a table.
        clusters: −1 for an image that stays where it is.
        names: of clusters that have one; folders are named so, or cluster-03.
        into: a new folder, or one that has no files of these names.
        folders_of_images: those that are looked at for images.
        sizes: bytes of those that have no file, as their storage says; −1 where it does not. Empty: of none.
        archives: the files that images without one of their own lie inside.

    Raises:
        UserError: a file is gone; ``into`` lies in the source, or files in ``into``.
    """
    into = real(into)
    folders = folder_names(present_groups(clusters).tolist(), names)
    sources = Planned("" if path is None else str(checks.located(path)) for path in paths)
    checks.check_apart(into, sources, folders_of_images)

    def names_of() -> Iterator[str]:
        for name, path in zip(ids, sources, strict=True):
            yield path.name if path else safe_name(name.rpartition("/")[2], "image")

    fits = all(portable_name(name) == name for name in names_of()) or checks.holds_any_name(into)

    def wanted() -> Iterator[tuple[str, str, str]]:
        for label, name in zip(_numbers(clusters), names_of(), strict=True):
            if label >= 0:
                yield folders[label], name if fits else portable_name(name), name

    counts = Counter[str]()

    def destinations() -> Iterator[str]:
        given = distinct_names(
            lambda: ((folder, fitting) for folder, fitting, _ in wanted()), int((clusters >= 0).sum())
        )
        named = zip(wanted(), given, strict=True)
        for label, source, size in zip(_numbers(clusters), sources, sizes or repeat(-1, len(paths)), strict=True):
            if label < 0:
                yield ""
                continue
            (folder, fitting, name), found = next(named)
            counts["renamed"] += found != fitting
            counts["adapted"] += fitting != name
            counts["bytes"] += source.stat().st_size if source else max(0, size)
            counts["unsized"] += source is None and size < 0
            yield f"{folder}/{found}"

    targets = Names(destinations())
    return Plan(
        into,
        sources,
        targets,
        n_renamed=counts["renamed"],
        n_bytes=counts["bytes"],
        n_adapted=counts["adapted"],
        n_unsized=counts["unsized"],
        archives=archives,
    )


class Planned(Sequence[Path | None]):
    """Files of many images, as text until they are asked for; None for one that has no file of its own."""

    def __init__(self, paths: Iterable[str]) -> None:
        self._paths = Names(paths)

    def __len__(self) -> int:
        return len(self._paths)

    @overload
    def __getitem__(self, index: int) -> Path | None: ...
    @overload
    def __getitem__(self, index: slice) -> list[Path | None]: ...
    def __getitem__(self, index: int | slice) -> Path | list[Path | None] | None:
        if isinstance(index, slice):
            return [_path(text) for text in self._paths[index]]
        return _path(self._paths[index])

    def __iter__(self) -> Iterator[Path | None]:
        return map(_path, self._paths)


def _lacks_ending(source: Path | None, target: str) -> bool:
    """Whether an image out of an archive gets an ending, once it is read."""
    return source is None and not is_image_name(target)


def _path(text: str) -> Path | None:
    return Path(text) if text else None


def _numbers(clusters: Int64[Tensor, "n"]) -> Iterator[int]:
    for part in torch.split(clusters, _READ):
        yield from part.tolist()


def _batches(steps: Iterable[tuple[Step, bytes]]) -> Iterator[list[tuple[Step, bytes]]]:
    batch: list[tuple[Step, bytes]] = []
    for step in steps:
        batch.append(step)
        if len(batch) == _AT_ONCE or sum(len(content) for _, content in batch) > _BYTES_AT_ONCE:
            yield batch
            batch = []
    if batch:
        yield batch


def as_file(data: Content | None, target: str) -> tuple[bytes, str]:
    """The bytes of an image file and the ending that goes with them; pixels become a PNG.

    Raises:
        UserError: it cannot be read as it was clustered.
    """
    if data is None or isinstance(data, str):
        reason = data or "its archive has fewer images now"
        raise UserError(f"the image for {_shown(target)} can no longer be read ({reason}): bring it back as it was.")
    if isinstance(data, np.ndarray | Samples):
        file = io.BytesIO()
        if isinstance(data, Samples) and data.kind == "uint16" and data.values.ndim == 2:
            image = Image.fromarray(data.values)  # a PNG keeps all 16 bits
        else:
            image, _ = open_content(data, None, Scale())
        image.save(file, "PNG")
        return file.getvalue(), ".png"
    try:
        with Image.open(io.BytesIO(data)) as image:
            kind = image.format or ""
    except OSError:
        kind = ""
    return data, {"JPEG": ".jpg", "TIFF": ".tif"}.get(kind, f".{kind.lower()}" if kind else "")


def _undo_hint(manifest: Path) -> str:
    return f"To undo it: shoal sort --undo {shlex.quote(str(manifest))}"


def _shown(name: str) -> str:
    return os.fsencode(name).decode("utf-8", "replace")
