"""Features of images from a frozen network, kept on the disk."""

from shoal.features.copying import replace_features, share_features
from shoal.features.embedded import Embedded, open_embedded
from shoal.features.encoder import DEFAULT_BACKBONE, Encoder, EncoderSpec, load_encoder
from shoal.features.extract import embed
from shoal.features.store import remove_features, write_features, write_links

__all__ = [
    "DEFAULT_BACKBONE",
    "Embedded",
    "Encoder",
    "EncoderSpec",
    "embed",
    "load_encoder",
    "open_embedded",
    "remove_features",
    "replace_features",
    "share_features",
    "write_features",
    "write_links",
]
