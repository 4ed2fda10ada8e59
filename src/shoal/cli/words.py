"""``shoal names`` and ``shoal find``: what a network can say of clusters, and which images fit a text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import tyro
from annotated_types import Gt

from shoal.cli.flags import Command, OptionalPath, ResultPath
from shoal.cli.terminal import one_line, say
from shoal.errors import UserError
from shoal.progress import counted

if TYPE_CHECKING:
    from shoal.results.naming import SuggestedName
    from shoal.results.result import Result


@dataclass(frozen=True)
class NamesCommand(Command):
    """Suggest names for the clusters of a result, from what its network knows; nothing is renamed.

    A network with a classifier suggests the classes that it sees in a cluster more than in the others. One that reads
    text (--backbone.name open_clip:...) suggests words, of ImageNet-21k's names or your own.
    """

    result: ResultPath
    """The folder that 'shoal train' or 'shoal cluster' wrote."""
    words: OptionalPath = None
    """Text file of names to choose from, a word or a phrase per line; for networks that read text."""

    def run(self) -> int:
        """Print the clusters with their suggestions."""
        from shoal.progress import open_progress
        from shoal.results.naming import read_words, suggest_names
        from shoal.results.result import Result

        words = None if self.words is None else read_words(self.words)
        result = Result.load(self.result)
        with open_progress(quiet=False) as progress:
            found = suggest_names(result, words, progress=progress)
        say(_names_table(result, found))
        return 0


@dataclass(frozen=True)
class FindCommand(Command):
    """Find the images of a result that fit a text best; its network must read text (--backbone.name open_clip:...)."""

    result: ResultPath
    """The folder that 'shoal cluster' wrote."""
    text: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="TEXT")]
    """What to look for, such as "a red car"."""
    n: Annotated[int, Gt(0), tyro.conf.arg(aliases=("-n",))] = 20
    """Number of images."""
    out: OptionalPath = None
    """Table to write instead of printing it, .csv or .parquet; an existing file is not overwritten."""

    def check(self) -> None:
        """Raise a UserError for a number of images that cannot be."""
        if self.n < 1:
            raise UserError(f"-n {self.n} finds nothing: give 1 or more.")

    def run(self) -> int:
        """Print the images, or write them into a table."""
        import pyarrow as pa

        from shoal.results.naming import search_text
        from shoal.results.result import Result
        from shoal.results.tables import check_free, write_columns

        if self.out is not None:
            check_free(self.out)
        result = Result.load(self.result)
        rows, cosines = search_text(result, self.text, self.n)
        clusters = result.assignments.labels[rows].tolist()
        ids = [result.table_ids[row] for row in rows.tolist()]
        if self.out is None:
            names = [result.names.get(cluster, "" if cluster < 0 else str(cluster)) for cluster in clusters]
            shown = [f"{cosine:.3f}" for cosine in cosines.tolist()]
            say(_table([("similarity", "cluster", "image"), *zip(shown, names, ids, strict=True)]))
            return 0
        write_columns(
            self.out,
            {
                "id": (pa.string(), ids),
                "cluster": (pa.int64(), clusters),
                "name": (pa.string(), [result.names.get(cluster) for cluster in clusters]),
                "similarity": (pa.float32(), cosines.tolist()),
            },
        )
        say(f"{counted(len(ids), 'image')}: {self.out}")
        return 0


def _names_table(result: Result, found: Sequence[Sequence[SuggestedName]]) -> str:
    from shoal.clustering.grouping import group_sizes

    numbers = result.model.numbers.tolist()
    sizes = group_sizes(result.assignments.labels, 1 + max(numbers, default=-1)).tolist()
    rows = [("cluster", "images", "name", "suggested names")]
    for cluster, names in zip(numbers, found, strict=True):
        shown = ", ".join(f"{name} {score:.1f}" for name, score in names) or "none that sets it apart"
        rows.append((str(cluster), str(sizes[cluster]), result.names.get(cluster, "-"), shown))
    legend = (
        "The number behind a name is the natural logarithm of how many times its odds are higher than in the other\n"
        "clusters. Nothing has been renamed: names are given in 'shoal review'."
    )
    return f"{_table(rows)}\n\n{legend}"


def _table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of texts in columns; the last column is as wide as it likes."""
    clean = [[one_line(text) for text in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*clean, strict=True)][:-1]
    return "\n".join(
        "  ".join([*(f"{text:<{width}}" for text, width in zip(row, widths, strict=False)), row[-1]]) for row in clean
    )
