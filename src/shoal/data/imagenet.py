"""ImageNet (ILSVRC 2012) and subsets of its classes, from a folder that the user has: it is not downloaded freely."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path

from shoal.data.folders import folder_source, is_picture, walk
from shoal.data.listing import Listing, Source
from shoal.data.names import Names
from shoal.errors import UserError
from shoal.files import at_home

_MOST = 1300  # images of a class in ILSVRC 2012; folders of the whole of ImageNet hold more
_SYNSET = re.compile(r"n\d{8}")

TEN = {
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

DOGS = {
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
"""The classes of ImageNet-Dogs, from the same two."""


def imagenet_source(name: str, root: str, synsets: Mapping[str, str], n_classes: int) -> Source:
    """Take the training images of some classes (no ``synsets``: of all that are there, ``n_classes``).

    ``root`` holds a folder for each class, named by its synset, or a folder ``train`` of them.

    Raises:
        UserError: ``root`` is empty or no folder, or it lacks images of a class.
    """
    if not root:
        advice = "give the folder of ILSVRC 2012 that holds its train folder as --data.root"
        raise UserError(f"{name} cannot be downloaded freely: {advice}.")
    folder = at_home(root)
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
        raise UserError(f"{name} has {n_classes} classes, and {folder} holds {lack}: {advice}.")
    source = folder_source(folder, Names(path for found in images.values() for path in found))
    names = tuple(synsets.values()) or tuple(wanted)
    return Source((name, str(folder.absolute())), source.files, lambda: _with_names(source.listing(), names))


def _images_of(folder: Path, synset: str) -> Sequence[str]:
    if not (folder / synset).is_dir():
        return []
    found = filter(is_picture, walk(folder / synset))
    return [f"{synset}/{name}" for name in islice(found, _MOST)]


def _with_names(listing: Listing, names: tuple[str, ...]) -> Listing:
    return dataclasses.replace(listing, classes=names)
