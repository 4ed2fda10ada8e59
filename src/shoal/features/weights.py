"""Weights of a frozen network, from a safetensors file that is given or downloaded; pickles are never opened."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from shoal.data.sources.hub import check_reachable
from shoal.errors import UserError

PREFIXES = ("", "module.", "backbone.", "model.", "encoder.", "module.backbone.", "model.backbone.")
"""What training scripts put before the names of a network's tensors."""

_HEADS = ("head.", "head_dist.", "fc.", "classifier.", "last_linear.", "mask_token")
"""Tensors that a checkpoint may have in addition: classifiers by their usual names, and those used in training only."""

_CONVERT = (
    "safetensors.torch.save_file(torch.load(FILE, weights_only=True), 'weights.safetensors'), then give "
    "--backbone.weights weights.safetensors"
)
_NO_WEIGHTS_NEEDED = "'shoal train propos-folder' needs no weights"


def weights_file(path: Path, *, used: bool = False) -> Path:
    """Check that a file given by the user, now or when it was first ``used``, is a safetensors file.

    Raises:
        UserError: it does not exist, or is another kind of file.
    """
    if not path.is_file():
        if used:
            raise UserError(f"the weights {path}, which the images were embedded with, are gone: restore the file.")
        raise UserError(f"there is no weights file {path}: give --backbone.weights a .safetensors file.")
    if path.suffix != ".safetensors":
        raise UserError(
            f"{path} is not a .safetensors file, and shoal opens no pickles, which can run code: convert it with "
            f"{_CONVERT}."
        )
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
            f"pretrained weights of {name} are published as {address or config['hf_hub_filename']} alone, which shoal "
            f"does not open since it may be a pickle: download it and convert it with {_CONVERT}."
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


def load_weights(network: nn.Module, file: Path, config: Mapping[str, Any]) -> None:
    """Load the tensors of a file into a timm network without a classifier.

    Prefixes that training scripts add to names are removed; other published formats of a model are converted by timm.

    Raises:
        UserError: a tensor is missing, has another shape or belongs to another network, or the file is damaged.
    """
    try:
        tensors = load_file(file)
    except (SafetensorError, OSError) as error:
        raise UserError(f"cannot read the weights {file} ({error}): download the file again.") from error
    wanted = {name: value for name, value in network.state_dict().items() if not _is_counter(name)}
    heads = (*_HEADS, *(f"{head}." for head in as_list(config.get("classifier"))))
    found = min((_without(tensors, prefix) for prefix in PREFIXES), key=lambda them: len(wanted.keys() - them.keys()))
    wrong = _first_wrong(found, wanted, heads)
    if wrong:
        translated = _translated(found, network)
        if translated is None or _first_wrong(translated, wanted, heads):
            network_name = config.get("architecture", "the backbone")
            advice = "Weights belong to one network: give its --backbone.name."
            raise UserError(f"the weights {file} do not fit {network_name}: {wrong}. {advice}")
        found = translated
    network.load_state_dict({name: found[name] for name in wanted}, strict=False)


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


def _without(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _first_wrong(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], heads: Sequence[str]) -> str | None:
    """Describe the first tensor that does not fit; None if all do."""
    for name, value in wanted.items():
        if name not in found:
            return f"{name} is missing"
        if found[name].shape != value.shape:
            return f"{name} has shape {tuple(found[name].shape)} instead of {tuple(value.shape)}"
    odd = (n for n in found if n not in wanted and not _is_counter(n) and not n.startswith(tuple(heads)))
    return next((f"{name} belongs to another network" for name in odd), None)


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


def _is_counter(name: str) -> bool:
    return name.endswith("num_batches_tracked")


def as_list(value: str | Sequence[str] | None) -> Sequence[str]:
    """What timm has one or several of."""
    return [value] if isinstance(value, str) else value or ()
