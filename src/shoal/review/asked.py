"""Decisions as the page sends them, to decisions as they are kept: images by their ids, numbers for new clusters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from shoal.decisions.log import Decision, check
from shoal.errors import UserError

KINDS = ("rename", "merge", "split", "new", "move", "confirm", "answer", "undo")
LONGEST_NAME = 1000


class Translator:
    """Translates what is asked for in one call; ``numbers`` are those of the clusters that it makes."""

    def __init__(self, ids: Sequence[str], clusters: Mapping[int, int], free: int) -> None:
        """``clusters`` are all that there ever were, ``free`` the number for the next."""
        self.ids = ids
        self.clusters = clusters
        self.free = free
        self.numbers: list[int] = []

    def translate(self, asked: Sequence[Mapping[str, Any]]) -> list[Decision]:
        """The decisions.

        Raises:
            UserError: one of them is none.
        """
        found: list[Decision] = []
        for each in asked:
            try:
                if each["do"] not in KINDS:
                    raise ValueError("the page takes no such decision")
                found.append({"do": each["do"], **getattr(self, f"_{each['do']}")(each)})
                check(found[-1])
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise UserError(f"the decision {str(each)[:200]} cannot be taken: {error}.") from error
        if not found:
            raise UserError("there is no decision in it.")
        return found

    def row(self, row: object) -> int:
        """A row that exists.

        Raises:
            ValueError: there is none.
        """
        if not isinstance(row, int) or isinstance(row, bool) or not 0 <= row < len(self.ids):
            raise ValueError(f"there is no image {row}")
        return row

    def _names(self, rows: Sequence[object]) -> list[str]:
        return [self.ids[self.row(row)] for row in rows]

    def _cluster(self, number: object, *, nowhere: bool = False) -> int:
        if not isinstance(number, int) or isinstance(number, bool):
            raise ValueError(f"{number} is not a cluster")
        if number in self.clusters or number in self.numbers or (nowhere and number == -1):
            return number
        raise ValueError(f"there is no cluster {number}")

    def _make(self) -> int:
        self.numbers.append(self.free + len(self.numbers))
        return self.numbers[-1]

    def _rename(self, each: Mapping[str, Any]) -> Decision:
        return {"cluster": self._cluster(each["cluster"]), "name": _name(each["name"])}

    def _merge(self, each: Mapping[str, Any]) -> Decision:
        return {"clusters": [self._cluster(c) for c in each["clusters"]], "into": self._cluster(each["into"])}

    def _split(self, each: Mapping[str, Any]) -> Decision:
        own = self._cluster(each["cluster"])  # none of those that it makes
        parts = [{"cluster": self._make(), "images": self._names(rows)} for rows in each["parts"] if rows]
        return {"cluster": own, "parts": parts}

    def _new(self, each: Mapping[str, Any]) -> Decision:
        return {"cluster": self._make(), "images": self._names(each["images"]), "name": _name(each.get("name", ""))}

    def _move(self, each: Mapping[str, Any]) -> Decision:
        return {"images": self._names(each["images"]), "cluster": self._cluster(each["cluster"], nowhere=True)}

    def _confirm(self, each: Mapping[str, Any]) -> Decision:
        return {"images": self._names(each["images"])}

    def _answer(self, each: Mapping[str, Any]) -> Decision:
        image = self.ids[self.row(each["image"])]
        if "new" in each:
            cluster = self._make()
            return {"image": image, "cluster": cluster, "name": _name(each["new"]).strip() or f"New {cluster}"}
        if "none_of" in each:
            return {"image": image, "none_of": [self._cluster(c) for c in each["none_of"]]}
        return {"image": image, "cluster": self._cluster(each["cluster"], nowhere=True)}

    def _undo(self, _each: Mapping[str, Any]) -> Decision:
        return {}


def _name(name: object) -> str:
    if not isinstance(name, str) or len(name) > LONGEST_NAME:
        raise ValueError(f"a name is text of at most {LONGEST_NAME} letters")
    return name
