"""Validation of what users pass as parameters, the same for all estimators and functions of feature matrices."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from numbers import Integral, Real
from typing import Any, TypeVar, cast, get_args

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from shoal.clustering.rows import Rows
from shoal.errors import UserError, did_you_mean

Array = npt.NDArray[Any]

Init = TypeVar("Init", bound=Callable[..., None])


def hinting(init: Init) -> Init:
    """Let a constructor say which keyword may have been meant by one that it does not have.

    A class may know more: its ``_hint`` takes the keyword, and gives a hint or an empty text.
    """
    names = list(inspect.signature(init).parameters)[1:]

    @wraps(init)
    def checked(self: object, *args: Any, **kwargs: Any) -> None:
        for name in kwargs.keys() - names:
            kind = type(self)
            own = getattr(kind, "_hint", lambda _name: "")(name)
            hint = did_you_mean(name, names, own or f"it has {', '.join(names)}.")
            raise TypeError(f"{kind.__name__} has no parameter {name!r}: {hint}")
        init(self, *args, **kwargs)

    return cast("Init", checked)


def check_counts(**counts: int) -> None:
    """Refuse anything but whole numbers from 1 on.

    Raises:
        UserError: names the parameter.
    """
    for name, count in counts.items():
        if not isinstance(count, Integral) or isinstance(count, bool) or count < 1:
            raise UserError(f"{name}={count!r} must be a whole number, at least 1.")


def check_not_negative(**values: float) -> None:
    """Refuse negative numbers, NaN, and what is not a number.

    Raises:
        UserError: names the parameter.
    """
    for name, value in values.items():
        if not isinstance(value, Real) or isinstance(value, bool):
            raise UserError(f"{name}={value!r} must be a number.")
        if not value >= 0:
            raise UserError(f"{name}={value} must not be negative.")


def check_n_clusters(n: int, **count: int) -> None:
    """Refuse more clusters than the n rows, or none; the parameter is given by its name.

    Raises:
        UserError: there are fewer rows, or it is not a whole number.
    """
    ((name, k),) = count.items()
    check_counts(**count)
    if k > n:
        raise UserError(f"{name}={k} is more than there are rows: n_samples={n} should be >= {name}={k}.")


def check_choice(value: object, choices: object, what: str) -> None:
    """Refuse a name that is none of a ``Literal``'s.

    Raises:
        UserError: lists the names.
    """
    if not isinstance(value, str) or value not in get_args(choices):
        raise UserError(f"there is no {what} {value!r}: give one of {', '.join(get_args(choices))}.")


def points_from(given: Array | Tensor, name: str) -> Float[Tensor, "*shape"]:
    """Parameter ``name`` as a tensor of floating point numbers.

    Raises:
        UserError: not an array of real numbers.
    """
    try:
        points = given if isinstance(given, Tensor) else torch.tensor(np.asarray(given))
    except (TypeError, ValueError) as error:
        raise UserError(f"{name} is not an array of numbers ({error}): give one row for each cluster.") from error
    if points.is_complex() or points.layout != torch.strided:
        raise UserError(f"{name} holds {points.dtype} as {points.layout}: give real numbers, dense.")
    return points if points.is_floating_point() else points.double()


def check_centers_shape(points: Tensor, k: int, d: int) -> None:
    """Refuse initial centres that are not (k, d).

    Raises:
        UserError: in scikit-learn's words.
    """
    if points.shape == (k, d):
        return
    what = f"clusters {k}" if points.ndim != 2 or points.shape[1] == d else f"features of the data {d}"
    raise UserError(
        f"The shape of the initial centers {tuple(points.shape)} does not match the number of {what}: give ({k}, {d}), "
        "one row for each cluster."
    )


def weights_from(given: Array | Tensor, features: Float[Tensor, "n d"]) -> Float[Tensor, "n"]:
    """``sample_weight`` as a tensor beside the features.

    Raises:
        UserError: not n numbers, a negative or infinite one or NaN, or all zero.
    """
    weights = points_from(given, "sample_weight")
    weights = weights.to(features.device, precision_of(features) if features.is_floating_point() else torch.float32)
    if weights.ndim == 0:
        weights = weights.expand(len(features))
    if weights.shape != (len(features),):
        raise UserError(f"sample_weight has shape {tuple(weights.shape)}: give one for each row, ({len(features)},).")
    if not torch.isfinite(weights).all() or (weights < 0).any() or (len(weights) and not weights.any()):
        raise UserError("sample_weight holds a negative number, NaN or infinity, or only zeros: give finite weights.")
    return weights


def centers_from(given: Array | Tensor, rows: Rows, shape: tuple[int, int], name: str) -> Float[Tensor, "k d"]:
    """Centres that a user gave as parameter ``name``, in the coordinates of the rows.

    Raises:
        UserError: no numbers, another shape, NaN, infinity or, under the cosine, a zero row.
    """
    points = points_from(given, name)
    if points.shape != shape:
        raise UserError(f"{name} has shape {tuple(points.shape)}: give {shape}, one row for each cluster.")
    centers = rows.prepare(points.to(rows.features.device))
    if not torch.isfinite(centers).all():
        raise UserError(f"{name} holds NaN, infinity or, under the cosine, a zero row: give other centres.")
    return centers


def generator_from(random_state: int | np.random.RandomState | None) -> torch.Generator:
    """A generator for scikit-learn's ``random_state``."""
    from sklearn.utils import check_random_state  # slow to import

    return torch.Generator().manual_seed(int(check_random_state(random_state).randint(2**31)))


def precision_of(features: Float[Tensor, "n *d"]) -> torch.dtype:
    """The precision of results about rows: theirs, but at least float32."""
    return torch.promote_types(features.dtype, torch.float32)


def put_ahead(shares: Float[Tensor, "n k"], labels: Int64[Tensor, "n 1"]) -> Float[Tensor, "n k"]:
    """Probabilities of which that of each row's own cluster is the first of the largest, if only by the last bit."""
    top = shares.amax(1, keepdim=True)
    own = torch.where(shares.argmax(1, keepdim=True) == labels, top, torch.nextafter(top, top + 1))
    return shares.scatter(1, labels, own)
