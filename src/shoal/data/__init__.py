"""Images in, batches out."""

from shoal.data.augment import Draw, ViewConfig, apply_two_views, apply_view, draw_view
from shoal.data.doors import IN_MEMORY, find_source, lasting
from shoal.data.feeding import feed
from shoal.data.listing import Blob, Listing, Member, Source
from shoal.data.named import DATA_SETS, DataSet
from shoal.data.names import Names
from shoal.data.reading import Progress, in_order, read_pixels
from shoal.data.sampling import order_of_epoch, steps_of_epoch
from shoal.data.sources import DataConfig, load_images, place_on, to_images

__all__ = [
    "DATA_SETS",
    "IN_MEMORY",
    "Blob",
    "DataConfig",
    "DataSet",
    "Draw",
    "Listing",
    "Member",
    "Names",
    "Progress",
    "Source",
    "ViewConfig",
    "apply_two_views",
    "apply_view",
    "draw_view",
    "feed",
    "find_source",
    "in_order",
    "lasting",
    "load_images",
    "order_of_epoch",
    "place_on",
    "read_pixels",
    "steps_of_epoch",
    "to_images",
]
