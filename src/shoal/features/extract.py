"""Images in, features on the disk: what is there already, what is left, and which process does it."""

from __future__ import annotations

import contextlib
import glob
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from secrets import token_hex
from typing import Any

import numpy as np
from jaxtyping import Int64

from shoal import cores, distributed, job
from shoal.data.equal import equal_groups, first_of_each
from shoal.data.file_stats import has_stats, stats_in
from shoal.data.greys import ANY, Ranges, Scale
from shoal.data.links import other_names
from shoal.data.listing import Listing, Source, source_digest
from shoal.data.reach import out_of_reach
from shoal.data.reading import source_scale
from shoal.data.unread import nothing_readable, refuse_skipped
from shoal.errors import UserError
from shoal.features.batching import choose_batch_size
from shoal.features.embedded import Embedded, Header, has_links, is_begun, open_embedded, read_header
from shoal.features.encoder import Encoder
from shoal.features.filling import Filling, block_size
from shoal.features.known import Known
from shoal.features.matching import Matched, Prepare, match, match_once
from shoal.features.shards import Span, cut, gaps, shard_folder, shards_of, span_of, take_in
from shoal.features.store import Store, check_free, check_idle, remove_features, write_links, writing
from shoal.folder import ASIDE
from shoal.progress import ProgressCallback

_SEEN_SECONDS = 40.0
"""Time in which what one machine writes must be seen by the others: network drives remember what was not there."""


def embed(
    source: Source,
    encoder: Encoder,
    folder: Path,
    *,
    earlier: tuple[Path, Matched] | None = None,
    own: bool = False,
    ranges: Ranges | None = None,
    strict: bool = False,
    progress: ProgressCallback | None = None,
) -> Embedded:
    """Compute the features of all images and keep them in ``folder``; resume from those already saved.

    A process killed at any moment loses a second of work: the next call resumes, and computes the same features bit by
    bit on the same machine, on any number of processes. Images that have come, gone or changed since are seen: the
    features of all others are kept. Memory does not grow with the number of images.

    The processes of a job call it together; each embeds its part, and the folder is that of one process.

    Args:
        source: the images.
        encoder: what makes features of them.
        folder: where they are kept.
        earlier: another folder of the encoder's features, and where its images are in ``source``; they are taken over.
        own: the features are those of a training run in its own folder, which tells images by their pixels.
        ranges: what becomes black and white, by type of number; the source is measured for others of more than 8 bits.
        strict: whether to fail on the first image that cannot be read instead of skipping it.
        progress: reports how many images are done, of how many.

    Raises:
        UserError: the folder has features of another encoder or of other images, no image can be read, or, if
            ``strict``, one that cannot; the disk is full; the drive of the images has gone away; processes see
            different images, or not the same folder.
    """
    work = _Embedding(source, encoder, folder, own, ranges or {}, strict)
    work.check_agreed()
    job.of_first(work.begin)
    header = work.seen_by_all()
    if job.of_first(lambda: str(Store(folder, header).done.looked_at < header.n)) == str(True):
        _fill(work, header, earlier, progress)
    job.of_first(work.complete)
    found = open_embedded(folder)
    job.meet()  # from here on the first process may rename the folder
    return found


