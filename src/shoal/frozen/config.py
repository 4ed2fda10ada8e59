"""Which network looks at the images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from shoal.embedding import DEFAULT_BACKBONE, EncoderSpec
from shoal.files import real
from shoal.training.folder import RunFolder


@dataclass(frozen=True)
class EncoderConfig:
    """The network whose features are clustered; it is not trained."""

    name: str = DEFAULT_BACKBONE
    """A timm model, or the folder of a finished run of 'shoal train'."""
    weights: Path | None = None
    """Its weights, a .safetensors file; by default timm's own, which are downloaded once."""

    def spec(self) -> EncoderSpec:
        """What builds the encoder, whatever the working folder is by then."""
        if RunFolder(Path(self.name)).config.is_file():
            return EncoderSpec("run", str(real(self.name)))
        return EncoderSpec("timm", self.name, str(real(self.weights)) if self.weights else "")
