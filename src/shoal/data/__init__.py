"""Images in, batches out."""

from shoal.data.augment import Draw, ViewConfig, apply_view, draw_view
from shoal.data.reading import Progress
from shoal.data.sampling import equal_clusters, shuffled
from shoal.data.sources import IN_MEMORY, DataConfig, load_images, place_on, to_images

__all__ = [
    "IN_MEMORY",
    "DataConfig",
    "Draw",
    "Progress",
    "ViewConfig",
    "apply_view",
    "draw_view",
    "equal_clusters",
    "load_images",
    "place_on",
    "shuffled",
    "to_images",
]
