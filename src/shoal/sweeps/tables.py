"""A comparison as tables: for the terminal, as Markdown, CSV, LaTeX, and as a page (``report/comparison.py``)."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from shoal.errors import UserError
from shoal.evaluation.tables import Best, Cell, Row, Table, cell_text, text_lines
from shoal.files import atomic_write
from shoal.report.comparison import Curves, write_comparison
from shoal.sweeps.compare import LEVEL, SHOWN, Comparison, Difference, Stat, Variant


def tables(found: Comparison) -> list[Table]:
    """Figures, differences, choice and settings."""
    made = (_figures(found), _differences(found), _choice(found), _settings(found))
    return [table for table in made if table is not None]


def _figures(found: Comparison) -> Table:
    columns, notes = ["runs", *(SHOWN[name] for name in found.measured)], []
    with_agreement = any(variant.agreement is not None for variant in found.variants)
    rows = []
    for variant in found.variants:
        cells: list[Cell] = [_stat(variant, name, found.variants, found.comparable) for name in found.measured]
        if with_agreement:
            cells.append(None if variant.agreement is None else _number(variant.agreement))
        rows.append(Row(variant.label, [str(len(variant.runs)), *cells]))
    if any(len(variant.runs) > 1 for variant in found.variants):
        notes.append("Mean ± sample standard deviation over seeds, and the best seed in brackets.")
    if with_agreement:
        columns.append("agreement")
        notes.append("Agreement: mean adjusted Rand index between the clusters of two seeds, 1 if they are the same.")
    notes += found.notes
    alone = [SHOWN[name] for name in found.measured if name not in found.comparable]
    if alone and len(found.variants) > 1:
        own = " and ".join(alone)
        notes.append(
            f"Compare {own} only between the seeds of a variant: other variants have other features or losses."
        )
    return Table("Figures", columns, rows, notes)


def _stat(variant: Variant, name: str, variants: Sequence[Variant], comparable: Sequence[str]) -> str | None:
    stat = variant.stats.get(name)
    if stat is None:
        return None
    text = _with_spread(stat)
    means = [each.stats[name].mean for each in variants if name in each.stats]
    # Those that look the same are equally good.
    is_best = _number(stat.mean) == _number(max(means)) and len(means) > 1 and name in comparable
    return Best(text) if is_best else text


def _with_spread(stat: Stat) -> str:
    if stat.std is None:
        return _number(stat.mean)
    return f"{_number(stat.mean)} ± {_number(stat.std)} ({_number(stat.best)})"


def _differences(found: Comparison) -> Table | None:
    names = [name for name in found.measured if any(name in variant.differences for variant in found.variants)]
    if not names:
        return None
    rows = [
        Row(
            variant.label,
            [
                str(max(each.n for each in variant.differences.values())),
                *(_gap(variant.differences.get(n)) for n in names),
            ],
        )
        for variant in found.variants
        if variant.differences
    ]
    title = f"Differences from {found.variants[0].label}"
    notes = [
        f"Mean difference [{LEVEL:.0%} t interval] over the seeds that both have, seed by seed. One interval of twenty "
        "misses by chance.",
    ]
    return Table(title, ["seeds", *(SHOWN[name] for name in names)], rows, notes)


def _gap(gap: Difference | None) -> str | None:
    if gap is None:
        return None
    if gap.low is None or gap.high is None:
        return _signed(gap.mean)
    return f"{_signed(gap.mean)} [{_signed(gap.low)}, {_signed(gap.high)}]"


def _choice(found: Comparison) -> Table:
    """Which run is chosen by what."""
    names = [name for name in found.measured if name not in ("loss", "silhouette")]
    rows = [
        Row(
            variant.label,
            [variant.chosen.path.name, variant.chosen_by, *(_score(variant.chosen.scores.get(name)) for name in names)],
        )
        for variant in found.variants
    ]
    chosen = (
        f"Variant: {found.chosen.label}, since its {found.choice}." if found.chosen else f"{found.choice.capitalize()}."
    )
    if found.chosen and len(found.variants) == 1:
        chosen = "There is one variant."
    return Table(
        "Chosen without labels",
        ["run", "by", *(SHOWN[name] for name in names)],
        rows,
        [f"{chosen} Labels chose nothing."],
    )


def _settings(found: Comparison) -> Table | None:
    if not found.settings:
        return None
    columns = [variant.label for variant in found.variants]
    rows = [Row(key, [_plain(value) for value in values]) for key, values in found.settings.items()]
    return Table("Settings that differ", columns, rows)


def _plain(value: Any) -> str:
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _number(value: float) -> str:
    return f"{value:.3f}".replace("-", "−")


def _score(value: float | None) -> str | None:
    return None if value is None else _number(value)


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−")


def as_text(found: Comparison) -> str:
    """All tables for the terminal."""
    return "\n\n".join("\n".join(text_lines(table)) for table in tables(found))


def as_markdown(found: Comparison) -> str:
    """All tables as Markdown; the best mean of a column is bold."""

    def cell(value: Cell) -> str:
        text = re.sub(r"([\\|*_`<\[\]])", r"\\\1", cell_text(value)).replace("\n", " ")
        return f"**{text}**" if isinstance(value, Best) else text

    parts = [f"# {found.title}"]
    for table in tables(found):
        head = ["", *table.columns]
        lines = [_piped([cell(text) for text in head]), _piped(["---"] * len(head))]
        lines += [_piped([cell(row.name), *map(cell, row.values)]) for row in table.rows]
        parts += [f"## {table.title}", "\n".join(lines), *table.notes]
    return "\n\n".join(parts) + "\n"


def _piped(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


LATEX = {
    **{letter: rf"\{letter}" for letter in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "−": "$-$",
    "–": "--",
    "…": r"\ldots{}",
    "\n": " ",
}


def as_latex(found: Comparison) -> str:
    """Figures and differences as tables for LaTeX with booktabs; the best mean of a column is bold."""

    def cell(value: Cell) -> str:
        text = "".join(LATEX.get(letter, letter) for letter in cell_text(value))
        return rf"\textbf{{{text}}}" if isinstance(value, Best) else text

    parts = [f"% {' '.join(found.title.split())}; needs \\usepackage{{booktabs}}"]
    for table in tables(found):
        caption = "".join(f" {cell(note)}" for note in table.notes)
        lines = [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{cell(table.title)}.{caption}}}",
            rf"\begin{{tabular}}{{l{'r' * len(table.columns)}}}",
            r"\toprule",
            " & ".join(["", *map(cell, table.columns)]) + r" \\",
            r"\midrule",
            *(" & ".join([cell(row.name), *map(cell, row.values)]) + r" \\" for row in table.rows),
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        ]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def as_csv(found: Comparison) -> str:
    """A row per variant with all numbers, unrounded."""
    head = ["variant", "runs", "chosen", "agreement", "chosen_run", "chosen_by"]
    for name in found.measured:
        head += [f"{name}_{part}" for part in ("mean", "std", "best", "of_chosen")]
        head += [f"{name}_difference{part}" for part in ("", "_low", "_high", "_seeds")]
    text = io.StringIO()
    writer = csv.DictWriter(text, [*head, *found.settings])
    writer.writeheader()
    for at, variant in enumerate(found.variants):
        row: dict[str, Any] = dict(zip(head, [variant.label, len(variant.runs)], strict=False))
        row |= {"chosen": variant is found.chosen, "agreement": variant.agreement}
        row |= {"chosen_run": variant.chosen.path.name, "chosen_by": variant.chosen_by}
        for name, stat in variant.stats.items():
            row |= {f"{name}_mean": stat.mean, f"{name}_std": stat.std, f"{name}_best": stat.best}
            row[f"{name}_of_chosen"] = variant.chosen.scores.get(name)
        for name, gap in variant.differences.items():
            parts = {"": gap.mean, "_low": gap.low, "_high": gap.high, "_seeds": gap.n}
            row |= {f"{name}_difference{part}": value for part, value in parts.items()}
        writer.writerow(row | {key: _plain(values[at]) for key, values in found.settings.items()})
    return text.getvalue()


TEXTS: dict[str, Callable[[Comparison], str]] = {".md": as_markdown, ".csv": as_csv, ".tex": as_latex}
SUFFIXES = (*TEXTS, ".html")


def check_free(path: Path) -> None:
    """Raise a UserError when a comparison cannot be written there without overwriting something."""
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"{path} should end in .md, .csv, .tex or .html: the suffix gives the format.")
    if path.exists():
        raise UserError(f"{path} exists already: give another --out.")


def write(found: Comparison, path: Path) -> None:
    """Write a comparison in the format that the ending says.

    Raises:
        UserError: the ending says none, or the file cannot be written.
    """
    if path.suffix.lower() == ".html":
        curves = [Curves(variant.label, [run.rows for run in variant.runs]) for variant in found.variants]
        write_comparison(found.title, tables(found), curves, path)
        return
    atomic_write(path, TEXTS[path.suffix.lower()](found).encode("utf-8", "replace"))
