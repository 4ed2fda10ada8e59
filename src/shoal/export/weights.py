"""The backbone of a training run for others: weights that plain timm loads, and a model card for the hub."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from shoal.config import RunConfig, to_yaml
from shoal.errors import UserError
from shoal.features.weights import Note, load_weights
from shoal.files import atomic_write
from shoal.folder import ResultFolder
from shoal.models import Backbone, evaluating
from shoal.tensors import write_tensors
from shoal.training.trained import Trained

CARD = "README.md"

CONFIG = "config.json"
"""What timm reads of a model of the hub, or of a folder, to build the network."""

AGREES = 1e-5
"""Largest difference of features to the run's, relative to their largest, that rounding explains."""

LICENCES = (
    *("apache-2.0", "mit", "bsd", "bsd-2-clause", "bsd-3-clause", "bsd-3-clause-clear", "isc", "zlib", "unlicense"),
    *("cc", "cc0-1.0", "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0"),
    *("cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nd-4.0", "cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0"),
    *("cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0", "agpl-3.0", "gpl", "gpl-2.0", "gpl-3.0", "lgpl"),
    *("lgpl-2.1", "lgpl-3.0", "mpl-2.0", "epl-1.0", "epl-2.0", "eupl-1.1", "eupl-1.2", "osl-3.0", "afl-3.0"),
    *("artistic-2.0", "bsl-1.0", "ecl-2.0", "etalab-2.0", "ms-pl", "ncsa", "postgresql", "wtfpl", "c-uda"),
    *("cdla-sharing-1.0", "cdla-permissive-1.0", "cdla-permissive-2.0", "odc-by", "odbl", "pddl", "gfdl", "ofl-1.1"),
    *("openrail", "openrail++", "bigscience-openrail-m", "bigscience-bloom-rail-1.0", "bigcode-openrail-m"),
    *("creativeml-openrail-m", "lppl-1.3c", "h-research", "intel-research", "apple-ascl", "apple-amlr", "other"),
)
"""Licences by the names that the hub has for them (huggingface.co/docs/hub/repositories-licenses)."""

_LIMITS = "Images, and weights that a run started from, have licences of their own, which may limit the choice."


@dataclass(frozen=True)
class Exported:
    """What was written, and how far features of plain timm are from the run's."""

    file: Path
    card: Path
    config: Path | None
    """What timm builds the network from; None where it cannot, or where there is another file of that name."""
    note: Note
    deviation: float
    n_images: int


def check_licence(name: str) -> None:
    """Raise a UserError for a licence that the hub does not know by this name."""
    if name in LICENCES:
        return
    begun = [each for each in LICENCES if each.startswith(name.lower())]  # rather cc-by-4.0 than odc-by
    near = begun or difflib.get_close_matches(name.lower(), LICENCES, n=1)
    hint = f"did you mean {near[0]!r}?" if near else "it has apache-2.0, cc-by-4.0 and many others."
    raise UserError(
        f"the hub knows no licence {name!r}: {hint} Give 'other' for one of your own, and name it in the card."
    )


def export_weights(path: Path, file: Path, pixels: UInt8[Tensor, "m 3 h w"], licence: str = "") -> Exported:
    """Write the backbone that a run's features come from, once plain timm makes the same features with it.

    Args:
        path: of the run.
        file: to write, of safetensors. The model card and timm's config.json are written beside it.
        pixels: some images of the run's size, to compare with.
        licence: one of ``LICENCES``, for the card; empty for none.

    Raises:
        UserError: there is no finished run, timm has no such network, or the file cannot be written.
    """
    trained = Trained.load(path)
    config = trained.config
    backbone = trained.method.encoder[0]
    assert isinstance(backbone, Backbone)
    if config.backbone.name == "small":
        raise UserError(
            f"the backbone of {path} is shoal's own small net, which timm does not have: --backbone.weights takes the "
            "run itself, and 'shoal export RUN network.onnx' writes it for other programs."
        )
    note = Note(
        config.backbone.name,
        config.backbone.stem,
        trained.size,
        config.backbone.mean,
        config.backbone.std,
        f"{config.method.name}, shoal {version('shoal')}",
    )
    write_tensors(file, asdict(note), backbone.network.state_dict())
    deviation = _compare(backbone.cpu(), file, note, pixels)
    if deviation > AGREES:
        file.unlink()
        raise UserError(
            f"plain timm's features with these weights differ from those of {path} by {deviation:.1e}: nothing was "
            "written."
        )
    card = file.with_name(CARD)
    if card.exists():  # that of a project, perhaps
        card = file.with_suffix(".md")
    config_file: Path | None = file.with_name(CONFIG)
    if note.stem != "native" or file.with_name(CONFIG).exists():
        config_file = None
    atomic_write(card, "\n".join(_card(path, file, trained, note, licence, hub=config_file is not None)).encode())
    if config_file is not None:
        text = json.dumps(timm_config(backbone, file.name, note), indent=2)
        atomic_write(config_file, f"{text}\n".encode())
    return Exported(file, card, config_file, note, deviation, len(pixels))


