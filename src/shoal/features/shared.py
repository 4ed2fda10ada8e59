"""Runs and weights that others share on the Hugging Face hub, as ``hf://owner/name``."""

from __future__ import annotations

from pathlib import Path

from shoal.data.sources.hub import SCHEME, hub_model
from shoal.errors import UserError
from shoal.folder import ResultFolder

_NAMES = ("backbone.safetensors", "model.safetensors")
"""What weights are called, the first that is there is meant; of several others none is."""


def is_shared(spec: str | Path) -> bool:
    """Whether a path is meant to be on the hub; a ``Path`` has one of both slashes."""
    return str(spec).startswith((SCHEME, "hf:/"))


def local_result(path: Path) -> Path:
    """The folder of a result, downloaded if it is on the hub.

    Raises:
        UserError: it cannot be downloaded, or is not a result.
    """
    if not is_shared(path):
        return path
    spec = _spec(path)
    folder = hub_model(spec)
    if not ResultFolder(folder).is_finished:
        raise UserError(f"{spec} holds no finished result: share the whole folder that 'shoal train' wrote.")
    return folder


def local_weights(spec: str) -> Path:
    """The folder of a run or the file of weights that a model of the hub holds.

    Raises:
        UserError: it cannot be downloaded, or holds neither.
    """
    folder = hub_model(_spec(spec))
    if ResultFolder(folder).is_run:
        return folder
    there = sorted(folder.glob("*.safetensors"))
    named = [folder / name for name in _NAMES if folder / name in there]
    if named or len(there) == 1:
        return (named or there)[0]
    what = f"several: {', '.join(file.name for file in there)}" if there else "no .safetensors file"
    raise UserError(f"{spec} has {what}: download the file that you mean, and give it.")


def _spec(path: str | Path) -> str:
    return f"{SCHEME}{str(path).removeprefix('hf:').lstrip('/')}"
