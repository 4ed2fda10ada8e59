"""Tensor files: safetensors with a header of plain values and a version of the format."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from shoal.errors import UserError
from shoal.files import atomic_write

FORMAT = 1
"""Version of the files; a newer one is refused."""


def write_tensors(path: Path, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write tensors and a header of plain values, atomically."""
    # A copy each: safetensors refuses tensors that share memory, and wants them contiguous.
    copies = {name: value.detach().cpu().clone().contiguous() for name, value in tensors.items()}
    atomic_write(path, to_bytes(copies, {"shoal": json.dumps({"format": FORMAT, **header})}))


def read_tensors(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Header and tensors of a file that this project wrote.

    Raises:
        UserError: the file is damaged, may not be read, or a newer version wrote it.
    """
    try:
        with safe_open(path, "pt") as file:
            header: dict[str, Any] = json.loads(file.metadata()["shoal"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no iterator
            newer = header["format"] > FORMAT
    except PermissionError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}): ask its owner for permission to read it."
        ) from error
    except (SafetensorError, OSError, TypeError, KeyError, json.JSONDecodeError) as error:
        raise damaged(path, error) from error
    if newer:
        raise UserError(
            f"{path} was written by a newer version of shoal (format {header['format']}, this one reads up to "
            f"{FORMAT}): upgrade shoal to use it."
        )
    return header, tensors


def damaged(path: Path, error: Exception) -> UserError:
    """What to say of a file that cannot be what this project wrote."""
    if path.name.startswith("learned"):
        return UserError(
            f"{path} is damaged ({error}): bring it back from a copy, or 'shoal learn {path.parent} --undo' takes back "
            "what was learned."
        )
    if not path.name.startswith("state") and (path.parent / "state.safetensors").exists():
        return UserError(f"{path} is damaged ({error}): 'shoal train --resume {path.parent}' writes it again.")
    if path.name.startswith("clustering"):
        return UserError(
            f"{path} is damaged ({error}): bring it back from a copy, or cluster again into another --out."
        )
    return UserError(f"{path} is damaged ({error}): bring it back from a copy, or train afresh into another --out.")
