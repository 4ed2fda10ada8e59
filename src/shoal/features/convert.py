"""Published checkpoints, most of them pickles, as safetensors with plain names; what a pickle asks for is never run."""

from __future__ import annotations

import contextlib
import re
import shlex
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from shoal.errors import UserError
from shoal.features.layouts import LAYOUTS, Found, described, first_wrong, read_as, tensors_in
from shoal.features.weights import SMALL_SIDE, Note, fill, note_of, read_weights, wanted_by
from shoal.models.backbone import Channels, check_timm_name, use_stem
from shoal.tensors import write_tensors

TRIED: tuple[str, ...] = (
    *(f"resnet{depth}.tv_in1k" for depth in (18, 34, 50, 101, 152)),
    *("wide_resnet50_2.tv_in1k", "resnext50_32x4d.tv_in1k"),
    *("vit_small_patch16_224.dino", "vit_small_patch8_224.dino", "vit_base_patch16_224.dino"),
    *("vit_base_patch8_224.dino", "vit_tiny_patch16_224", "vit_large_patch16_224"),
)
"""Networks that a checkpoint is compared with if none is named, with the preparation of images that publishers use."""

_KINDS_OF_NETWORK = {
    "vit": "patch_embed.proj.weight",
    "resn": "conv1.weight",
    "wide_resn": "conv1.weight",
}
"""How names of networks begin, and how that of a tensor ends which all of them have."""

_NO_CODE = re.compile(
    r"(argparse|collections|copy_?reg|datetime|enum|hydra|lightning|lightning_fabric|numpy|omegaconf|pathlib"
    r"|pytorch_lightning|torch|typing|yacs)\."
    r"|builtins\.(bool|bytearray|bytes|complex|dict|float|frozenset|int|list|object|range|set|slice|str|tuple)$"
)
"""Modules of what checkpoints keep beside weights: settings and numbers. They are not imported, and nothing is run."""

_KINDS = 50
_ASKED = re.compile(r"GLOBAL ([\w.]+)")
_MAPPING = re.compile(r"Can only SETITEMS? for .* but got <class '<([\w.]+)>\.Ignored", re.S)


class _Ignored(list[Any]):
    """Stands for whatever a checkpoint has that is not a tensor; takes what a pickle does to objects and lists."""

    def __new__(cls, *_args: object, **_settings: object) -> Any:
        return super().__new__(cls)

    def __init__(self, *_args: object, **_settings: object) -> None:
        super().__init__()

    def __setstate__(self, _state: object) -> None:
        """Forget it."""


class _IgnoredMapping(_Ignored):
    """The same where items are set, which ``torch.load`` allows for its own kinds of dictionaries alone."""

    def __new__(cls, *_args: object, **_settings: object) -> Any:
        return OrderedDict()


@dataclass(frozen=True, eq=False)
class Converted:
    """The weights of a backbone with plain names, and what is known of it."""

    note: Note
    tensors: Mapping[str, Tensor]
    n_left_out: int
    """Tensors of the checkpoint that belong to heads, to other networks or to the training."""

    def save(self, path: Path) -> None:
        """Write a safetensors file.

        Raises:
            UserError: it cannot be written.
        """
        write_tensors(path, asdict(self.note), self.tensors)


def convert(
    file: Path,
    name: str | None = None,
    *,
    size: int | None = None,
    mean: Channels | None = None,
    std: Channels | None = None,
) -> Converted:
    """Find the backbone in a checkpoint.

    Args:
        file: of ``torch.save``, or of safetensors.
        name: timm's name of the network; None finds out among ``TRIED``.
        size: side in pixels of the images that it takes; None leaves it to timm, or 32 for the small stem.
        mean: channel means, if not timm's.
        std: channel standard deviations, if not timm's.

    Raises:
        UserError: the file is not a checkpoint, is damaged or would run code, or its weights fit no network.
    """
    tensors = _read(file)
    earlier = note_of(file) if file.suffix == ".safetensors" else None
    if name:
        check_timm_name(name)
    name = name or (earlier.architecture if earlier else _network_of(tensors, file))
    network, config = _build(name)
    found = read_as(tensors, wanted_by(network))
    stem = earlier.stem if earlier else found.stem_for(network, "native")
    use_stem(network, stem, name)
    fill(network, found, config, f"the weights {file}")
    known = earlier or Note(name, size=None if stem == "native" else (SMALL_SIDE, SMALL_SIDE))
    sides = (size, size) if size else known.size
    note = Note(name, stem, sides, mean or known.mean, std or known.std, known.origin or found.layout.publisher)
    kept = network.state_dict()
    return Converted(note, kept, len(tensors) - sum(name in found.tensors for name in kept))


