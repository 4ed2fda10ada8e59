"""Networks with a tower for images and a tower for text, as open_clip builds them."""

from __future__ import annotations

import difflib
import logging
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from PIL import Image

from shoal.data.listing import Pixels
from shoal.errors import UserError
from shoal.features.inference import ENOUGH, NetworkPreparing, cut
from shoal.features.weights import hub_file, weights_file
from shoal.files import expand_home
from shoal.models.backbone import Channels, short

PREFIX = "open_clip:"
"""What the name of such a network begins with."""

_CONFIG = "open_clip_config.json"
_WEIGHTS = "open_clip_model.safetensors"
_CONVERT = (
    "convert it with safetensors.torch.save_file(torch.load(FILE, weights_only=True), 'weights.safetensors'), then "
    "give --backbone.weights weights.safetensors"
)

_SHOWN = 6
"""Names of weights that a message lists."""


@dataclass(frozen=True)
class ClipName:
    """``open_clip:MODEL``, ``open_clip:MODEL:TAG`` for published weights, or ``open_clip:FOLDER``.

    A folder holds what open_clip publishes of a model: ``open_clip_config.json`` and mostly its weights.
    """

    whole: str
    model: str
    """As open_clip takes it."""
    folder: Path | None = None
    published: Mapping[str, Any] = field(default_factory=dict)
    """Where weights come from and how they want their images; empty where nobody says so."""
    quick_gelu: bool | None = None
    """Whether the weights are known to be trained with that activation; None: as the model's configuration says."""

    @classmethod
    def parse(cls, whole: str, *, own_weights: bool) -> ClipName:
        """Look a name up.

        Args:
            whole: with the prefix.
            own_weights: a file of weights is given, so those of a tag need not be there.

        Raises:
            UserError: open_clip is not installed, or has no such model or weights.
        """
        open_clip = _open_clip()
        text = whole.removeprefix(PREFIX)
        folder = expand_home(text)
        if (folder / _CONFIG).is_file():
            return cls(whole, f"local-dir:{folder}", folder)
        model, _, tag = text.replace("/", "-").partition(":")
        models = open_clip.list_models()
        if model not in models:
            if folder.is_dir():
                raise UserError(
                    f"{folder} has no {_CONFIG}: give {PREFIX}MODEL:TAG, or a folder as open_clip publishes it."
                )
            near = difflib.get_close_matches(model, models, n=1)
            hint = f"did you mean {PREFIX}{near[0]}?" if near else "open_clip.list_models() lists the names."
            raise UserError(f"open_clip has no model {text!r}, and there is no folder of that name: {hint}")
        if "multimodal_cfg" in open_clip.get_model_config(model):
            raise UserError(f"{model} makes more than one vector of an image: give another --backbone.name.")
        tags: list[str] = open_clip.list_pretrained_tags_by_model(model)
        if tag:
            if tag not in tags:
                raise UserError(f"open_clip has no weights {tag!r} of {model}: it has {_some(tags) or 'none'}.")
            published = _published(model, tag)
            return cls(whole, model, published=published, quick_gelu=published.get("quick_gelu"))
        each = [_published(model, tag) for tag in tags]
        if tags and (not own_weights or any(_preparation(cfg) != _preparation(each[0]) for cfg in each)):
            known = _some([f"{PREFIX}{model}:{tag}" for tag in tags])
            raise UserError(f"say whose weights of {model}: give one of {known}.")
        if not own_weights:
            raise UserError(f"open_clip knows no weights of {model}: give some with --backbone.weights FILE.")
        return cls(whole, model, published=_preparation(each[0]) if each else {})

    def weights(self, given: Path | None, *, used: bool) -> Path:
        """The file with the weights of both towers; published ones are downloaded once.

        Args:
            given: by the user.
            used: the images were embedded with it before.

        Raises:
            UserError: it is missing, is not a safetensors file, or cannot be downloaded.
        """
        if given is not None:
            return weights_file(given, used=used, convert=_CONVERT)
        if self.folder is not None:
            return weights_file(self.folder / _WEIGHTS, used=used, convert=_CONVERT)
        repository, _, file = self.published.get("hf_hub", "").rpartition("/")
        source = {"hf_hub_id": repository, "hf_hub_filename": file or "open_clip_pytorch_model.bin"}
        return hub_file(self.whole, {**source, "url": self.published.get("url")})

    def build(self, file: Path) -> Any:
        """The model with its weights, in evaluation mode on the CPU: an ``open_clip.CustomTextCLIP``, or a ``CoCa``.

        Raises:
            UserError: the weights do not fit, or parts of the model cannot be built.
        """
        open_clip = _open_clip()
        # Where model and weights disagree on the activation, open_clip warns and takes the wrong one.
        settings = {} if self.quick_gelu is None else {"quick_gelu": self.quick_gelu}
        settings |= {"load_weights": False, "pretrained_text": False, "force_custom_text": True}
        preparation = _preparation(self.published)
        try:
            with quiet():
                model = open_clip.create_model(self.model, force_preprocess_cfg=preparation, **settings)
        except Exception as error:  # of any kind: a text tower may need another package, or a network
            raise UserError(f"open_clip cannot build {self.whole} ({short(error)}).") from error
        try:
            with quiet():
                open_clip.load_checkpoint(model, str(file))
        except Exception as error:  # whatever goes wrong, these are not the weights of this network
            advice = "Weights belong to one network: give its --backbone.name."
            raise UserError(f"the weights {file} do not fit {self.whole}: {short(error)}. {advice}") from error
        model.eval().requires_grad_(requires_grad=False)
        return model

    def tokenizer(self) -> Any:
        """What makes token ids (n, context) of a list of n texts.

        Raises:
            UserError: it needs another package or files that are not there.
        """
        try:
            with quiet():
                return _open_clip().get_tokenizer(self.model)
        except Exception as error:  # of any kind: it belongs to another package, which downloads it
            raise UserError(
                f"the tokenizer of {self.whole} cannot be loaded ({short(error)}): it may need "
                "'pip install transformers sentencepiece' and, once, the network."
            ) from error


