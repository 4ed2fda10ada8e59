"""What a person changed in the report: clusters merged and named, images put elsewhere."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from jaxtyping import Int64
from torch import Tensor

from shoal.errors import UserError
from shoal.results.tables import as_utf8, table_of

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Edited:
    """New clusters of some images, by their ids as tables hold them, and of all others by their old cluster.

    ``names`` are those of the new clusters, where they have one; "" where it was taken away.
    """

    images: Mapping[str, int]
    clusters: Mapping[int, int]
    names: Mapping[int, str]

    def apply(self, ids: Sequence[str], clusters: Int64[Tensor, "n"]) -> Int64[Tensor, "n"]:
        """The new cluster of each image.

        Raises:
            UserError: an image of the file is none of these.
        """
        new = clusters.clone()
        for was, now in self.clusters.items():
            new[clusters == was] = now
        left = dict(self.images)
        for row, name in enumerate(map(as_utf8, ids)):
            if name in self.images:
                new[row] = self.images[name]
                left.pop(name, None)
        odd = next(iter(left), None)
        if odd is not None:
            raise UserError(f"{odd} is in the edited assignments and not in the clustering: give those of this one.")
        return new


def read_edited(path: Path) -> Edited:
    """Read what the report exports: CSV of id, cluster and name, or JSON with clusters beside images.

    JSON is {"clusters": [{"old", "cluster", "name"}], "images": [{"id", "cluster", "name"}]}; either may be missing.
    The cluster −1 takes an image out.

    Raises:
        UserError: the file is neither, or gives an image or a cluster twice, or a cluster two names.
    """
    try:
        if path.suffix.lower() == ".csv":
            with path.open(encoding="utf-8-sig", newline="") as file:
                images, clusters = [*table_of(file)], list[Any]()
        else:
            whole = json.loads(path.read_text("utf-8-sig"))
            images, clusters = whole.get("images", []), whole.get("clusters", [])
        rows = [*clusters, *images]
        if not rows:
            raise ValueError("nothing in it")
        names = _once(((_number(row["cluster"]), str(row["name"])) for row in rows if row.get("name")), "two names")
        cleared = {_number(row["cluster"]): "" for row in clusters if row.get("name") == ""}
        return Edited(
            _once(((as_utf8(str(row["id"])), _number(row["cluster"])) for row in images), "two clusters"),
            _once(((_number(row["old"]), _number(row["cluster"])) for row in clusters), "two clusters"),
            cleared | names,
        )
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}.") from error
    except _TwiceError as error:
        raise UserError(f"{path} gives {error}: leave one.") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, csv.Error) as error:
        raise UserError(
            f"{path} is not an export of a report (CSV with id, cluster and name, or JSON with clusters and images): "
            "export it again."
        ) from error


class _TwiceError(Exception):
    """An image or a cluster that is there twice; the text is which, and what it has two of."""


def _once(pairs: Iterable[tuple[Any, T]], what: str) -> dict[Any, T]:
    found: dict[Any, T] = {}
    for key, value in pairs:
        if found.setdefault(key, value) != value:
            raise _TwiceError(f"{key if isinstance(key, str) else f'cluster {key}'} {what}")
    return found


_LARGEST = 10**9


def _number(value: object) -> int:
    """A whole number from −1, as JSON or CSV have it; folders are named by it, so that it is no longer than names."""
    number = int(str(value).removesuffix(".0"))  # as programs write whole numbers of a column that has gaps
    if not -1 <= number < _LARGEST:
        raise ValueError(value)
    return number
