"""Questions as a table to fill in, and the answers in it."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from shoal.decisions.log import Decision
from shoal.errors import UserError
from shoal.learning import Question
from shoal.results.result import Result
from shoal.results.tables import table_of, write_columns

NEAREST = ("nearest_1", "nearest_2", "nearest_3", "nearest_4", "nearest_5")


def write_questions(result: Result, questions: Sequence[Question], path: Path) -> None:
    """Write a row for each question: id, an empty answer, the nearest clusters, and the file where there is one.

    Raises:
        UserError: the path ends neither in .parquet nor in .csv, or cannot be written.
    """
    files = _files(result, [each.row for each in questions])
    columns: dict[str, tuple[pa.DataType, Sequence[object]]] = {
        "id": (pa.string(), [result.table_ids[each.row] for each in questions]),
        "answer": (pa.string(), [""] * len(questions)),
    }
    for place, name in enumerate(NEAREST):
        near = [each.candidates[place] if place < len(each.candidates) else None for each in questions]
        columns[name] = (pa.string(), [None if own is None else _shown(result, own) for own in near])
    columns["file"] = (pa.string(), files)
    write_columns(path, columns)


def _shown(result: Result, cluster: int) -> str:
    name = result.names.get(cluster, "")
    return f"{cluster} {name}".rstrip()


def _files(result: Result, rows: Sequence[int]) -> list[str]:
    """Where the images are; empty for those in archives and tables, and for all if the source is away."""
    try:
        matched, listing = result.matched, result.listing
    except UserError:
        return [""] * len(rows)
    there = set(matched.there.tolist())
    paths = [listing.path(int(matched.rows[row])) if row in there else None for row in rows]
    return ["" if path is None else str(path).encode("utf-8", "backslashreplace").decode() for path in paths]


def read_answers(path: Path, result: Result) -> list[Decision] | None:
    """The answers of a table as ``write_questions`` writes it, filled in; None for a table without answers.

    An answer is the number or the name of a cluster, or both as the nearest ones are shown, "new" and a name, "none"
    (of the nearest ones), or "nowhere"; a row without one was skipped. A cluster that was merged since stands for the
    one that it is in.

    Raises:
        UserError: the file cannot be read, or an answer is none of these, or is about an image that does not exist.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = table_of(file)
            if reader.fieldnames is None or not {"id", "answer"} <= {*reader.fieldnames}:
                return None
            rows = [(reader.line_num, row) for row in reader]
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}.") from error
    except (ValueError, csv.Error) as error:
        raise UserError(f"{path} is not a table of answers ({error}): write one with 'shoal ask'.") from error
    answered = _Answered(result)
    return [answered.decision(row, f"line {number} of {path}") for number, row in rows if (row["answer"] or "").strip()]


class _Answered:
    """Rows with an answer, as decisions."""

    def __init__(self, result: Result) -> None:
        self.images = {*result.table_ids}
        present = {number: number for number in result.model.numbers.tolist()}
        self.numbers = result.decided.replayed.into if result.decided else present
        self.by_name: dict[str, list[int]] = {}
        self.names = result.names
        for number, name in result.names.items():
            self.by_name.setdefault(name, []).append(number)
        self.free = result.decided.replayed.next_number if result.decided else len(result.centers)
        self.made: dict[str, int] = {}

    def decision(self, row: Mapping[str, str | None], where: str) -> Decision:
        """What a row says.

        Raises:
            UserError: it is about an image that does not exist, or its answer is none of these.
        """
        image, answer = row["id"] or "", (row["answer"] or "").strip()
        if image not in self.images:
            raise UserError(
                f"{where} is about {image!r}, which is not in this result, or no longer: remove the line, or "
                "give another table."
            )
        found: dict[str, Any] = {"do": "answer", "image": image}
        word, _, name = answer.partition(" ")
        if answer.casefold() == "none":
            near = [(row.get(column) or "").partition(" ")[0] for column in NEAREST]
            if not any(near):
                raise UserError(f"{where}: none of which? Keep the columns {NEAREST[0]} to {NEAREST[-1]}.")
            return found | {"none_of": [self._number(each, where) for each in near if each]}
        if answer.casefold() == "nowhere":
            return found | {"cluster": -1}
        if word.casefold() == "new" and answer not in self.by_name:  # new clusters are called "New 7"
            return found | self._new(name.strip())
        return found | {"cluster": self._number(answer, where)}

    def _new(self, name: str) -> dict[str, Any]:
        """A new cluster: the same for the same name, and another for each answer without one."""
        if len(self.by_name.get(name, ())) == 1:  # as where a table is given a second time
            return {"cluster": self.by_name[name][0]}
        number = self.free + len(self.made)
        name = name or f"New {number}"
        return {"cluster": self.made.setdefault(name, number), "name": name}

    def _number(self, text: str, where: str) -> int:
        found = self.by_name.get(text, [])
        first, _, name = text.partition(" ")
        first = first.removesuffix(".0")  # tables with empty cells often have numbers as decimals
        if first.isdecimal() and len(first) < 10 and int(first) in self.numbers:
            number = int(first)
            if found and number not in found:
                raise UserError(f"{where}: {text!r} is a number and the name of cluster {found[0]}: rename that first.")
            if not name or name.strip() == self.names.get(number):
                return number
        if len(found) == 1:
            return found[0]
        if found:
            raise UserError(f"{where}: clusters {found} are all called {text!r}: give the number.")
        raise UserError(
            f"{where}: there is no cluster {text!r}: give the number or the name of one, 'new NAME', 'none' or "
            "'nowhere'."
        )
