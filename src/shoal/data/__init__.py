"""Images in, batches out."""

from shoal.data.augment import Draw, ViewConfig, apply_view, apply_views, draw_view
from shoal.data.augmentation import AUGMENTATIONS, Augmentation
from shoal.data.batches import feed, order_of_epoch, steps_of_epoch
from shoal.data.given import Given, read_given, to_images
from shoal.data.images import DataConfig, load_images, place_on
from shoal.data.listing import Blob, Listing, Member, Names, Source
from shoal.data.reading import map_blobs, read_pixels
from shoal.data.sources.find import IN_MEMORY, find_source, resolve_spec
from shoal.data.sources.own import SOURCES, ImageSource
from shoal.data.sources.published import DATA_SETS, DataSet

__all__ = [
    "AUGMENTATIONS",
    "DATA_SETS",
    "IN_MEMORY",
    "SOURCES",
    "Augmentation",
    "Blob",
    "DataConfig",
    "DataSet",
    "Draw",
    "Given",
    "ImageSource",
    "Listing",
    "Member",
    "Names",
    "Source",
    "ViewConfig",
    "apply_view",
    "apply_views",
    "draw_view",
    "feed",
    "find_source",
    "load_images",
    "map_blobs",
    "order_of_epoch",
    "place_on",
    "read_given",
    "read_pixels",
    "resolve_spec",
    "steps_of_epoch",
    "to_images",
]
