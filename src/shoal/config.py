"""What a run is: one frozen dataclass, which is at once the recipe's schema, the command's flags and its help.

A recipe is this dataclass as YAML; flags override single fields of it; the run folder's ``config.yaml`` is a recipe
again. An unknown key is an error wherever it comes from.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from annotated_types import Ge, Gt, Lt
from pydantic import ConfigDict, TypeAdapter, ValidationError

from shoal.data import DataConfig, ViewConfig
from shoal.errors import UserError
from shoal.methods import METHODS, MethodConfig, ProPosConfig
from shoal.models import BackboneConfig


@dataclass(frozen=True)
class OptimConfig:
    """Optimiser and learning-rate schedule: a linear warm-up, then a cosine or a constant rate."""

    optimizer: Literal["sgd", "adam", "lars"] = "sgd"
    """SGD with momentum, Adam, or LARS for very large batches (biases and batch-norm left out, as published)."""
    batch_size: Annotated[int, Ge(2)] = 256
    """Images per step, over all processes; at most the number of images is used."""
    accumulate: Annotated[int, Ge(1)] = 1
    """Parts the images of a step are cut into, one after the other, where they do not fit into memory at once."""
    lr: Annotated[float, Gt(0)] = 0.05
    """Learning rate for a batch of 256; the real rate grows with the batch size."""
    momentum: Annotated[float, Ge(0), Lt(1)] = 0.9
    """Momentum of SGD and LARS, β₁ of Adam."""
    weight_decay: Annotated[float, Ge(0)] = 5e-4
    """Weight decay on every parameter; with LARS, on weight matrices alone."""
    warmup_epochs: Annotated[int, Ge(0)] = 10
    """Epochs over which the rate climbs linearly to its full value."""
    schedule: Literal["iteration", "epoch", "constant"] = "iteration"
    """Whether a cosine moves the rate at every step or once an epoch, or it stays as it is after the warm-up."""


@dataclass(frozen=True)
class RunConfig:
    """Everything that determines a run."""

    n_clusters: Annotated[int, Ge(2)] = 10
    """How many clusters to find."""
    epochs: Annotated[int, Ge(1)] = 100
    """Passes over the images."""
    seed: Annotated[int, Ge(0), Lt(2**63)] = 0
    """Seed of all random numbers: the same seed gives the same run."""
    max_steps: Annotated[int, Ge(1)] | None = None
    """Stop after so many steps; the schedule stays that of the whole run."""
    cluster_from: Annotated[int, Ge(0)] = 10
    """First epoch whose losses use the clusters."""
    cluster_every: Annotated[int, Ge(1)] = 1
    """Epochs between two clusterings of all images (E-steps)."""
    resample: bool = False
    """Draw images so that every cluster is seen equally often, instead of each image once an epoch."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic of the networks; auto takes bfloat16 where the hardware computes in it. Losses are float32."""
    compile: Literal["auto", "on", "off"] = "auto"
    """Compile the backbone for training with torch.compile; auto does so for long runs on a GPU."""
    sync_batch_norm: bool = False
    """With several processes, take batch-norm statistics over all of them."""
    data: DataConfig = field(default_factory=DataConfig)
    augment: ViewConfig = field(default_factory=ViewConfig)
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    method: MethodConfig = field(default_factory=ProPosConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)


