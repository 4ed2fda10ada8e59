"""The published data sets by name: what is known of each without its files, and how its files are read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from shoal.data import archives
from shoal.data.archives import Reader
from shoal.data.fetch import Published, published_files
from shoal.data.imagenet import DOGS, TEN, imagenet_source
from shoal.data.listing import Listing, Source
from shoal.data.reading import Progress

_OBJECTS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_PHOTOS = ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck")
_SUPER = (
    *("aquatic mammals", "fish", "flowers", "food containers", "fruit and vegetables", "household electrical devices"),
    *("household furniture", "insects", "large carnivores", "large man-made outdoor things"),
    *("large natural outdoor scenes", "large omnivores and herbivores", "medium mammals", "non-insect invertebrates"),
    *("people", "reptiles", "small mammals", "trees", "vehicles 1", "vehicles 2"),
)
_CIFAR10_TRAIN = [f"cifar-10-batches-bin/data_batch_{number}.bin" for number in range(1, 6)]


@dataclass(frozen=True)
class DataSet:
    """What is known of a published data set without its files, as it is clustered.

    ``size`` is the side of its images in pixels, None where they differ and --data.size is needed. An archive has
    ``published`` and ``read``, a part of ImageNet the ``synsets`` of its classes with their names, or none for all.
    """

    n_images: int
    n_clustered: int
    n_classes: int
    size: int | None
    published: Published | None = None
    read: Reader | None = None
    synsets: Mapping[str, str] = field(default_factory=dict)


DATA_SETS = {
    "digits": DataSet(1_797, 1_797, 10, 8),
    "mnist": DataSet(
        *(70_000, 70_000, 10, 28),
        Published(
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
            {
                "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
                "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
                "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
                "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
            },
        ),
        archives.mnist,
    ),
    "cifar10": DataSet(
        *(60_000, 60_000, 10, 32),
        Published("https://www.cs.toronto.edu/~kriz/", {"cifar-10-binary.tar.gz": "c32a1d4ab5d03f1284b67883e8d87530"}),
        archives.cifar(_CIFAR10_TRAIN, "cifar-10-batches-bin/test_batch.bin", 1, _OBJECTS),
    ),
    "cifar20": DataSet(
        *(60_000, 60_000, 20, 32),
        Published("https://www.cs.toronto.edu/~kriz/", {"cifar-100-binary.tar.gz": "03b5dce01913d631647c71ecec9e9cb8"}),
        archives.cifar(["cifar-100-binary/train.bin"], "cifar-100-binary/test.bin", 2, _SUPER),
    ),
    "stl10": DataSet(
        *(113_000, 13_000, 10, 96),
        Published(
            "http://ai.stanford.edu/~acoates/stl10/", {"stl10_binary.tar.gz": "91f7769df0f17e558f3565bffb0c7dfb"}
        ),
        archives.stl10(_PHOTOS),
    ),
    "tiny-imagenet": DataSet(
        *(100_000, 100_000, 200, 64),
        Published("http://cs231n.stanford.edu/", {"tiny-imagenet-200.zip": "90528d7ca1a48142e341f4ef8d21d0de"}),
        archives.tiny_imagenet,
    ),
    "imagenet-10": DataSet(13_000, 13_000, 10, None, synsets=TEN),
    "imagenet-dogs": DataSet(19_500, 19_500, 15, None, synsets=DOGS),
    "imagenet": DataSet(1_281_167, 1_281_167, 1_000, None),
}
"""The names that --data.path takes besides a path."""


def named_source(name: str, root: str, progress: Progress | None) -> Source:
    """Take a data set by its name, its files in the folder ``root`` or, if that is empty, among the downloads.

    An archive is known by its MD5: the cache finds its images again wherever it lies, even if it is gone.

    Raises:
        UserError: ``root`` is no ImageNet with the classes asked for. What is wrong with an archive is raised when
            it is listed.
    """
    data_set = DATA_SETS[name]
    published, read = data_set.published, data_set.read
    if published is None or read is None:
        return imagenet_source(name, root, data_set.synsets, data_set.n_classes)

    def share(done: float) -> None:
        if progress is not None:
            progress(int(done * data_set.n_images), data_set.n_images)

    def listing() -> Listing:
        return read(published_files(name, published, root, share))

    return Source((name, *published.files.values()), (), listing)
