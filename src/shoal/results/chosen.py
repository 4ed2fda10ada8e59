"""Which networks are asked for, as text that a flag takes."""

from __future__ import annotations

from pathlib import Path

from shoal.errors import UserError
from shoal.features import DEFAULT_BACKBONE, EncoderSpec
from shoal.features.clip import PREFIX
from shoal.features.shared import is_shared, local_result, local_weights
from shoal.features.weights import note_of
from shoal.files import is_folder, real
from shoal.folder import ResultFolder


def chosen_networks(names: str | None, weights: str | None) -> tuple[EncoderSpec, ...]:
    """The spec of each network, with absolute paths.

    Args:
        names: of a network, or of several with commas between them; None takes that which the weights name, or the
            default.
        weights: a file for each, with commas between them and nothing for published ones; None: published ones.

    Raises:
        UserError: a name is empty or there twice, or there are more or fewer weights than networks.
    """
    if names is None and weights and is_shared(weights):
        shared = local_weights(weights)  # a whole run has a network of its own
        names, weights = (str(shared), None) if shared.is_dir() else (None, str(shared))
    each = [_named_by(weights)] if names is None else _listed(names)
    if not all(each):
        raise UserError(
            f"--backbone.name {names!r} has an empty name: give one, or several with single commas between them."
        )
    files = [""] * len(each)
    if weights is not None:
        files = [weights] if len(each) == 1 else [file.strip() for file in weights.split(",")]
    if len(files) != len(each):
        raise UserError(
            f"--backbone.weights lists {len(files)} and --backbone.name {len(each)}: give a file for each network, and "
            "nothing between two commas for published weights."
        )
    found: list[EncoderSpec] = []
    for name, file in zip(each, files, strict=True):
        spec = _spec(name, file)
        if spec in found:
            raise UserError(f"--backbone.name lists {name} twice: name it once.")
        found.append(spec)
    return tuple(found)


def as_flags(spec: EncoderSpec) -> tuple[str, str]:
    """Names and weights of a network, or of several, as ``chosen_networks`` takes them; no weights are ''."""
    weights = [part.weights for part in spec.networks]
    return spec.name, ",".join(weights) if any(weights) else ""


def _named_by(weights: str | None) -> str:
    """The network that a file of weights says it is of, else the default one."""
    note = note_of(real(weights)) if weights else None
    return note.architecture if note else DEFAULT_BACKBONE


def _listed(names: str) -> list[str]:
    """The names of a list; a folder may have commas in its own."""
    alone = is_folder(names.removeprefix(PREFIX))
    return [names] if alone else [name.strip() for name in names.split(",")]


def _spec(name: str, weights: str) -> EncoderSpec:
    file = str(local_weights(weights) if is_shared(weights) else real(weights)) if weights else ""
    if is_shared(name):
        return EncoderSpec("run", str(local_result(Path(name))), file)
    if ResultFolder(Path(name)).is_run:
        return EncoderSpec("run", str(real(name)), file)
    if name.startswith(PREFIX):
        folder = Path(name.removeprefix(PREFIX))
        return EncoderSpec("open_clip", f"{PREFIX}{real(folder)}" if folder.is_dir() else name, file)
    return EncoderSpec("timm", name, file)
