"""Augmentations of one's own: what ``--augment.own`` names, applied after those of ``ViewConfig``."""

from __future__ import annotations

import dataclasses
import functools
from abc import ABC, abstractmethod
from typing import Any, ClassVar

from jaxtyping import Float
from pydantic import ConfigDict, TypeAdapter, ValidationError
from torch import Generator, Tensor

from shoal.errors import UserError, did_you_mean
from shoal.plugins import Registry, check_settings, place_of


@dataclasses.dataclass(frozen=True)
class Augmentation(ABC):
    """A random change of images, as a frozen dataclass of its settings; ``name`` is what recipes and flags call it.

    Drawing is separate from applying: with several processes each draws for the global batch, and applies its share.
    """

    name: ClassVar[str]

    @abstractmethod
    def draw(self, n: int, size: tuple[int, int], generator: Generator, view: int) -> Float[Tensor, "n ..."]:
        """Random numbers for one view of each of ``n`` images of ``size`` (height, width), a row for each.

        Draw from ``generator``, on its device, and as much for every image. ``view`` is 0 or 1.
        """

    @abstractmethod
    def apply(self, views: Float[Tensor, "b 3 h w"], drawn: Float[Tensor, "b ..."]) -> Float[Tensor, "b 3 h w"]:
        """The changed images, of the same shape and in [0, 1]; ``drawn`` has their rows of what ``draw`` returned."""


def _check(kind: type[Augmentation]) -> None:
    """Raise a UserError for an augmentation whose settings cannot be read from a recipe."""
    check_settings(kind, f"the augmentation {kind.__name__}")


AUGMENTATIONS = Registry[Augmentation](
    "augmentation",
    Augmentation,  # type: ignore[type-abstract]
    "shoal.augmentations",
    lambda kind: getattr(kind, "name", None),
    _check,
)
"""The class of each augmentation of a plugin, by its name."""


def named(spec: str) -> Augmentation:
    """The augmentation that a spec such as ``erase`` or ``erase:p=0.5,side=4`` describes.

    Raises:
        UserError: there is no augmentation of this name, or a setting of it is wrong.
    """
    name = spec.partition(":")[0]
    if name not in AUGMENTATIONS:
        known = ", ".join(AUGMENTATIONS)
        near = f", and there are {known}" if known else ""
        raise UserError(
            f"there is no augmentation named {name!r}{near}: give the plugin that has it with --plugin FILE."
        )
    return _configured(AUGMENTATIONS[name], spec)


@functools.cache
def _configured(kind: type[Augmentation], spec: str) -> Augmentation:
    """An augmentation with the settings of its spec."""
    name, _, rest = spec.partition(":")
    values: dict[str, Any] = {}
    for item in filter(None, rest.split(",")):
        setting, equals, value = item.partition("=")
        if not equals:
            raise UserError(f"{spec!r}: settings are written as in {name}:p=0.5,side=4.")
        values[setting.strip()] = value.strip()
    fields = [field.name for field in dataclasses.fields(kind)]
    for setting in values:
        if setting not in fields:
            hint = did_you_mean(setting, fields, f"it has {', '.join(fields) or 'none'}.")
            raise UserError(f"the augmentation {name!r} has no setting {setting!r}: {hint}")
    setattr(kind, "__pydantic_config__", ConfigDict(allow_inf_nan=False))  # noqa: B010 - no dataclass declares it
    try:
        made: Augmentation = TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UserError(
            f"the augmentation {name!r}: {where}: {first['msg'].lower()}, not {first['input']!r}."
        ) from error
    return made


def drawn(
    augmentation: Augmentation, n: int, size: tuple[int, int], generator: Generator, view: int
) -> Float[Tensor, "n ..."]:
    """What an augmentation draws for one view of each image.

    Raises:
        UserError: that is not a row for each.
    """
    values = augmentation.draw(n, size, generator, view)
    if not isinstance(values, Tensor) or not values.ndim or len(values) != n:
        found = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise UserError(
            f"{place_of(type(augmentation))}: the augmentation {augmentation.name!r} draws {found} for {n} images: it "
            "must return a tensor with a row for each."
        )
    return values


def applied(
    augmentation: Augmentation, views: Float[Tensor, "b 3 h w"], drawn: Float[Tensor, "b ..."]
) -> Float[Tensor, "b 3 h w"]:
    """What an augmentation makes of some views.

    Raises:
        UserError: that is not as many images of the same size, or no float32.
    """
    changed = augmentation.apply(views, drawn)
    if not isinstance(changed, Tensor) or changed.shape != views.shape or changed.dtype != views.dtype:
        found = f"{tuple(changed.shape)} of {changed.dtype}" if isinstance(changed, Tensor) else type(changed).__name__
        raise UserError(
            f"{place_of(type(augmentation))}: the augmentation {augmentation.name!r} makes {found} of "
            f"{tuple(views.shape)} of {views.dtype}: it must keep shape and type."
        )
    return changed
