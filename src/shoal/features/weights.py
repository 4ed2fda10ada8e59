"""Weights of a network, from a safetensors file that is given or downloaded; pickles are never opened here."""

from __future__ import annotations

import hashlib
import json
import math
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
from annotated_types import Gt
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from shoal.data.sources.hub import check_reachable
from shoal.errors import UserError
from shoal.features.layouts import Found, described, first_wrong, is_counter, read_as
from shoal.models.backbone import Channels, Stem, use_stem

SMALL_SIDE = 32
"""Side of the images of a ResNet with the stem for small ones, where its weights do not say."""

_NO_WEIGHTS_NEEDED = "'shoal train propos-folder' needs no weights"


@dataclass(frozen=True)
class Note:
    """What a file that ``shoal convert`` or ``shoal export`` wrote says of its weights, beside the tensors."""

    architecture: str
    """timm's name of the network."""
    stem: Stem = "native"
    size: tuple[Annotated[int, Gt(0)], Annotated[int, Gt(0)]] | None = None
    """Height and width in pixels that images are brought to as those of a run are; None: as timm does it."""
    mean: Channels | None = None
    """Channel means; None: timm's."""
    std: Channels | None = None
    origin: str = ""
    """Whose layout the weights came in, or which recipe trained them."""


def weights_file(path: Path, *, used: bool = False, convert: str = "") -> Path:
    """Check that a file given by the user, now or when it was first ``used``, is a safetensors file.

    ``convert`` says how others become one; by default, with ``shoal convert``.

    Raises:
        UserError: it does not exist, or is another kind of file.
    """
    if path.is_dir():
        raise UserError(f"{path} is a folder, not a file of weights: a finished run is given as --backbone.name.")
    if not path.is_file():
        if used:
            raise UserError(f"the weights {path}, which the images were embedded with, are gone: restore the file.")
        raise UserError(f"there is no weights file {path}: give --backbone.weights a .safetensors file.")
    if path.suffix != ".safetensors":
        how = convert or f"'shoal convert {shlex.quote(str(path))}' writes its weights as one, without running any"
        raise UserError(f"{path} is not a .safetensors file, and pickles can run code: {how}.")
    return path


def hub_file(name: str, config: Mapping[str, Any]) -> Path:
    """Find the pretrained weights of a timm model in the hub's cache, or download them.

    Args:
        name: timm's name of the model.
        config: timm's ``pretrained_cfg``.

    Raises:
        UserError: there are none, only as a pickle, or they cannot be downloaded.
    """
    repository, address = config.get("hf_hub_id"), config.get("url")
    if not repository and not address:
        raise UserError(
            f"timm has no pretrained weights of {name}: give some with --backbone.weights FILE, or learn features from "
            f"the images ({_NO_WEIGHTS_NEEDED})."
        )
    file = _safe_name(config.get("hf_hub_filename") or "model.safetensors")
    if not repository or not file:
        raise UserError(
            f"pretrained weights of {name} are only published as {address or config['hf_hub_filename']}, which may be "
            "a pickle: download it, and 'shoal convert FILE' writes what --backbone.weights takes."
        )
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    repository, _, revision = repository.partition("@")
    kept = try_to_load_from_cache(repository, file, revision=revision or None)
    if isinstance(kept, str):  # without checking for an update, which an existing clustering was not made with
        return Path(kept)
    try:
        check_reachable()
        return Path(hf_hub_download(repository, file, revision=revision or None))
    except Exception as error:  # depends on the client and on how the network fails
        reason = "the hub cannot be reached" if isinstance(error, OSError) else type(error).__name__
        raise UserError(
            f"cannot fetch the pretrained weights of {name} ({reason}): download {file} from "
            f"https://huggingface.co/{repository} where there is a network and give it with --backbone.weights FILE, "
            f"or learn features from the images ({_NO_WEIGHTS_NEEDED})."
        ) from error


