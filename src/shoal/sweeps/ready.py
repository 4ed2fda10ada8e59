"""What would stop a run before its first step, found before the first run of a sweep begins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from shoal.config import RunConfig
from shoal.data import DATA_SETS, DataConfig, find_source
from shoal.data.sources.hub import SCHEME
from shoal.data.sources.video import check_has_videos
from shoal.errors import UserError
from shoal.features.start import check_weights
from shoal.models import BackboneConfig
from shoal.sweeps.grid import Point
from shoal.testing import check_plugins
from shoal.training.settings import check_fits


def check_ready(points: Sequence[Point]) -> None:
    """Check that runs can start: their images are there and enough, their weights fit, their plugins keep the contract.

    What several runs share is looked at once. Images of the hub, and named data sets that would be downloaded, are left
    to the runs.

    Raises:
        UserError: naming the first run that cannot.
    """
    looked = _Looked()
    known: set[str] = set()
    for point in points:
        config = replace(point.config, seed=0)
        if repr(config) in known:
            continue
        known.add(repr(config))
        try:
            looked.check(config)
        except UserError as error:
            raise UserError(f"the run {point.name} cannot start, so nothing was trained: {error}") from error


@dataclass
class _Looked:
    """What has been looked at."""

    images: dict[DataConfig, tuple[int, int] | None] = field(default_factory=dict)
    backbones: set[BackboneConfig] = field(default_factory=set)

    def check(self, config: RunConfig) -> None:
        """Raise a UserError for a config that no run can start with."""
        check_plugins(config)
        if config.data not in self.images:
            self.images[config.data] = _count(config.data)
        if (found := self.images[config.data]) is not None:
            n_images, n_clustered = found
            check_fits(config, n_clustered, n_images)
        if config.backbone not in self.backbones:
            check_weights(config.backbone)
            self.backbones.add(config.backbone)


def _count(data: DataConfig) -> tuple[int, int] | None:
    """How many images a config leads to, and how many of them are clustered; None if that is not known yet."""
    known = DATA_SETS.get(data.path)
    if known is not None:
        if data.root:
            find_source(data.path, root=data.root)  # or it says what is missing
        return known.n_images, known.n_clustered
    if data.path.startswith(SCHEME):
        return None
    source = find_source(data.path, root=data.root, every=data.every)
    check_has_videos(source, data.every, data.path)
    listing = source.listing()
    n = len(listing.ids)
    return n, sum(map(bool, listing.clustered)) if len(listing.clustered) else n
