"""The features of a result for a second one, which then stands by itself."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int64
from torch import Tensor

from shoal.data.listing import Listing, Names
from shoal.errors import UserError
from shoal.features.embedded import (
    FEATURES,
    FILES,
    Header,
    mapped,
    open_embedded,
    read_header,
    read_journal,
    stored_columns,
)
from shoal.features.encoder import EncoderSpec
from shoal.features.store import Store, check_free, write_header, write_links, writing

_SMALL = ("header.json", "journal.jsonl")
"""Copied: these alone are ever written to in place."""

_CHUNK = 8192
"""Images that are copied at once."""


def share_features(folder: Path, target: Path, index: Int64[np.ndarray, "m"]) -> None:
    """Give another folder the features of some images of a finished one, by hard links if these are all.

    Where there can be no hard links they are copied. The same features that are there already are left as they are.

    Args:
        folder: of finished features.
        target: new, or empty, or left by an interrupted call.
        index: images, ascending.

    Raises:
        UserError: the folder is damaged, or the target holds something else or cannot be written.
    """
    header, n = read_header(folder), len(open_embedded(folder).rows)
    assert header is not None
    whole = len(index) == n
    if not whole:
        digest = blake2b(header.images.encode() + index.tobytes(), digest_size=16).hexdigest()
        header = replace(header, n=header.n - n + len(index), images=digest)
    there = read_header(target)
    if there is not None:
        if there == header:
            return
        raise UserError(f"{target} holds features of other images: give another --out, or remove this one.")
    check_free(target)
    with writing(target, 0):
        target.mkdir(parents=True, exist_ok=True)
        if whole:
            _link(folder, target, (*FILES, "header.json"))  # the header last: with it the folder is one of features
        else:
            _copy(folder, target, index, header)


def replace_features(folder: Path, target: Path, features: Float[Tensor, "n d"], spec: EncoderSpec) -> None:
    """Give another folder the images of a finished one, with the features that another network makes of them.

    Args:
        folder: of finished features.
        target: new, or empty.
        features: a row for each of these.
        spec: of the network.

    Raises:
        UserError: the folder is damaged, or the target holds something else or cannot be written.
    """
    header = read_header(folder)
    assert header is not None
    check_free(target)
    with writing(target, 0):
        target.mkdir(parents=True, exist_ok=True)
        _link(folder, target, (name for name in FILES if name != FEATURES))
        (target / FEATURES).write_bytes(features.float().contiguous().numpy().tobytes())
    write_header(target, replace(header, spec=spec, n_features=features.shape[1]))


def _link(folder: Path, target: Path, names: Iterable[str]) -> None:
    for name in names:
        if not (folder / name).exists():  # of an older version
            continue
        (target / name).unlink(missing_ok=True)
        if name not in _SMALL:
            try:
                os.link(folder / name, target / name)
                continue
            except OSError:
                pass  # another file system, or one without hard links
        shutil.copy(folder / name, target / name)


def _copy(folder: Path, target: Path, index: Int64[np.ndarray, "m"], header: Header) -> None:
    embedded = open_embedded(folder)
    rows, (_, skipped, notes) = embedded.rows.numpy(), read_journal(folder)
    ends = mapped(folder / "names.i64", np.int64, (-1,))
    names = Names.from_buffers(mapped(folder / "names.txt", np.uint8, (-1,)), ends)
    left = np.ones(len(names), dtype=bool)
    left[np.delete(rows, index)] = False
    place = np.cumsum(left) - 1
    labels = np.fromfile(folder / "labels.i64", np.int64)[left]
    shorter = Listing(names.take(np.flatnonzero(left)), labels, header.classes, lambda: iter(()))
    columns = stored_columns(folder, len(rows))
    temporary = target.with_name(f".{target.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    with Store.begin(temporary, header, shorter) as store:
        for row, reason in skipped.items():
            store.skip(int(place[row]), reason)
        kept = set(rows[index].tolist())
        store.note({int(place[row]): note for row, note in notes.items() if row in kept})
        for start in range(0, len(index), _CHUNK):
            part = index[start : start + _CHUNK]
            found = {name: columns[name][part] for name in store.row_bytes.keys() & columns.keys()}
            found["rows.i64"] = place[rows[part]].astype(np.int64)[:, None].view(np.uint8)
            store.append_columns(found)
        store.commit(header.n, header.batch_size)
    if embedded.links is not None:
        links = embedded.links.numpy()
        write_links(temporary, np.searchsorted(index, links[np.isin(links, index).all(1)]))
    target.rmdir()
    temporary.rename(target)