@dataclass(frozen=True, eq=False)
class _Embedding:
    """What is embedded, how, and where to; the first process writes the folder."""

    source: Source
    encoder: Encoder
    folder: Path
    own: bool
    ranges: Ranges
    strict: bool

    @cached_property
    def listing(self) -> Listing:
        """The images."""
        return self.source.listing()

    @cached_property
    def images(self) -> str:
        """Tells them from others."""
        return source_digest(self.source, self.listing)

    def check_agreed(self) -> None:
        """Raise a UserError where processes find different images, or have different networks."""
        job.check_agreed(
            self.images,
            lambda: (
                f"{job.this_process()} finds other images than the first process: give all machines the same "
                "files, with the same names, sizes and times, as in a folder that they share."
            ),
        )
        name = self.encoder.spec.name
        job.check_agreed(
            self.encoder.spec.digest,
            lambda: (
                f"{job.this_process()} has other weights of {name} than the first process: give all machines the same."
            ),
        )

    def prepare(self, begun: Ranges) -> Prepare | None:
        """What makes pixels of images that are told apart by them."""
        return partial(self.encoder.prepare, scale=Scale(begun or self.ranges)) if self.own else None

    def begin(self) -> None:
        """Create the folder, or see that what is there belongs to the same images.

        Raises:
            UserError: as ``embed``.
        """
        header = read_header(self.folder)
        begun: Ranges = {} if header is None else header.ranges
        if header is not None and header.ranges != self.ranges and not is_begun(self.folder):  # it failed for its range
            check_idle(self.folder)
            remove_features(self.folder)
            header, begun = None, {}
        if header is not None:
            _check_same(self.folder, header, self.encoder)
            _check_range(self.folder, header, self.ranges)
            skipped = _skipped(self.folder, header)
            differ = header.images != self.images or _were_replaced(self.folder, self.listing)
            if differ or any(map(out_of_reach, skipped.values())):
                _set_aside(self.folder, header, self.source, self.prepare(begun))
                header = None
            elif self.strict:
                refuse_skipped({self.listing.ids[row]: reason for row, reason in sorted(skipped.items())})
        if header is None:
            check_free(self.folder)
            spec, pixels = self.encoder.spec, None
            if self.own:
                spec, pixels = replace(spec, name=""), self.encoder.input_size
            size, known = choose_batch_size(self.encoder), {**begun, **self.ranges}
            n, classes = len(self.listing.ids), self.listing.classes
            header = Header(spec, n, self.encoder.n_features, size, self.images, classes, pixels, known)
            Store.begin(self.folder, header, self.listing)

    def seen_by_all(self) -> Header:
        """What the folder is for, as every process sees it.

        Raises:
            UserError: this process does not see what the first one writes.
        """
        word = job.of_first(self._leave_word)
        if word:
            _wait_for(self.folder / word)
            job.meet()
            if distributed.is_first():
                (self.folder / word).unlink(missing_ok=True)
        header = read_header(self.folder)
        assert header is not None
        return header

    def _leave_word(self) -> str:
        """Write a file that nobody else has, where there are others to look for it, and return its name."""
        word = f".{token_hex(8)}.tmp" if distributed.world_size() > 1 else ""
        if word:
            with writing(self.folder, 0):
                (self.folder / word).touch()
        return word

    def earlier(self, given: tuple[Path, Matched] | None, begun: Ranges) -> list[tuple[Path, Matched]]:
        """Folders that have some of the features, and where their images are."""
        prepare = self.prepare(begun)
        found = [(path, match_once(open_embedded(path, unfinished=True), self.source, prepare)) for path in self.asides]
        return [*([given] if given else []), *found]

    @property
    def asides(self) -> list[Path]:
        """Features of images that have changed since, until those of all images are there."""
        named = self.folder.parent.glob(f"{glob.escape(self.folder.name)}{ASIDE}*")
        return sorted(path for path in named if (path / "header.json").is_file())

    def complete(self) -> None:
        """Note what is found out in the end, and remove what is no longer needed.

        Raises:
            UserError: no image could be read, or the folder cannot be written.
        """
        for aside in self.asides:
            remove_features(aside)
            with contextlib.suppress(OSError):  # somebody has put something there
                aside.rmdir()
        header = read_header(self.folder)
        assert header is not None
        store = Store(self.folder, header)
        if not store.done.kept:
            raise UserError(nothing_readable({self.listing.ids[row]: why for row, why in store.skipped.items()}))
        if not has_links(self.folder):
            write_links(self.folder, _links(open_embedded(self.folder), self.listing))


def _fill(
    work: _Embedding, header: Header, given: tuple[Path, Matched] | None, progress: ProgressCallback | None
) -> None:
    """Compute what no earlier folder has, and take over the rest; each process has its part of the rows.

    The first process writes into the folder itself, since its rows follow what is there, and takes in the shards of the
    others once all of them are done.
    """
    known = Known.found(work.earlier(given, header.ranges), header.n)
    store = Store(work.folder, header)
    with contextlib.ExitStack() as stack:
        if distributed.is_first():
            stack.enter_context(store)
        old = _taken_in(store, known) if distributed.is_first() else []
        plan = json.loads(job.of_first(lambda: json.dumps(_plan(store, old, known))))
        store.header = replace(header, ranges={name: (low, high) for name, (low, high) in plan["ranges"].items()})
        scale, tally = source_scale(work.listing, store.header.ranges), job.Tally(progress, plan["done"], header.n)
        for start, end in plan["spans"][distributed.rank()]:
            if distributed.is_first():
                take_in(store, old)
            _fill_span(work, store, (start, end), known, scale, tally)
        tally.finish()
        if distributed.is_first():
            others = [shard_folder(work.folder, start) for spans in plan["spans"][1:] for start, _ in spans]
            for folder in others:
                _wait_for(folder / "header.json")
            take_in(store, sorted([*old, *(Store(folder, header) for folder in others)], key=span_of))


