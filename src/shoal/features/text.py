"""The text tower of a network: features of texts that can be compared with those of its images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor
from torch.func import functional_call
from torch.nn.functional import normalize

from shoal.device import compute_device
from shoal.errors import UserError
from shoal.features.encoder import EncoderSpec, clip_model
from shoal.progress import ProgressCallback

_BATCH = 64
"""Texts that are embedded at once."""


@dataclass(frozen=True, eq=False)
class TextTower:
    """The part of a network that reads text. ``load_text_tower`` builds it."""

    model: Any
    tokenizer: Callable[[list[str]], Tensor]
    """Token ids (n, context)."""
    pads: bool
    """Whether tokens behind the end of a text change nothing, so that they may be left out."""
    scale: float
    """What the network multiplies cosines by to get logits."""
    device: torch.device
    _lock: Lock = field(default_factory=Lock)

    def embed(self, texts: Sequence[str], progress: ProgressCallback | None = None) -> Float32[Tensor, "n d"]:
        """Compute features of texts, of unit length, in float32 on the CPU.

        Of a text that is too long, the first words count: 77 tokens of most networks.
        """
        parts = []
        for start in range(0, len(texts), _BATCH):
            tokens = self.tokenizer([*texts[start : start + _BATCH]]).to(self.device)
            with self._lock, torch.inference_mode():
                parts.append(normalize(self._features(tokens).float()).cpu())
            if progress is not None:
                progress(min(start + _BATCH, len(texts)), len(texts))
        return torch.cat(parts).clone()

    def _features(self, tokens: Int64[Tensor, "b c"]) -> Float[Tensor, "b d"]:
        if not self.pads:
            found: Tensor = self.model.encode_text(tokens)
            return found
        # Words take a tenth of the context, and time goes with its length.
        length = int(tokens.argmax(1).max()) + 1
        mask = {"attn_mask": self.model.text.attn_mask[:length, :length]}
        return functional_call(self.model.text, mask, (tokens[:, :length],))  # type: ignore[no-any-return]


def reader_among(spec: EncoderSpec | None) -> EncoderSpec | None:
    """The network with a text tower, of those that made features; the first of several."""
    return None if spec is None else next((part for part in spec.networks if part.kind == "open_clip"), None)


def reads_text(spec: EncoderSpec | None) -> bool:
    """Whether a network that made features has a text tower."""
    return reader_among(spec) is not None


def load_text_tower(spec: EncoderSpec, device: torch.device | None = None) -> TextTower:
    """Load the text tower of a network, with the weights that the images were embedded with.

    Args:
        spec: the ``spec`` of the images' encoder.
        device: where it computes; by default the GPU when there is one.

    Raises:
        UserError: the network has none, or its weights or its tokenizer cannot be loaded.
    """
    if not reads_text(spec):
        raise UserError(f"the network {spec.name} reads no text.")
    device = device or compute_device()
    _, model, name = clip_model(spec)
    tokenizer = name.tokenizer()
    del model.visual
    return TextTower(model.to(device), tokenizer, _pads(model.text, tokenizer), float(model.logit_scale.exp()), device)


def _pads(text: Any, tokenizer: object) -> bool:
    """Whether a text tower looks at no token behind the one that it pools, as those of CLIP do.

    Each of its tokens sees those before it, and the features are those of the end of the text, whose id is the
    highest. Behind it there are zeros.
    """
    from open_clip import SimpleTokenizer

    causal = getattr(text, "attn_mask", None) is not None and getattr(text, "cls_emb", None) is None
    return causal and getattr(text, "pool_type", "") == "argmax" and isinstance(tokenizer, SimpleTokenizer)