def timm_config(backbone: Backbone, file: str, note: Note) -> dict[str, Any]:
    """What ``timm.create_model("hf-hub:OWNER/NAME", pretrained=True)`` builds the network from, and loads of the hub.

    Also how images are prepared: the middle square, at the size and with the normalisation of the run.
    """
    network: Any = backbone.network
    size = note.size or (224, 224)
    # Of what timm knows of the published weights, that which is about the network.
    kept = ("first_conv", "classifier", "fixed_input_size", "pool_size")
    known = {name: value for name, value in network.pretrained_cfg.items() if name in kept and value is not None}
    if size != tuple(network.pretrained_cfg["input_size"][1:]):
        known.pop("pool_size", None)
    prepared = {"input_size": [3, *size], "interpolation": "bilinear", "crop_pct": 1.0, "crop_mode": "center"}
    normalised = {"mean": [*(note.mean or ())], "std": [*(note.std or ())]}
    return {
        "architecture": note.architecture,
        "num_classes": 0,
        "num_features": backbone.n_features,
        "pretrained_cfg": {
            **known,
            **prepared,
            **normalised,
            "num_classes": 0,
            "custom_load": False,
            "hf_hub_filename": file,
        },
    }


def _compare(backbone: Backbone, file: Path, note: Note, pixels: UInt8[Tensor, "m 3 h w"]) -> float:
    """Largest difference of features between a run's backbone and timm's network with the file, relative to them."""
    import timm

    with torch.random.fork_rng(devices=[]):
        network: Any = timm.create_model(note.architecture, pretrained=False, num_classes=0)
    load_weights(network, file, network.pretrained_cfg)
    images = pixels.float() / 255
    with evaluating(backbone), evaluating(network):
        expected, found = backbone(images), network((images - backbone.mean) / backbone.std)
    return float((expected - found).abs().max() / expected.abs().max().clamp(min=1e-12))


def _card(path: Path, file: Path, trained: Trained, note: Note, licence: str, *, hub: bool) -> Iterator[str]:
    """The lines of a model card, as the hub wants it: metadata, then Markdown; ``hub``: timm builds the network."""
    config = trained.config
    height, width = trained.size
    yield from ("---", "library_name: timm", "pipeline_tag: image-feature-extraction")
    yield from [f"license: {licence}"] if licence else []  # "unknown" is none that the hub takes
    yield from ("tags: [self-supervised, clustering, shoal]", "---", "")
    yield f"# {file.stem}"
    yield ""
    yield f"{note.architecture}, trained without labels ({note.origin}). Features are those of its last pooling, of"
    yield f"images of {height} × {width} px."
    yield from ("", "## Use", "", "```python", *usage(note, file.name), "```", "")
    if hub:
        yield from ("From the hub, or from a folder with this file and its `config.json` (`local-dir:FOLDER`):", "")
        yield from ("```python", 'network = timm.create_model("hf-hub:OWNER/NAME", pretrained=True)', "```", "")
    yield from (
        "## Data",
        "",
        f"{Path(config.data.path).name or config.data.path}. No label had a part in the training.",
        "",
    )
    yield from ("## Figures", "", *_figures(ResultFolder(path)), "")
    yield from ("## Recipe", "", "```yaml", to_yaml(_shared(config)).rstrip(), "```", "")
    chosen = f"{licence}." if licence else "None is chosen yet: put one into `license:` above before you share it."
    yield from ("## Licence", "", f"{chosen} {_LIMITS}", "")


def usage(note: Note, file: str) -> Iterator[str]:
    """Lines of Python that make features of an image with timm and torch alone."""
    size = note.size or (224, 224)
    yield from (
        "import numpy as np, timm, torch",
        "from PIL import Image",
        "from safetensors.torch import load_file",
        "",
    )
    yield f'network = timm.create_model("{note.architecture}", num_classes=0)'
    if note.stem != "native":
        padding = 2 if note.stem == "cifar-pad2" else 1
        yield f"network.conv1 = torch.nn.Conv2d(3, 64, 3, padding={padding}, bias=False)  # the stem for small images"
        yield "network.maxpool = torch.nn.Identity()"
    yield f'network.load_state_dict(load_file("{file}"))'
    yield f"mean, std = torch.tensor({[*(note.mean or ())]}), torch.tensor({[*(note.std or ())]})"
    yield f'image = Image.open("photo.png").convert("RGB").resize({(size[1], size[0])})'
    yield "pixels = (torch.from_numpy(np.array(image)) / 255 - mean) / std"
    yield from ("with torch.no_grad():", "    features = network.eval()(pixels.permute(2, 0, 1)[None])")


def _shared(config: RunConfig) -> RunConfig:
    """The settings without the paths of this machine."""
    weights = config.backbone.weights
    data = replace(config.data, path=Path(config.data.path).name or config.data.path, root="")
    if weights and not weights.startswith("hf://"):
        weights = Path(weights).name
    return replace(config, data=data, backbone=replace(config.backbone, weights=weights))


def _figures(folder: ResultFolder) -> Iterator[str]:
    """A table of the figures that are known: those of ``shoal evaluate``, else those of the last E-step."""
    found = _evaluated(folder) or _last(folder)
    if not found:
        yield "None are known."
        return
    yield from ("| | |", "|---|---|", *(f"| {name} | {value:.3f} |" for name, value in found.items()))


def _evaluated(folder: ResultFolder) -> Mapping[str, float]:
    try:
        values = json.loads(folder.evaluation.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    flat: dict[str, float] = {}
    for name, value in values.items() if isinstance(values, dict) else ():
        inner = value.items() if isinstance(value, dict) else [("", value)]
        flat |= {f"{name} {key}".strip(): v for key, v in inner if isinstance(v, float)}
    return flat


def _last(folder: ResultFolder) -> Mapping[str, float]:
    rows = folder.read_metrics()
    known = ("acc", "nmi", "ari", "silhouette")
    return {name: float(rows[-1][name]) for name in known if rows and rows[-1].get(name) is not None}
