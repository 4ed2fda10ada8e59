"""A small network of open_clip with its weights in a folder, as open_clip publishes them; nothing is downloaded."""

import json
from pathlib import Path

import open_clip
import torch
from safetensors.torch import save_file

from shoal.features.clip import quiet

CONFIG = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "head_width": 32, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}
PREPARATION = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.25], "interpolation": "bicubic", "resize_mode": "shortest"}


def new_clip(folder: Path, vision=CONFIG["vision_cfg"]):
    """A model with random weights, whose configuration is in the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {"model_cfg": {**CONFIG, "vision_cfg": vision}, "preprocess_cfg": PREPARATION}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    with quiet(), torch.random.fork_rng():
        torch.manual_seed(0)
        return open_clip.create_model(f"local-dir:{folder}", load_weights=False).eval()


def save_clip(model, folder: Path) -> str:
    """Write the weights, and return the name under which shoal takes them."""
    save_file(
        {name: value.clone().contiguous() for name, value in model.state_dict().items()},
        folder / "open_clip_model.safetensors",
    )
    return f"open_clip:{folder}"


def tokenizer_of(folder: Path):
    """open_clip's own."""
    with quiet():
        return open_clip.get_tokenizer(f"local-dir:{folder}")