def _fill_span(work: _Embedding, store: Store, span: Span, known: Known, scale: Scale, tally: job.Tally) -> None:
    """Compute some rows, in the folder itself or in a shard of it."""
    start, end = span
    own = (end, work.encoder, work.listing, known, scale)
    if distributed.is_first():
        Filling(store, *own, strict=work.strict).run(tally.count)
    else:
        with store.begin_part(shard_folder(work.folder, start), start) as shard:
            Filling(shard, *own, strict=work.strict).run(tally.count)
    tally.keep()


def _taken_in(store: Store, known: Known) -> list[Store]:
    """Take in the shards of an earlier job that follow what is there; returns those that do not follow yet."""
    store.note(known.notes)
    old = shards_of(store.folder)
    for shard in old:
        store.keep_ranges({**shard.header.ranges, **store.header.ranges})
    take_in(store, old)
    return [shard for shard in old if shard.folder.is_dir()]


def _plan(store: Store, old: Sequence[Store], known: Known) -> dict[str, Any]:
    """Which rows each process computes, and what all need to know for it."""
    n = store.header.n
    left = gaps(store.done.looked_at, n, [span_of(shard) for shard in old])
    missing = np.asarray(known.missing(0, n), np.int64)
    spans = cut(left, missing, block_size(store.header.batch_size), distributed.world_size())
    done = n - sum(end - start for start, end in left)
    return {"spans": spans, "done": done, "ranges": dict(store.header.ranges)}


def _skipped(folder: Path, header: Header) -> dict[int, str]:
    """Reasons of rows that a folder and its shards have no features of."""
    found = Store(folder, header).skipped
    for shard in shards_of(folder):
        found |= shard.skipped
    return found


def _wait_for(path: Path) -> None:
    """Wait until this machine sees what another one has written.

    Raises:
        UserError: it does not.
    """
    until = time.monotonic() + _SEEN_SECONDS
    while not path.is_file():
        if cores.n_nodes() == 1 or time.monotonic() > until:
            raise UserError(
                f"{job.this_process()} does not see {path.parent.absolute()}, into which another process writes: give "
                "an --out on a file system that all machines share."
            )
        job.check_others()
        time.sleep(0.5)


def _links(embedded: Embedded, listing: Listing) -> Int64[np.ndarray, "m 2"]:
    """Rows that are other names of a file, and the row of that file."""
    return other_names(
        lambda row: listing.path(int(embedded.rows[row])), equal_groups(first_of_each(embedded.fingerprints))
    )


def _were_replaced(folder: Path, listing: Listing) -> bool:
    """Whether a file has changed since it was read, although its size and its time of writing have not."""
    kept = open_embedded(folder, unfinished=True)
    if kept.stats is None or not has_stats(listing):
        return False
    return not np.array_equal(stats_in(listing, kept.rows.numpy()), kept.stats.numpy())


def _set_aside(folder: Path, header: Header, source: Source, prepare: Prepare | None) -> None:
    """Give way to features of the images as they are now.

    Raises:
        UserError: none of the images is among them, or another process is writing to the folder.
    """
    kept = open_embedded(folder, unfinished=True)
    if len(kept.rows) and not len(match(kept, source, prepare).there):
        raise UserError(f"{folder} holds features of other images: give another --out, or remove this one.")
    with Store(folder, header) as store:
        take_in(store, shards_of(folder), holes=True)
    number = 1
    while (aside := folder.with_name(f"{folder.name}{ASIDE}{number}")).exists():
        number += 1
    with writing(folder, len(kept.rows)):
        folder.rename(aside)


def _check_same(folder: Path, header: Header, encoder: Encoder) -> None:
    """Raise a UserError when the folder was begun with another encoder."""
    mine, theirs = encoder.spec, header.spec
    if not mine.is_same_as(theirs):
        whose = f"other weights of {theirs.name}" if mine.name == theirs.name else theirs.name
        raise UserError(
            f"{folder} holds features of {whose}, not of {mine.name}: give another --out, or remove this one."
        )


def _check_range(folder: Path, header: Header, ranges: Ranges) -> None:
    """Raise a UserError when another range is asked for than the folder was begun with."""
    begun = dict(header.ranges)
    if (ranges and begun | dict(ranges) != begun) or (ANY in begun and not ranges):
        raise UserError(
            f"{folder} was begun with another --data.range: give the same again, another --out, or remove this one."
        )