def read_checkpoint(file: Path) -> Any:
    """What ``torch.save`` wrote, by ``torch.load(weights_only=True)``; all but tensors and plain values is forgotten.

    Raises:
        UserError: it is not such a file, is damaged, or asks for something that could run code.
    """
    ignored: dict[str, type[_Ignored]] = {}
    for number in range(_KINDS):
        try:
            with _known(ignored):
                return torch.load(file, map_location="cpu", weights_only=True)
        except PermissionError as error:
            raise UserError(f"cannot read {file}: {error.strerror}.") from error
        except Exception as error:  # of any kind: a damaged pickle may ask for anything
            mapping = _MAPPING.search(str(error))
            asked = mapping[1] if mapping else _asked_for(error)
            if asked is None or issubclass(ignored.get(asked, object), _IgnoredMapping if mapping else _Ignored):
                raise _no_checkpoint(file, error) from error
            if not _NO_CODE.match(asked):
                raise UserError(
                    f"{file} is a pickle that asks for {asked}, which could run code, so it is not opened: get the "
                    "weights alone, as saved by torch.save(network.state_dict(), FILE) or as safetensors."
                ) from error
            kind = _IgnoredMapping if mapping else _Ignored
            ignored[asked] = type(f"Ignored{number}", (kind,), {"__module__": f"<{asked}>"})
    raise _no_checkpoint(file, UnpicklingError("it holds too many kinds of objects"))


def _asked_for(error: Exception) -> str | None:
    """The name of what an unpickler did not load; None if that is not what was wrong. torch leaves out ``builtins``."""
    asked = _ASKED.search(str(error)) if isinstance(error, UnpicklingError) else None
    return None if asked is None else asked[1] if "." in asked[1] else f"builtins.{asked[1]}"


@contextlib.contextmanager
def _known(ignored: Mapping[str, type[_Ignored]]) -> Iterator[None]:
    allowed: list[Any] = [(kind, name) for name, kind in ignored.items()]
    with torch.serialization.safe_globals(allowed), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of an unusual protocol, before the error that matters
        yield


def _no_checkpoint(file: Path, error: Exception) -> UserError:
    if "TorchScript" in str(error):
        return UserError(f"{file} is a TorchScript program, not weights alone: get the checkpoint that it was made of.")
    return UserError(
        f"{file} is not a checkpoint that torch.load(weights_only=True) reads, or it is damaged: download it again, "
        "or give another file."
    )


def _read(file: Path) -> dict[str, Tensor]:
    if not file.is_file():
        what = "is a folder" if file.is_dir() else "does not exist"
        raise UserError(f"{file} {what}: give a checkpoint, a .pth, .pt, .ckpt, .tar, .bin or .safetensors file.")
    checkpoint = read_weights(file) if file.suffix == ".safetensors" else read_checkpoint(file)
    tensors = tensors_in(checkpoint)
    if not tensors:
        known = [", ".join(map(str, checkpoint))[:80]] if isinstance(checkpoint, Mapping) and checkpoint else []
        holds = f"it holds {known[0]}" if known else f"it holds a {type(checkpoint).__name__}"
        raise UserError(f"{file} has no weights by name where checkpoints have them ({holds}): give another file.")
    return tensors


def _build(name: str) -> tuple[Any, Mapping[str, Any]]:
    import timm

    with torch.random.fork_rng(devices=[]):
        network: Any = timm.create_model(name, pretrained=False, num_classes=0)
    return network, network.pretrained_cfg


def _network_of(tensors: Mapping[str, Tensor], file: Path) -> str:
    """The first of ``TRIED`` that the weights fit.

    Raises:
        UserError: there is none.
    """
    import timm

    nearest: tuple[float, str, Found, str] | None = None
    kinds = [start for start, last in _KINDS_OF_NETWORK.items() if any(name.endswith(last) for name in tensors)]
    for name in (each for each in TRIED if each.startswith(tuple(kinds))):
        with torch.device("meta"):
            network: Any = timm.create_model(name, pretrained=False, num_classes=0)
        found = read_as(tensors, wanted_by(network))
        use_stem(network, found.stem_for(network, "native"), name)
        wanted = wanted_by(network)
        wrong = first_wrong(found, wanted, [])
        if wrong is None:
            return name
        fits = [n for n, value in wanted.items() if n in found.tensors and found.tensors[n].shape == value.shape]
        share = len(fits) / max(len(wanted), len(found.tensors))
        if nearest is None or share > nearest[0]:
            nearest = share, name, found, wrong
    again = f"shoal convert {shlex.quote(str(file))} --backbone.name NAME"
    if nearest is None or not nearest[0]:
        some = ", ".join(list(tensors)[:2])
        raise UserError(
            f"the tensors of {file} ({some}, …) are in no layout that is known: the nearest is "
            f"{described(_nearest_layout(tensors))}. If timm has the network, give its name: '{again}'."
        )
    _, name, found, wrong = nearest
    raise UserError(
        f"the weights {file} fit no network that is known here: in the layout nearest to them, "
        f"{described(found.layout)}, {name} is the nearest, and {wrong}. Say which network they are of: '{again}'."
    )


def _nearest_layout(tensors: Mapping[str, Tensor]) -> Any:
    """The layout whose prefix is most like the beginnings of the names."""
    import difflib

    starts = {name.partition(".")[0] for name in tensors}
    starts |= {name.split(".")[1] for name in tensors if name.startswith("module.") and "." in name[7:]}

    def likeness(prefix: str) -> float:
        heads = prefix.rstrip(".").split(".")
        return max(difflib.SequenceMatcher(None, head, start).ratio() for head in heads for start in starts)

    return max((each for each in LAYOUTS if each.prefix), key=lambda each: likeness(each.prefix))
