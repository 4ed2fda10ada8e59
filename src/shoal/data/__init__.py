"""Images in, batches out."""

from shoal.data.augment import Draw, ViewConfig, apply_view, draw_view
from shoal.data.named import DATA_SETS, DataSet
from shoal.data.reading import Progress
from shoal.data.sampling import order_of_epoch, steps_of_epoch
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
    "load_images",
    "order_of_epoch",
    "place_on",
    "steps_of_epoch",
    "to_images",
]
