"""The runs of a sweep: every recipe with every combination of the values of a grid and every seed."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from shoal.config import RunConfig, load_recipe, settings_of, validate, with_reachable_clusters, with_settings
from shoal.data import resolve_spec
from shoal.data.augmentation import named
from shoal.errors import UserError
from shoal.features.start import resolve_weights

MAX_RUNS = 10_000
"""Runs of a sweep at most; more are a slip of the pen."""

LONGEST_NAME = 150
"""Characters of a run's name, below what file systems take."""

RESERVED = {
    "seed": "give seeds by --seeds",
    "method": "the recipe says which method: give several recipes",
    "method.name": "the recipe says which method: give several recipes",
}


@dataclass(frozen=True)
class Point:
    """A run of a sweep: its folder's name, the recipe it starts from, what is set otherwise, and its seed."""

    name: str
    recipe: str
    settings: Mapping[str, Any]
    """Values of the grid by setting, in plain YAML types."""
    seed: int
    config: RunConfig


def plan(recipes: Sequence[str], seeds: Sequence[int], grid: Mapping[str, Sequence[Any]]) -> list[Point]:
    """The runs of a sweep: each combination with the first seed, then each with the second, and so on.

    Args:
        recipes: names of recipes, or paths of YAML files.
        seeds: of the runs.
        grid: values of each setting, by the name it has as a flag.

    Raises:
        UserError: a recipe, setting or value is wrong, two runs would be the same, or there are too many.
    """
    stems = [Path(recipe).stem for recipe in recipes]
    if twice := _first_repeated(stems):
        raise UserError(f"two recipes are called {twice!r}: name it once, or rename one of the files.")
    n = len(recipes) * len(seeds)
    for values in grid.values():
        n *= len(values)
    if n > MAX_RUNS:
        raise UserError(f"that would be {n} runs, and a sweep has at most {MAX_RUNS}: give fewer seeds or values.")
    named = [
        (stem, *combination)
        for stem, recipe in zip(stems, recipes, strict=True)
        for combination in _combinations(recipe, grid)
    ]
    points = [_point(*each, seed) for seed in seeds for each in named]
    return _distinct(points)


def parse_seeds(text: str) -> list[int]:
    """Seeds from text such as ``0..4``, ``3`` or ``0..2,7``.

    Raises:
        UserError: it is something else, runs backwards, or names a seed twice.
    """
    seeds: list[int] = []
    for part in text.split(","):
        found = re.fullmatch(r"\s*(\d+)(?:\.\.(\d+))?\s*", part)
        if found is None:
            raise UserError(f"--seeds {text!r} are not seeds: give whole numbers from 0 on, such as 0..4 or 0,1,7.")
        first, last = int(found[1]), int(found[2] or found[1])
        if last < first:
            raise UserError(f"--seeds {text} runs backwards: give {last}..{first}.")
        if last - first >= MAX_RUNS:
            raise UserError(f"--seeds {text} are more than {MAX_RUNS}: give fewer.")
        seeds += range(first, last + 1)
    if twice := _first_repeated(seeds):
        raise UserError(f"--seeds {text} names seed {twice} twice: a seed gives one run.")
    return seeds


def parse_grid(words: Sequence[str]) -> dict[str, list[Any]]:
    """Values by setting from words such as ``optim.lr=0.3,0.6``; a value with commas stands in brackets.

    Raises:
        UserError: a word has another form, a value is empty, or a setting is given twice.
    """
    grid: dict[str, list[Any]] = {}
    for word in words:
        name, equals, text = word.partition("=")
        key = name.strip().lstrip("-").replace("-", "_")
        if not equals or not key:
            raise UserError(f"--grid {word!r} gives no values: write SETTING=VALUE,VALUE, such as optim.lr=0.3,0.6.")
        if key in RESERVED:
            raise UserError(f"--grid cannot vary {key}: {RESERVED[key]}.")
        if key in grid:
            raise UserError(f"--grid gives {key} twice: put all its values behind one '='.")
        grid[key] = [_value(part, word) for part in _split(text)]
    return grid