class ClipPreparing(NetworkPreparing):
    """Resizes and crops as open_clip does to evaluate a model, and leaves out the normalisation."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        """``config`` is the ``preprocess_cfg`` of the image tower."""
        from open_clip.transform import PreprocessCfg, image_transform_v2

        whole = image_transform_v2(PreprocessCfg(**config), is_train=False).transforms
        self._transforms: list[Callable[[Image.Image], Image.Image]] = whole[:-2]  # then to a tensor, and normalise
        height, width = sides(config)
        self.min_side: int | None = math.ceil(ENOUGH * max(height, width))
        self._cuts = config["resize_mode"] == "shortest"
        mode = {"shortest": "center", "longest": "border", "squash": "squash"}[config["resize_mode"]]
        self.about: Mapping[str, str] = {
            "interpolation": config["interpolation"],
            "crop_pct": "1.0",
            "crop_mode": mode,
        }

    def from_image(self, image: Image.Image, /) -> Pixels:
        """Make pixels of an image in mode RGB."""
        if self._cuts:
            image = cut(image)
        for transform in self._transforms:
            image = transform(image)
        pixels: Pixels = np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))
        return pixels


def sides(config: Mapping[str, Any]) -> tuple[int, int]:
    """Height and width in pixels of the images that a tower takes, given its ``preprocess_cfg``."""
    size = config["size"]
    height, width = (size, size) if isinstance(size, int) else size
    return height, width


def channels(config: Mapping[str, Any], name: str) -> Channels:
    """``mean`` or ``std`` of a ``preprocess_cfg``, which may be a number for all channels, or a list from JSON."""
    value = config[name]
    red, green, blue = value if isinstance(value, list | tuple) else (value,) * 3
    return float(red), float(green), float(blue)


def _some(names: Sequence[str]) -> str:
    """The first of a list that may be long."""
    return ", ".join([*names[:_SHOWN], *(["…"] if len(names) > _SHOWN else [])])


def _published(model: str, tag: str) -> dict[str, Any]:
    found: dict[str, Any] = _open_clip().get_pretrained_cfg(model, tag)
    return found


def _preparation(published: Mapping[str, Any]) -> dict[str, Any]:
    """How weights want their images, of what open_clip says of them."""
    names = ("mean", "std", "interpolation", "resize_mode")
    return {name: published[name] for name in names if name in published}


def _open_clip() -> ModuleType:
    try:
        with quiet():
            open_clip = import_module("open_clip")
    except ImportError as error:
        raise UserError(f"{PREFIX}MODEL needs open_clip: pip install 'shoal[words]'.") from error
    return open_clip


@contextmanager
def quiet() -> Iterator[None]:
    """Keep to itself what open_clip logs and warns of, such as weights that are not loaded yet.

    It logs to the root logger. Without any handler that would be set up to print, for good.
    """
    root, handler = logging.getLogger(), logging.NullHandler()
    root.addHandler(handler)
    root.addFilter(_nothing)  # holds for what is logged to the root itself, and not for other loggers
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        root.removeFilter(_nothing)
        root.removeHandler(handler)


def _nothing(_record: logging.LogRecord) -> bool:
    return False
