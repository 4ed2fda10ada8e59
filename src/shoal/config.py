"""What a run is: one frozen dataclass, which is at once the recipe's schema, the command's flags and its help.

A recipe is this dataclass as YAML; flags override single fields of it; the run folder's ``config.yaml`` is a recipe
again. An unknown key is an error wherever it comes from.
"""

from __future__ import annotations

import dataclasses
import inspect
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from annotated_types import Ge, Gt, Lt
from pydantic import ConfigDict, TypeAdapter, ValidationError

from shoal.data import AUGMENTATIONS, SOURCES, DataConfig, ViewConfig
from shoal.data.sources.own import scheme_of
from shoal.errors import UserError, did_you_mean
from shoal.methods import METHODS, MethodConfig, ProPosConfig
from shoal.models import BackboneConfig
from shoal.plugins import IN_PYTHON, Registry

LIKE = "simclr"
"""The method whose recipes a plugin's method shares: views, network and optimiser fit any method of two views."""

PLUGINS = "plugins"
"""The key under which the config of a run says what it needs of plugins, and where each came from."""


@dataclass(frozen=True)
class OptimConfig:
    """Optimiser and learning-rate schedule: a linear warm-up, then a cosine or a constant rate."""

    optimizer: Literal["sgd", "adam", "lars"] = "sgd"
    """SGD with momentum, Adam, or LARS for very large batches (biases and batch-norm left out, as published)."""
    batch_size: Annotated[int, Ge(2)] = 256
    """Images per step, over all processes; at most the number of images is used."""
    accumulate: Annotated[int, Ge(1)] = 1
    """Split each step's images into this many parts, one pass each (gradient accumulation), to save memory."""
    lr: Annotated[float, Gt(0)] = 0.05
    """Learning rate for a batch of 256; the real rate grows with the batch size."""
    momentum: Annotated[float, Ge(0), Lt(1)] = 0.9
    """Momentum of SGD and LARS, β₁ of Adam."""
    weight_decay: Annotated[float, Ge(0)] = 5e-4
    """Weight decay on every parameter; with LARS, on weight matrices alone."""
    warmup_epochs: Annotated[int, Ge(0)] = 10
    """Epochs over which the rate climbs linearly to its full value."""
    backbone_lr_scale: Annotated[float, Gt(0)] = 1.0
    """Multiplies the backbone's learning rate; below 1 when starting from pretrained weights."""
    schedule: Literal["iteration", "epoch", "constant"] = "iteration"
    """Cosine decay per iteration or per epoch, or a constant rate after the warm-up."""