def read_weights(file: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        UserError: it is damaged or cannot be read.
    """
    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise UserError(f"cannot read the weights {file} ({error}): download the file again.") from error


def note_of(file: Path) -> Note | None:
    """What ``shoal convert`` or ``shoal export`` has noted in a file of weights; None if neither has written it.

    Raises:
        UserError: the note is damaged.
    """
    try:
        with safe_open(file, "pt") as opened:
            values = json.loads((opened.metadata() or {}).get("shoal", "{}"))
    except (SafetensorError, OSError, ValueError):  # what is wrong with the file is reported when it is read
        return None
    if not isinstance(values, dict) or "architecture" not in values:
        return None
    values.pop("format", None)
    try:
        note: Note = TypeAdapter(Note).validate_python(values)
        if not all(map(math.isfinite, (*(note.mean or ()), *(note.std or ())))) or not min(note.std or (1,)) > 0:
            raise ValueError("images would be divided by zero")
    except (ValidationError, ValueError) as error:
        raise UserError(f"what {file} says of its weights is damaged: convert or export them again.") from error
    return note


def load_weights(network: nn.Module, file: Path, config: Mapping[str, Any]) -> Stem:
    """Load the tensors of a file into a timm network, which gets the stem that they are made for.

    Args:
        network: with or without a classifier.
        file: of safetensors, in any of the published layouts.
        config: timm's ``pretrained_cfg``.

    Returns:
        The stem.

    Raises:
        UserError: a tensor is missing, has another shape or belongs to another network, or the file is damaged.
    """
    note = note_of(file)
    name = config.get("architecture", "the backbone")
    found = read_as(read_weights(file), wanted_by(network))
    stem = note.stem if note else found.stem_for(network, "native")
    use_stem(network, stem, name)
    fill(network, found, config, f"the weights {file}")
    return stem


def fill(network: nn.Module, found: Found, config: Mapping[str, Any], origin: str) -> None:
    """Load tensors into a network that has their stem; ``origin`` says what they are.

    Raises:
        UserError: as ``load_weights``.
    """
    wanted, name = wanted_by(network), config.get("architecture", "the backbone")
    heads = [f"{head}." for head in as_list(config.get("classifier"))]
    wrong = first_wrong(found, wanted, heads)
    if wrong:
        translated = _translated(found.tensors, network)
        if translated is None or first_wrong(replace(found, tensors=translated), wanted, heads):
            raise UserError(
                f"{origin} do not fit {name}: read in the nearest layout, {described(found.layout)}, {wrong}. Weights "
                "belong to one network: give its --backbone.name."
            )
        found = replace(found, tensors=translated)
    parameters = dict(network.named_parameters())  # buffers may be whole numbers, or hold infinity
    for each in wanted.keys() & parameters.keys():
        value = found.tensors[each]
        if value.is_meta or value.is_quantized or value.layout != torch.strided or not value.is_floating_point():
            raise UserError(
                f"{origin} hold tensors that are not plain floating-point numbers, such as sparse or quantised ones "
                f"({each}): save a network of floating-point weights."
            )
        # Floating-point numbers of eight bits have no functions of their own.
        if not (value.float() if value.itemsize == 1 else value).isfinite().all():
            raise UserError(f"{origin} hold NaN or infinity ({each}): give weights of training that did not diverge.")
    network.load_state_dict({each: found.tensors[each] for each in wanted}, strict=False)


def wanted_by(network: nn.Module) -> dict[str, Tensor]:
    """The tensors that a checkpoint has to have."""
    return {name: value for name, value in network.state_dict().items() if not is_counter(name)}


def file_digest(file: Path) -> str:
    """Return a hash of a file.

    Raises:
        UserError: it cannot be read.
    """
    try:
        with file.open("rb") as opened:
            return hashlib.file_digest(opened, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    except OSError as error:
        raise UserError(f"cannot read the weights {file}: {error.strerror}.") from error


def _safe_name(file: str) -> str | None:
    """Return the name of a file after the hub's conversion to safetensors; None if it converts no such file."""
    if file.endswith(".safetensors"):
        return file
    if file.endswith(".bin"):
        return file.removeprefix("pytorch_").replace("open_clip_pytorch_", "open_clip_")[:-4] + ".safetensors"
    return None


def _translated(tensors: Mapping[str, Tensor], network: nn.Module) -> dict[str, Tensor] | None:
    """Convert other published names, and position embeddings of another size, with timm; None if timm cannot."""
    translate: Callable[..., dict[str, Tensor]] | None
    translate = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
    if translate is None:
        return None
    try:
        with torch.no_grad():
            translated: dict[str, Tensor] = translate(dict(tensors), network)
    except Exception:  # whatever goes wrong, these are not the weights of this network
        return None
    return translated


def as_list(value: str | Sequence[str] | None) -> Sequence[str]:
    """What timm has one or several of."""
    return [value] if isinstance(value, str) else value or ()
