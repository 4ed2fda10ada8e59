"""What a person changed in the report: clusters merged and named, images put elsewhere."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor

from shoal.assignments import as_utf8
from shoal.errors import UserError


@dataclass(frozen=True, eq=False)
class Edited:
    """New clusters of some images, by their ids as tables hold them, and of all others by their old cluster.

    ``names`` are those of the new clusters, where they have one.
    """

    images: Mapping[str, int]
    clusters: Mapping[int, int]
    names: Mapping[int, str]

    def apply(self, ids: Sequence[str], clusters: Int64[Tensor, "n"]) -> Int64[Tensor, "n"]:
        """The new cluster of each image.

        Raises:
            UserError: an image of the file is none of these.
        """
        old = clusters.tolist()
        known = [as_utf8(name) for name in ids]
        odd = next(iter(self.images.keys() - set(known)), None)
        if odd is not None:
            raise UserError(f"{odd} is in the edited assignments and not in the clustering: give those of this one.")
        moved = (self.images.get(name, self.clusters.get(was, was)) for name, was in zip(known, old, strict=True))
        return torch.tensor(list(moved), dtype=torch.int64)


def read_edited(path: Path) -> Edited:
    """Read what the report exports: CSV of id, cluster and name, or JSON with clusters beside images.

    JSON is {"clusters": [{"old", "cluster", "name"}], "images": [{"id", "cluster", "name"}]}; either may be missing.
    The cluster −1 takes an image out.

    Raises:
        UserError: the file is neither, or gives an image or a cluster twice.
    """
    try:
        if path.suffix.lower() == ".csv":
            with path.open(encoding="utf-8-sig", newline="") as file:
                images, clusters = list(csv.DictReader(file)), list[Any]()
        else:
            whole = json.loads(path.read_text("utf-8"))
            images, clusters = whole.get("images", []), whole.get("clusters", [])
        rows = [*clusters, *images]
        return Edited(
            _once((str(row["id"]), _number(row["cluster"])) for row in images),
            _once((_number(row["old"]), _number(row["cluster"])) for row in clusters),
            {_number(row["cluster"]): str(row["name"]) for row in rows if row.get("name")},
        )
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}.") from error
    except _TwiceError as error:
        raise UserError(f"{path} gives {error} two clusters: leave one.") from error
    except (ValueError, KeyError, TypeError, AttributeError, csv.Error) as error:
        raise UserError(
            f"{path} is no export of a report (CSV with id, cluster and name, or JSON with clusters and images): "
            "export it again."
        ) from error


class _TwiceError(Exception):
    """An image or a cluster that is there twice; the text is which."""


def _once(pairs: Iterable[tuple[Any, int]]) -> dict[Any, int]:
    found: dict[Any, int] = {}
    for key, cluster in pairs:
        if found.setdefault(key, cluster) != cluster:
            raise _TwiceError(str(key))
    return found


def _number(value: object) -> int:
    """A whole number of at least −1, as JSON or CSV have it."""
    number = int(str(value))
    if number < -1:
        raise ValueError(value)
    return number
