"""Images embedded by several networks: features of each in a folder of its own, and the joint ones beside them.

FOLDER/
  features/               the joint features, in the same form as those of a single network
  networks/NAME/          the features of each network, as the network alone would have made them
  networks/joining.safetensors  how one becomes the other
"""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from shoal import job
from shoal.data.greys import Ranges
from shoal.data.listing import Listing, Source
from shoal.device import in_words
from shoal.errors import UserError
from shoal.features.embedded import FEATURES, Embedded, open_embedded, read_header, read_journal, stored_columns
from shoal.features.encoder import Encoder, EncoderSpec, load_encoder
from shoal.features.extract import embed
from shoal.features.joining import JoinedNetworks, Joining
from shoal.features.matching import match_once
from shoal.features.store import Store, remove_features, write_links, writing
from shoal.folder import ASIDE
from shoal.progress import Progress

NETWORKS = "networks"
"""The folder of the features of each network, beside that of the joint ones."""

_CHUNK = 4096
"""Images that are joined at once."""

_LONGEST = 100
"""Characters of a folder's name at most."""

_CHANGED = "it changed while the images were embedded"


@dataclass(frozen=True, eq=False)
class Earlier:
    """Features from which those of the same images are taken over."""

    folder: Path
    """Of the features; those of several networks lie beside it."""
    joint: Embedded | None = None
    """Joint features that stay as they are to the last bit."""
    rows: Int64[np.ndarray, "n"] | None = None
    """For each image of the listing its row in ``joint``, −1 for one that is new."""


def networks_of(features: Path) -> Path:
    """Where the features of each network lie, given the folder of the joint ones."""
    return features.with_name(NETWORKS)


def folders_of(features: Path) -> Iterator[tuple[Path, EncoderSpec]]:
    """The folders of features of single networks that belong to a folder of features, which may be such a one itself.

    Raises:
        UserError: one of them is damaged, or a newer version wrote it.
    """
    within = networks_of(features)
    found = sorted(within.iterdir()) if within.is_dir() else []
    for folder in (features, *(path for path in found if ASIDE not in path.name)):
        header = read_header(folder)
        if header is not None and not header.spec.parts:
            yield folder, header.spec


def settle(specs: Sequence[EncoderSpec]) -> tuple[EncoderSpec, ...]:
    """The specs of networks with the digests of their weights, once each has been built.

    Only one of them is in memory at a time.

    Raises:
        UserError: one cannot be built, or two are the same network.
    """
    found: list[EncoderSpec] = []
    for spec in specs:
        settled = load_encoder(spec).spec
        for other in found:
            if other.digest == settled.digest:
                raise UserError(f"{other.name} and {settled.name} are one network: name it once.")
        found.append(settled)
    return tuple(found)


def embed_networks(
    source: Source,
    parts: Sequence[EncoderSpec],
    folder: Path,
    *,
    joining: Joining | None = None,
    earlier: Earlier | None = None,
    ranges: Ranges | None = None,
    strict: bool = False,
    progress: Progress | None = None,
) -> Embedded:
    """Compute the features of all images by each of several networks, one after the other, and join them.

    Each network's features are as ``embed`` gives them, resumed and all, so that they serve other lists of networks as
    well. Images that one of the networks cannot take are in none of the joint features.

    Args:
        source: the images.
        parts: the networks, from ``settle``.
        folder: of the joint features; those of the networks lie beside it.
        joining: how to join them; None finds it from the features.
        earlier: features in another place, of some of the images by some of the networks.
        ranges: as ``embed``.
        strict: as ``embed``.
        progress: reports progress.

    Raises:
        UserError: as ``embed`` and ``load_encoder``.
    """
    progress = progress or Progress()
    networks = networks_of(folder)
    known = {} if earlier is None else dict(folders_of(earlier.folder))
    folders = []
    for number, spec in enumerate(parts, 1):
        at = folder_for(spec, networks)
        before = next((path for path, theirs in known.items() if spec.is_same_as(theirs)), None)
        taken = None
        if before is not None and not (there := open_embedded(before, unfinished=True)).of_pixels:
            taken = (before, match_once(there, source))
        counter = progress.counter(f"embedding images, network {number} of {len(parts)}")
        encoder = load_encoder(spec)
        if number == 1:
            progress.say(f"device       {in_words(encoder.device, encoder.precision)}")
        embed(source, encoder, at, earlier=taken, ranges=ranges, strict=strict, progress=counter)
        del encoder
        folders.append(at)
    job.of_first(lambda: str(join(folders, parts, folder, joining=joining, earlier=earlier).spec.digest))
    found = open_embedded(folder)
    job.meet()  # from here on the first process may rename the folder
    return found


def adopt(features: Path, specs: Sequence[EncoderSpec]) -> None:
    """Put features that an unfinished command has left where those of these networks belong.

    So a list of networks may be begun with one of them, or end with one alone, and each is embedded once.

    Args:
        features: the folder of features; those of several networks lie beside it.
        specs: the networks, from ``settle``.

    Raises:
        UserError: a folder is damaged, or cannot be renamed.
    """
    header, networks = read_header(features), networks_of(features)
    if len(specs) > 1:
        spec = None if header is None or header.spec.parts else next(filter(header.spec.is_same_as, specs), None)
        if spec is not None:
            _rename(features, folder_for(spec, networks))
        return
    if header is not None and not header.spec.parts:
        return
    own = folder_for(specs[0], networks)
    is_there = read_header(own) is not None
    if features.is_dir() and (header is not None or is_there):  # made of others, which are kept, and perhaps not whole
        with writing(features, 0):
            remove_features(features)
            features.rmdir()
    if is_there:
        _rename(own, features)