def _split(text: str) -> list[str]:
    """Parts between the commas that are in no brackets or quotes; a quote within a word is a letter of it."""
    parts, depth, quote, before = [""], 0, "", ","
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "\"'" and before in "[{,":
            quote = letter
        else:
            depth = max(0, depth + (letter in "[{") - (letter in "]}"))
        if letter == "," and not quote and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
        before = before if letter.isspace() else letter
    return parts


def _value(text: str, word: str) -> Any:
    if not text.strip():
        raise UserError(f"--grid {word!r} has an empty value: write each value between two commas.")
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"--grid {word!r}: {text!r} cannot be read as a value; a list is written [0.8,1.2].") from error
    return _whole_specs(value) if isinstance(value, list) else value


def _whole_specs(items: Sequence[Any]) -> list[Any]:
    """A list in which settings stand behind what they belong to again: ``erase:p=0.8``, ``side=0.4`` are one spec."""
    found: list[Any] = []
    for item in items:
        text = isinstance(item, str) and found and isinstance(found[-1], str)
        if text and ":" in found[-1] and re.match(r"[A-Za-z_]\w*\s*=", item):
            found[-1] += f",{item}"
        else:
            found.append(item)
    return found


def _combinations(recipe: str, grid: Mapping[str, Sequence[Any]]) -> list[tuple[dict[str, Any], RunConfig]]:
    """What is set, and the config that it gives, of each combination."""
    base, found = load_recipe(recipe), []
    for values in itertools.product(*grid.values()):
        over = dict(zip(grid, values, strict=True))
        config = with_settings(base, over, recipe)
        config, _ = with_reachable_clusters(config, base, over)
        data = config.data
        if data.path == "-":
            raise UserError("a sweep cannot read paths from standard input: give a folder, a pattern or a table.")
        data = dataclasses.replace(data, path=resolve_spec(data.path), root=resolve_spec(data.root))
        backbone = dataclasses.replace(config.backbone, weights=resolve_weights(config.backbone.weights))
        config = dataclasses.replace(config, data=data, backbone=backbone)
        for spec in config.augment.own:
            named(spec)  # or it says what there is
        known = settings_of(config)
        found.append(({key: known[key] for key in grid}, config))
    return found


def _point(recipe: str, settings: Mapping[str, Any], config: RunConfig, seed: int) -> Point:
    config = validate(dataclasses.replace(config, seed=seed), recipe)
    parts = [recipe, *(f"{key}={_in_name(value)}" for key, value in settings.items()), f"seed={seed}"]
    name = re.sub(r"[^\w.=,+\[\]-]", "-", "_".join(parts))
    if len(name) > LONGEST_NAME:
        name = f"{name[: LONGEST_NAME - 20]}-{_digest(recipe, settings)}_seed={seed}"
    return Point(name, recipe, settings, seed, config)


def _in_name(value: Any) -> str:
    """A value as part of a file's name; of a path its last part."""
    if isinstance(value, str):
        return Path(value).name or value
    if isinstance(value, list) and value and all(isinstance(item, str) for item in value):
        return f"[{','.join(value)}]"
    return json.dumps(value, separators=(",", ":"))


def _digest(recipe: str, settings: Mapping[str, Any]) -> str:
    return hashlib.blake2b(json.dumps([recipe, dict(settings)]).encode(), digest_size=4).hexdigest()


def _distinct(points: Sequence[Point]) -> list[Point]:
    """The same runs with names of their own."""
    seen: dict[str, Point] = {}
    for point in points:
        key = json.dumps([point.recipe, dict(point.settings), point.seed], sort_keys=True)
        if key in seen:
            values = ", ".join(f"{name}={value}" for name, value in point.settings.items())
            raise UserError(f"--grid names {values} twice: each combination of values is one run per seed.")
        seen[key] = point
    often = Counter(point.name.casefold() for point in points)
    return [
        dataclasses.replace(point, name=f"{point.name}_{_digest(point.recipe, point.settings)}")
        if often[point.name.casefold()] > 1
        else point
        for point in points
    ]


def _first_repeated(values: Sequence[Any]) -> str:
    return next((str(value) for value, n in Counter(values).items() if n > 1), "")