def load_recipe(name_or_path: str) -> RunConfig:
    """The config of a recipe that ships with shoal (by name) or of a YAML file (by path).

    Raises:
        UserError: there is no such recipe or file, it is not YAML, or a key or value in it is wrong.
    """
    try:
        raw = yaml.safe_load(recipe_text(name_or_path))
    except yaml.YAMLError as error:
        raise UserError(f"{name_or_path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(raw, dict):
        raise UserError(f"{name_or_path} is not a recipe: it should hold lines such as 'epochs: 100'.")
    return parse_config(raw, name_or_path)


def recipe_names() -> list[str]:
    """Names of the recipes that ship with shoal."""
    return sorted(f.name.removesuffix(".yaml") for f in _shipped().iterdir() if f.name.endswith(".yaml"))


def recipe_text(name_or_path: str) -> str:
    """A recipe as it is written, comments included.

    Raises:
        UserError: there is no such recipe or file.
    """
    source: Path | Traversable = Path(name_or_path)
    if not (name_or_path.endswith((".yaml", ".yml")) or "/" in name_or_path):
        source = _shipped().joinpath(f"{name_or_path}.yaml")
        if (Path(name_or_path) / "config.yaml").is_file():
            raise UserError(
                f"{name_or_path} is a run folder: 'shoal train --resume {name_or_path}' resumes it, and "
                f"'shoal train {name_or_path}/config.yaml' repeats it."
            )
        if not source.is_file():
            hint = nearest(name_or_path, recipe_names()) or f"the recipes are {', '.join(recipe_names())}."
            raise UserError(f"there is no recipe named {name_or_path!r}: {hint}")
    try:
        return source.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot read the recipe {name_or_path}: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{name_or_path} is not a text file, so it is no recipe.") from error


def _shipped() -> Traversable:
    return resources.files("shoal") / "recipes"


def nearest(name: str, known: list[str]) -> str | None:
    """The start of a hint for a misspelt name, or None when nothing is near."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"did you mean {near[0]!r}?" if near else None


def parse_config(raw: Mapping[str, Any], origin: str) -> RunConfig:
    """A plain mapping, as YAML gives it, checked key by key and value by value.

    Raises:
        UserError: naming ``origin``, the first key that is wrong and what would be right.
    """
    method = raw.get("method") or {}
    if not isinstance(method, Mapping):
        raise UserError(f"{origin}: method holds its settings, as in 'method: {{name: {method}}}'.")
    method = dict(method)
    name = method.pop("name", ProPosConfig.name)
    if not isinstance(name, str) or name not in METHODS:
        hint = nearest(str(name), list(METHODS)) or f"the methods are {', '.join(METHODS)}."
        raise UserError(f"{origin}: there is no method named {name!r}: {hint}")
    rest = {key: value for key, value in raw.items() if key != "method"}
    try:
        config: RunConfig = _checked(RunConfig, rest)
        return replace(config, method=_checked(METHODS[name], method))
    except ValidationError as error:
        prefix = "method." if error.title == METHODS[name].__name__ else ""
        known = [path for path, _ in fields_of(RunConfig, {"method": METHODS[name]})]
        raise UserError(f"{origin}: {_in_words(error, prefix, known)}") from error


STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)


def _checked(kind: Any, values: Mapping[str, Any]) -> Any:
    """A config from its values; unknown keys and numbers that are not finite are refused in it and in its parts."""
    for part in (kind, *(item.default_factory for item in dataclasses.fields(kind))):
        if dataclasses.is_dataclass(part):
            setattr(part, "__pydantic_config__", STRICT)  # noqa: B010 - a dataclass declares no such attribute
    return TypeAdapter(kind).validate_python(values)


def _in_words(error: ValidationError, prefix: str, known: list[str]) -> str:
    """What is wrong with the first setting that is."""
    first = error.errors()[0]
    where = prefix + ".".join(str(part) for part in first["loc"])
    if first["type"] == "unexpected_keyword_argument":
        beside = [path for path in known if path.rpartition(".")[0] == where.rpartition(".")[0]]
        keys = beside or sorted({path.partition(".")[0] for path in known})
        hint = nearest(where, known) or f"the keys beside it are {', '.join(keys)}."
        return f"there is no setting {where!r}: {hint}"
    if first["type"] == "dataclass_type":
        return f"{where} holds settings of its own, as in '{where}: {{...}}'."
    if first["type"] == "value_error":  # raised by a dataclass of ours, in our words
        return f"{where}: {first['ctx']['error']}"
    return f"{where}: {first['msg'].lower()}, not {first['input']!r}."


def _paths_of(raw: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Settings by dotted name; no part of a config holds parts itself."""
    for key, value in raw.items():
        if isinstance(value, Mapping):
            yield from ((f"{key}.{inner}", item) for inner, item in value.items())
        else:
            yield str(key), value


def fields_of(kind: Any, kinds: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted name and dataclass field of every setting; ``kinds`` gives the concrete class of an abstract part."""
    for item in dataclasses.fields(kind):
        default = item.default_factory if item.default_factory is not dataclasses.MISSING else None
        part = kinds.get(item.name, default)
        if isinstance(part, type) and dataclasses.is_dataclass(part):
            yield from fields_of(part, kinds, f"{prefix}{item.name}.")
        else:
            yield f"{prefix}{item.name}", item


def validate(config: RunConfig, origin: str) -> RunConfig:
    """The same config after its values have been checked, e.g. once flags have overridden a recipe's."""
    return parse_config(to_dict(config), origin)


def to_dict(config: RunConfig) -> dict[str, Any]:
    """Plain YAML types, the method's name included."""
    raw = dataclasses.asdict(config)
    raw["method"] = {"name": config.method.name, **raw["method"]}
    plain: dict[str, Any] = _plain(raw)
    return plain


def settings_of(config: RunConfig) -> dict[str, Any]:
    """Every setting by the name it has as a flag, such as ``optim.lr``, in plain YAML types."""
    return dict(_paths_of(to_dict(config)))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def to_yaml(config: RunConfig) -> str:
    """The recipe that gives this config."""
    return _dump(to_dict(config))


def _dump(raw: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(raw), sort_keys=False, default_flow_style=None, width=110)


def config_digest(config: RunConfig) -> str:
    """Hash of the config but for the path of the images, which may have moved."""
    raw = to_dict(replace(config, data=replace(config.data, path="", root="")))
    # Runs that began before there were these settings can be resumed.
    if raw["data"]["range"] is None:
        del raw["data"]["range"]
    for name, before in (("views", 2), ("side", None)):
        if raw["augment"][name] == before:
            del raw["augment"][name]
    if raw["method"].get("boost_from") is None:
        raw["method"] = {name: value for name, value in raw["method"].items() if not name.startswith("boost_")}
    return hashlib.blake2b(_dump(raw).encode(), digest_size=16).hexdigest()