def _rename(folder: Path, target: Path) -> None:
    """Move features, and those that were set aside for them."""
    with writing(target, 0):
        target.parent.mkdir(exist_ok=True)
        for aside in sorted(folder.parent.glob(f"{glob.escape(folder.name)}{ASIDE}*")):
            aside.rename(target.parent / aside.name.replace(folder.name, target.name, 1))
        folder.rename(target)


def load_joined(spec: EncoderSpec, features: Path) -> tuple[nn.Module, list[Encoder]]:
    """Joined networks as one module, with an encoder for each of its inputs.

    Networks that prepare images alike share an input.

    Args:
        spec: of the joint features.
        features: their folder.

    Raises:
        UserError: a network cannot be built, or how they are joined is gone.
    """
    joining = Joining.load(networks_of(features), spec)
    encoders = [load_encoder(part) for part in spec.parts]
    ways = [(each.input_size, *sorted(each.preparing.about.items())) for each in encoders]
    different = [*dict.fromkeys(ways)]
    module = JoinedNetworks([each.module for each in encoders], joining, [different.index(way) for way in ways])
    return module.to(encoders[0].device).eval(), [encoders[ways.index(way)] for way in different]


def join(
    folders: Sequence[Path],
    parts: Sequence[EncoderSpec],
    target: Path,
    *,
    joining: Joining | None = None,
    earlier: Earlier | None = None,
    only: Int64[np.ndarray, "m"] | None = None,
) -> Embedded:
    """Write the joint features of several networks, a part of the images at a time.

    Args:
        folders: of the finished features of each network, of the same listing.
        parts: the networks.
        target: where the joint features go; joint ones that are there are replaced.
        joining: how to join them; None finds it from the features.
        earlier: joint features that stay as they are.
        only: rows of the listing to join; by default all that each network has.

    Raises:
        UserError: a folder is damaged, or the target cannot be written.
    """
    each = [open_embedded(folder) for folder in folders]
    rows, skipped = _common(each, [read_journal(folder)[1] for folder in folders])
    if only is not None:
        rows = rows[np.isin(rows, only)]
    if not len(rows):
        raise UserError("there is no image that each of the networks can take: name one network alone.")
    places = [np.searchsorted(one.rows.numpy(), rows) for one in each]
    if joining is None:
        index = Joining.sample(len(rows)).numpy()
        joining = Joining.fit([one.features[place[index]] for one, place in zip(each, places, strict=True)])
    first = read_header(folders[0])
    assert first is not None
    header = replace(first, spec=joining.spec(parts), n_features=joining.n_features)
    remove_features(target)
    columns = stored_columns(folders[0], len(each[0].rows))
    listing = Listing(each[0].listed, _labels(folders[0]), first.classes, lambda: iter(()))
    with Store.begin(target, header, listing) as store:
        for row, reason in skipped.items():
            store.skip(row, reason)
        wanted = set(rows.tolist())
        store.note({row: note for row, note in read_journal(folders[0])[2].items() if row in wanted})
        for start in range(0, len(rows), _CHUNK):
            part = slice(start, start + _CHUNK)
            found = {name: columns[name][places[0][part]] for name in store.row_bytes.keys() & columns.keys()}
            joint = joining.join([one.features[place[part]] for one, place in zip(each, places, strict=True)])
            found[FEATURES] = _as_before(joint, earlier, rows[part]).numpy().view(np.uint8)
            store.append_columns(found)
        store.commit(header.n, header.batch_size)
    if each[0].links is not None:
        write_links(target, _links_among(each[0].links.numpy(), places[0]))
    joining.save(networks_of(target))
    return open_embedded(target)


def _common(
    each: Sequence[Embedded], skipped: Sequence[Mapping[int, str]]
) -> tuple[Int64[np.ndarray, "m"], dict[int, str]]:
    """Rows of the listing that all networks have features of, and why they lack others."""
    first = each[0].rows.numpy()
    rows = first
    for one in each[1:]:
        rows = np.intersect1d(rows, one.rows.numpy(), assume_unique=True)
    prints = [one.fingerprints.numpy()[np.searchsorted(one.rows.numpy(), rows)] for one in each]
    same = np.all([(one == prints[0]).all(1) for one in prints], 0)
    reasons = dict.fromkeys(rows[~same].tolist(), _CHANGED)
    for theirs in reversed(skipped):  # of several reasons, the first network's
        reasons |= theirs
    return rows[same], dict(sorted(reasons.items()))


def _as_before(
    joint: Float[Tensor, "b r"], earlier: Earlier | None, rows: Int64[np.ndarray, "b"]
) -> Float[Tensor, "b r"]:
    """Joint features, with those that were there before in their places."""
    if earlier is not None and earlier.joint is not None and earlier.rows is not None:
        was = torch.from_numpy(earlier.rows[rows])
        joint[was >= 0] = earlier.joint.features[was[was >= 0]]
    return joint.contiguous()


def _links_among(links: Int64[np.ndarray, "m 2"], places: Int64[np.ndarray, "n"]) -> Int64[np.ndarray, "_ 2"]:
    """Links of a folder, by the numbers of those of its rows that are joined, which ascend."""
    return np.searchsorted(places, links[np.isin(links, places).all(1)]).reshape(-1, 2)


def _labels(folder: Path) -> Int64[np.ndarray, "n"]:
    return np.fromfile(folder / "labels.i64", np.int64)


def folder_for(spec: EncoderSpec, networks: Path) -> Path:
    """The folder that has a network's features, or a new one named after it."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(spec.name).name if spec.kind == "run" else spec.name).strip("-.")
    number = 1
    while True:
        folder = networks / (plain[:_LONGEST] if number == 1 else f"{plain[:_LONGEST]}-{number}")
        header = read_header(folder)
        if header is None or header.spec.is_same_as(spec):
            return folder
        number += 1
