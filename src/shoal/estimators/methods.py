"""The estimator of each method."""

from __future__ import annotations

import inspect
from typing import Any

from shoal.errors import UserError
from shoal.estimators.base import DeepClusterer
from shoal.methods import METHODS, Method


class BYOL(DeepClusterer):
    """BYOL (arXiv 2006.07733), clustered with k-means; see ``DeepClusterer`` for parameters."""

    _method = "byol"


class CC(DeepClusterer):
    """Contrastive clustering (arXiv 2009.09687), clustered by its own head; see ``DeepClusterer`` for parameters."""

    _method = "cc"


class EMP(DeepClusterer):
    """EMP-SSL: many patches of each image (arXiv 2304.03977), clustered with k-means; see ``DeepClusterer``."""

    _method = "emp"


class MoCo(DeepClusterer):
    """Momentum contrast (arXiv 1911.05722), clustered with k-means; see ``DeepClusterer`` for parameters."""

    _method = "moco"


class PCL(DeepClusterer):
    """Prototypical contrastive learning (arXiv 2005.04966); see ``DeepClusterer`` for parameters.

    ``n_clusters`` is what is looked for; ``settings={"method.granularities": (250, 500)}`` sets the prototypes.
    """

    _method = "pcl"


class ProPos(DeepClusterer):
    """ProPos: prototype scattering and positive sampling (arXiv 2111.11821); see ``DeepClusterer`` for parameters."""

    _method = "propos"


class SimCLR(DeepClusterer):
    """SimCLR (arXiv 2002.05709), clustered with k-means; see ``DeepClusterer`` for parameters."""

    _method = "simclr"


class SimSiam(DeepClusterer):
    """SimSiam (arXiv 2011.10566), clustered with k-means; see ``DeepClusterer`` for parameters."""

    _method = "simsiam"


def estimator_of(method: str | type[Method]) -> type[DeepClusterer]:
    """The estimator class of a method, such as one of your own: ``estimator_of(VICReg)(n_clusters=10).fit(images)``.

    Args:
        method: its class, which becomes known by its name where it is not, or the name of one that is known.

    Raises:
        UserError: there is no method of this name, or the class cannot be used.
    """
    if isinstance(method, str):
        if method not in METHODS:
            raise UserError(f"there is no method named {method!r}: the methods are {', '.join(METHODS)}.")
        name, kind = method, METHODS[method]
    else:
        name, kind = METHODS.check(method), method
        if METHODS.get(name) is not method:
            METHODS.add(method)
    for shipped in (BYOL, CC, EMP, MoCo, PCL, ProPos, SimCLR, SimSiam):
        if shipped._method == name:
            return shipped
    text = f"{inspect.cleandoc(kind.__doc__ or kind.__name__)}\n\nSee ``DeepClusterer`` for parameters."
    parts = {
        "_method": name,
        "__doc__": text,
        "__module__": kind.__module__,
        "__reduce__": lambda self: _pickled(kind, self),
    }
    made: type[DeepClusterer] = type(kind.__name__, (DeepClusterer,), parts)
    return made


def _pickled(kind: type[Method], estimator: DeepClusterer) -> tuple[Any, ...]:
    """What pickle keeps of an estimator whose class no module holds: the method, and the state."""
    return _blank, (kind,), estimator.__getstate__()


def _blank(kind: type[Method]) -> DeepClusterer:
    made = estimator_of(kind)
    return made.__new__(made)