@dataclass(frozen=True)
class RunConfig:
    """Everything that determines a run."""

    n_clusters: Annotated[int, Ge(2)] | Literal["auto"] = 10
    """How many clusters to find; auto counts groups in the features of each E-step, until the losses use clusters."""
    epochs: Annotated[int, Ge(1)] = 100
    """Passes over the images."""
    seed: Annotated[int, Ge(0), Lt(2**63)] = 0
    """Seed of all random numbers: the same seed gives the same run."""
    max_steps: Annotated[int, Ge(1)] | None = None
    """Stop after this many steps; the schedule stays that of the whole run."""
    cluster_from: Annotated[int, Ge(0)] = 10
    """First epoch whose losses use the clusters."""
    cluster_every: Annotated[int, Ge(1)] = 1
    """Epochs between two clusterings of all images (E-steps)."""
    smooth_features: bool = False
    """Average the features of each image with those of its ten nearest, three times, before k-means: for features that
    are spread out, as those of EMP-SSL are."""
    resample: bool = False
    """Draw images so that every cluster is seen equally often, instead of each image once an epoch."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic of the networks; auto takes bfloat16 where the hardware computes in it. Losses are float32."""
    compile: Literal["auto", "on", "off"] = "auto"
    """Compile the backbone for training with torch.compile; auto does so for long runs on a GPU."""
    recompute: bool = False
    """Recompute the backbone's activations in the backward pass (activation checkpointing): the same run, a quarter
    slower, with a quarter of the activation memory."""
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
    text = recipe_text(name_or_path)
    try:
        raw = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:  # a ValueError: an impossible date, say
        raise UserError(f"{name_or_path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(raw, dict):
        raise UserError(f"{name_or_path} is not a recipe: it should hold lines such as 'epochs: 100'.")
    return parse_config(raw, name_or_path)


def recipe_names() -> list[str]:
    """Names of the recipes that ship with shoal, then of those of plugins' methods."""
    return [*sorted(_shipped_names()), *sorted(each for name in _of_plugins() for each in _recipes_of(name))]


def _shipped_names() -> list[str]:
    return [f.name.removesuffix(".yaml") for f in _shipped().iterdir() if f.name.endswith(".yaml")]


def _of_plugins() -> list[str]:
    return [name for name in METHODS if name not in METHODS.ours()]


def _recipes_of(method: str) -> dict[str, Path | None]:
    """The recipes of a plugin's method by name: files beside it, and those it shares with SimCLR (None).

    Raises:
        UserError: an installed package announces the method, but it cannot be imported.
    """
    shared: dict[str, Path | None] = {
        f"{method}{name.removeprefix(LIKE)}": None for name in _shipped_names() if name.startswith(f"{LIKE}-")
    }
    file = Path(inspect.getsourcefile(METHODS[method]) or "")
    return shared | {beside.stem: beside for beside in file.parent.glob(f"{method}-*.yaml") if file.is_file()}


def _plugin_recipe(name: str) -> str | None:
    """The text of a recipe of a plugin's method; None where there is none of that name."""
    method, _, rest = name.partition("-")
    if method not in _of_plugins() or name not in (found := _recipes_of(method)):
        return None
    if (beside := found[name]) is not None:
        return beside.read_text(encoding="utf-8")
    like = f"{LIKE}-{rest}"
    raw = yaml.safe_load(recipe_text(like)) | {"method": {"name": method}}
    return f"# {method}, its own settings at their defaults, all others those of {like}\n{dumped(raw)}"


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
            if (text := _plugin_recipe(name_or_path)) is not None:
                return text
            names = recipe_names()
            hint = did_you_mean(name_or_path, names, f"the recipes are {', '.join(names)}.")
            if name_or_path.partition("-")[0] not in METHODS:
                hint += " A recipe of a plugin's method needs --plugin FILE."
            raise UserError(f"there is no recipe named {name_or_path!r}: {hint}")
    try:
        return source.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot read the recipe {name_or_path}: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{name_or_path} is not a text file, so it is not a recipe.") from error


def _shipped() -> Traversable:
    return resources.files("shoal") / "recipes"


def parse_config(raw: Mapping[str, Any], origin: str) -> RunConfig:
    """A plain mapping, as YAML gives it, checked key by key and value by value.

    Raises:
        UserError: naming ``origin``, the first key that is wrong and what would be right.
    """
    plugins = raw.get(PLUGINS)
    method = raw.get("method") or {}
    if not isinstance(method, Mapping):
        raise UserError(f"{origin}: method holds its settings, as in 'method: {{name: {method}}}'.")
    method = dict(method)
    name = method.pop("name", ProPosConfig.name)
    if not isinstance(name, str) or name not in METHODS:
        if isinstance(plugins, Mapping) and name in plugins:
            raise UserError(f"{origin}: the method {name!r} is one of a plugin: {_how_to_get(plugins[name])}")
        hint = did_you_mean(str(name), METHODS, f"the methods are {', '.join(METHODS)}.")
        raise UserError(f"{origin}: there is no method named {name!r}: {hint}")
    rest = {key: value for key, value in raw.items() if key not in ("method", PLUGINS)}
    settings = METHODS[name].config_class
    try:
        config: RunConfig = _checked(RunConfig, rest)
        return replace(config, method=_checked(settings, method))
    except ValidationError as error:
        prefix = "method." if error.title == settings.__name__ else ""
        known = [path for path, _ in fields_of(RunConfig, {"method": settings})]
        raise UserError(f"{origin}: {_in_words(error, prefix, known)}") from error


def _how_to_get(origin: object) -> str:
    """How to make a plugin known that a run names; the run's word alone executes nothing."""
    if str(origin).endswith(".py"):
        return f"give it, if you trust it, with --plugin {shlex.quote(str(origin))} (shoal.load_plugin in Python)."
    if origin == IN_PYTHON:
        return "define it again and give it to shoal.estimator_of, or save it in a file and give that with --plugin."
    return f"install {origin}, which has it."


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
    parts = [str(part) for part in first["loc"]]
    if isinstance(first["loc"][-1], str) and first["loc"][0] == "n_clusters":
        parts = parts[:1]  # behind it stands which kind of value was tried
    where = prefix + ".".join(parts)
    if first["type"] == "unexpected_keyword_argument":
        beside = [path for path in known if path.rpartition(".")[0] == where.rpartition(".")[0]]
        keys = beside or sorted({path.partition(".")[0] for path in known})
        hint = did_you_mean(where, known, f"the keys beside it are {', '.join(keys)}.")
        return f"there is no setting {where!r}: {hint}"
    if first["type"] == "dataclass_type":
        return f"{where} holds settings of its own, as in '{where}: {{...}}'."
    if first["type"] == "tuple_type":
        return f"{where} takes a list, which stands in brackets, not {first['input']!r}."
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


def with_settings(config: RunConfig, settings: Mapping[str, Any], origin: str) -> RunConfig:
    """The config with single settings replaced, by the names they have as flags, such as ``optim.lr``.

    Raises:
        UserError: as ``parse_config``.
    """
    raw = to_dict(config)
    for name, value in settings.items():
        *parts, last = name.replace("-", "_").split(".")
        place: Any = raw
        for part in parts:
            place = place.get(part)
            if not isinstance(place, dict):
                hint = did_you_mean(name, settings_of(config), "'shoal train RECIPE --help' lists them.")
                raise UserError(f"{origin}: there is no setting {name!r}: {hint}")
        place[last] = value
    return parse_config(raw, origin)


def to_dict(config: RunConfig) -> dict[str, Any]:
    """Plain YAML types, the method's name and the plugins that it needs included."""
    raw = dataclasses.asdict(config)
    raw["method"] = {"name": config.method.name, **raw["method"]}
    if needed := plugins_of(config):
        raw[PLUGINS] = needed
    plain: dict[str, Any] = _plain(raw)
    return plain


def plugins_of(config: RunConfig) -> dict[str, str]:
    """What a run takes from plugins, by name: the file or package of each."""
    asked: list[tuple[Registry[Any], str]] = [(METHODS, config.method.name), (SOURCES, scheme_of(config.data.path))]
    asked += [(AUGMENTATIONS, spec.partition(":")[0]) for spec in config.augment.own]
    origins = {name: registry.origin(name) for registry, name in asked if name in registry}
    return {name: origin for name, origin in origins.items() if origin}


def settings_of(config: RunConfig) -> dict[str, Any]:
    """Every setting by the name it has as a flag, such as ``optim.lr``, in plain YAML types."""
    return dict(_paths_of(to_dict(config)))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def to_yaml(config: RunConfig) -> str:
    """The recipe that gives this config."""
    return dumped(to_dict(config))


def dumped(raw: Mapping[str, Any]) -> str:
    """As the YAML of a recipe."""
    return yaml.safe_dump(dict(raw), sort_keys=False, default_flow_style=None, width=110)


def with_reachable_clusters(config: RunConfig, recipe: RunConfig, given: Iterable[str]) -> tuple[RunConfig, str]:
    """Where a recipe is cut to so few epochs that its losses would never use clusters, scale ``cluster_from`` as well.

    Args:
        config: the recipe with other settings put over it.
        recipe: as it is written.
        given: names of these settings, or the words of a command that give them; ``cluster_from`` stays if it is one.

    Returns:
        The config, and what has become of it, in words; empty where nothing has.
    """
    names = {word.lstrip("-").partition("=")[0].replace("-", "_") for word in given}
    late = config.epochs <= config.cluster_from < recipe.epochs and "cluster_from" not in names
    if not (config.method.uses_clusters and late):
        return config, ""
    first = config.cluster_from * config.epochs // recipe.epochs
    return replace(config, cluster_from=first), (
        f"{config.method.name} would use no clusters in {config.epochs} epochs, as the recipe's cluster_from is "
        f"{config.cluster_from} of {recipe.epochs}: it is scaled to {first}; --cluster-from sets another"
    )
