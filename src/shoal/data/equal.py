"""Equal files among millions, by their fingerprints: in hash buckets, of which one is sorted at a time."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from shoal.mapped import release, scratch

BUCKET_ROWS = 2**20
"""Mean number of rows in a bucket: sorting it takes some 50 MB."""

_READ = 2**18


def first_of_each(fingerprints: UInt8[Tensor, "n 16"]) -> Int64[Tensor, "n"]:
    """For each row the first row with the same fingerprint: itself, if it is the first or only one.

    Fingerprints are hashes, so that their first bits share the rows out evenly among buckets.
    """
    n = len(fingerprints)
    first = scratch((n,), torch.int64)
    bits = max(0, (n - 1) // BUCKET_ROWS).bit_length()
    for bucket in range(2**bits):
        rows, words = _of_bucket(fingerprints, bucket, bits)
        order = np.lexsort((words[:, 1], words[:, 0]))  # stable: among equals the first row comes first
        ordered = words[order]
        starts = np.flatnonzero(np.append(True, (ordered[1:] != ordered[:-1]).any(1))[: len(rows)])
        leaders = np.repeat(rows[order[starts]], np.diff(np.append(starts, len(rows))))
        first[torch.from_numpy(rows[order])] = torch.from_numpy(leaders)
        release(first)
    return first


def _of_bucket(
    fingerprints: UInt8[Tensor, "n 16"], bucket: int, bits: int
) -> tuple[Int64[np.ndarray, "m"], np.ndarray]:
    """Rows whose fingerprints begin with some bits, and these as two whole numbers each."""
    rows, words = [np.zeros(0, np.int64)], [np.zeros((0, 2), np.uint64)]
    for start in range(0, len(fingerprints), _READ):
        found = np.ascontiguousarray(fingerprints[start : start + _READ].numpy()).view(np.uint64)
        own = np.flatnonzero(found[:, 0] >> np.uint64(64 - bits) == bucket) if bits else np.arange(len(found))
        rows.append(start + own)
        words.append(found[own])
    release(fingerprints)
    return np.concatenate(rows), np.concatenate(words)


def first_rows(first: Int64[Tensor, "n"]) -> Int64[Tensor, "m"]:
    """The rows that are the first with their fingerprint."""
    rows, end = scratch((len(first),), torch.int64), 0
    for start in range(0, len(first), _READ):
        part = first[start : start + _READ]
        own = start + (part == torch.arange(start, start + len(part))).nonzero()[:, 0]
        rows[end : end + len(own)] = own
        end += len(own)
        release(rows, first)
    return rows[:end]


def later_copies(first: Int64[Tensor, "n"]) -> Int64[np.ndarray, "m"]:
    """Rows that are equal to an earlier one, ascending."""
    copies = [np.zeros(0, np.int64)]
    for start in range(0, len(first), _READ):
        part = first[start : start + _READ].numpy()
        copies.append(start + np.flatnonzero(part != np.arange(start, start + len(part))))
    return np.concatenate(copies)


def equal_groups(first: Int64[Tensor, "n"]) -> Iterator[list[int]]:
    """Rows that are equal to others, group by group, ascending."""
    later = later_copies(first)
    leads = first.numpy()[later]
    order = np.argsort(leads, kind="stable")
    starts = np.flatnonzero(np.append(True, np.diff(leads[order]) != 0)[: len(order)])
    for begin, end in zip(starts.tolist(), np.append(starts, len(order))[1:].tolist(), strict=True):
        rows = later[order[begin:end]]
        yield [int(leads[order[begin]]), *rows.tolist()]
