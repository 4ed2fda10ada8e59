"""The published data sets by name: what is known of each without its files, and how to read these."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from shoal.data.kinds import is_image_name
from shoal.data.listing import Listing, Names, Source
from shoal.data.sources import formats
from shoal.data.sources.download import Published, published_files
from shoal.data.sources.folder import folder_source, walk
from shoal.data.sources.formats import Reader
from shoal.errors import UserError
from shoal.files import expand_home
from shoal.progress import ProgressCallback

_MAX_PER_CLASS = 1300  # as in ILSVRC 2012; folders of the full ImageNet have more
_SYNSET = re.compile(r"n\d{8}")

_IMAGENET_10 = {
    "n02056570": "king penguin",
    "n02085936": "Maltese dog",
    "n02128757": "snow leopard",
    "n02690373": "airliner",
    "n02692877": "airship",
    "n03095699": "container ship",
    "n04254680": "soccer ball",
    "n04285008": "sports car",
    "n04467665": "trailer truck",
    "n07747607": "orange",
}
"""The classes of ImageNet-10 (DAC, Chang et al., ICCV 2017; the list is that of CC, arXiv 2009.09687)."""

_IMAGENET_DOGS = {
    "n02085936": "Maltese dog",
    "n02086646": "Blenheim spaniel",
    "n02088238": "basset",
    "n02091467": "Norwegian elkhound",
    "n02097130": "giant schnauzer",
    "n02099601": "golden retriever",
    "n02101388": "Brittany spaniel",
    "n02101556": "clumber",
    "n02102177": "Welsh springer spaniel",
    "n02105056": "groenendael",
    "n02105412": "kelpie",
    "n02105855": "Shetland sheepdog",
    "n02107142": "Doberman",
    "n02110958": "pug",
    "n02112137": "chow",
}
"""The classes of ImageNet-Dogs, from the same papers."""

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
    """A published data set as it is clustered.

    ``size`` is the side of its images in pixels, None if they differ and --data.size is needed. Archives have
    ``published`` and ``read``; subsets of ImageNet have ``synsets``, the names of their classes (empty: all).
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
        formats.mnist,
    ),
    "cifar10": DataSet(
        *(60_000, 60_000, 10, 32),
        Published("https://www.cs.toronto.edu/~kriz/", {"cifar-10-binary.tar.gz": "c32a1d4ab5d03f1284b67883e8d87530"}),
        formats.cifar(_CIFAR10_TRAIN, "cifar-10-batches-bin/test_batch.bin", 1, _OBJECTS),
    ),
    "cifar20": DataSet(
        *(60_000, 60_000, 20, 32),
        Published("https://www.cs.toronto.edu/~kriz/", {"cifar-100-binary.tar.gz": "03b5dce01913d631647c71ecec9e9cb8"}),
        formats.cifar(["cifar-100-binary/train.bin"], "cifar-100-binary/test.bin", 2, _SUPER),
    ),
    "stl10": DataSet(
        *(113_000, 13_000, 10, 96),
        Published(
            "http://ai.stanford.edu/~acoates/stl10/", {"stl10_binary.tar.gz": "91f7769df0f17e558f3565bffb0c7dfb"}
        ),
        formats.stl10(_PHOTOS),
    ),
    "tiny-imagenet": DataSet(
        *(100_000, 100_000, 200, 64),
        Published("http://cs231n.stanford.edu/", {"tiny-imagenet-200.zip": "90528d7ca1a48142e341f4ef8d21d0de"}),
        formats.tiny_imagenet,
    ),
    "imagenet-10": DataSet(13_000, 13_000, 10, None, synsets=_IMAGENET_10),
    "imagenet-dogs": DataSet(19_500, 19_500, 15, None, synsets=_IMAGENET_DOGS),
    "imagenet": DataSet(1_281_167, 1_281_167, 1_000, None),
}
"""Data sets by the name that --data.path takes."""


def named_source(name: str, root: str, progress: ProgressCallback | None) -> Source:
    """Read a data set by name, from files in the folder ``root`` or, if that is empty, from downloads.

    Archives are identified by their MD5: the cache finds their images wherever they are, even if they are gone.

    Raises:
        UserError: ``root`` is not ImageNet with the classes of the data set. Problems of an archive are raised when it
            is listed.
    """
    data_set = DATA_SETS[name]
    published, read = data_set.published, data_set.read
    if published is None or read is None:
        return _imagenet_source(name, root, data_set.synsets, data_set.n_classes)

    def share(done: float) -> None:
        if progress is not None:
            progress(int(done * data_set.n_images), data_set.n_images)

    def listing() -> Listing:
        return read(published_files(name, published, root, share))

    return Source((name, *published.files.values()), (), listing)


def _imagenet_source(name: str, root: str, synsets: Mapping[str, str], n_classes: int) -> Source:
    """Read the training images of the classes ``synsets`` (empty: of all ``n_classes`` that are there).

    ``root`` has one folder per class, named by its synset, or a folder ``train`` with these.

    Raises:
        UserError: ``root`` is empty or not a folder, or a class is missing.
    """
    if not root:
        advice = "give the folder of ILSVRC 2012 that holds its train folder as --data.root"
        raise UserError(f"{name} is not freely downloadable: {advice}.")
    folder = expand_home(root)
    if (folder / "train").is_dir():
        folder = folder / "train"
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}: give the folder of ILSVRC 2012 as --data.root.")
    wanted = list(synsets) or sorted(each.name for each in folder.iterdir() if _SYNSET.fullmatch(each.name))
    images = {synset: _images_of(folder, synset) for synset in wanted}
    missing = [synset for synset, found in images.items() if not found]
    if missing or len(wanted) != n_classes:
        lack = f"no images of {', '.join(missing)}" if missing else f"{len(wanted)} classes"
        advice = "give the folder of ILSVRC 2012 as --data.root"
        raise UserError(f"{name} has {n_classes} classes, but {folder} has {lack}: {advice}.")
    source = folder_source(folder, Names(path for found in images.values() for path in found))
    names = tuple(synsets.values()) or tuple(wanted)
    return Source(
        (name, str(folder.absolute())),
        source.files,
        lambda: dataclasses.replace(source.listing(), classes=names),
    )


def _images_of(folder: Path, synset: str) -> Sequence[str]:
    if not (folder / synset).is_dir():
        return []
    found = filter(is_image_name, walk(folder / synset))
    return [f"{synset}/{name}" for name in islice(found, _MAX_PER_CLASS)]
