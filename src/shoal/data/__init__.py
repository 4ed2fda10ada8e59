"""Images in, batches out."""

from shoal.data.augment import Draw, ViewConfig, apply_view, draw_view
from shoal.data.named import DATA_SETS, DataSet
from shoal.data.reading import Progress
from shoal.data.sampling import equal_clusters, shuffled
from shoal.data.sources import IN_MEMORY, DataConfig, load_images, place_on, to_images

__all__ = [
    "DATA_SETS",
    "IN_MEMORY",
    "DataConfig",
    "DataSet",
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
