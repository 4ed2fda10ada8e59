"""Which images are copies of which: saved again, resized, brightened, mirrored, cropped.

Two measures have to agree. The features say that two images show the same, their thumbnails that they show it in the
same way: 1 − cosine of the features, and 1 − correlation of the thumbnails, of which one may be mirrored or show a part
of the other. Each is relative to what is usual between different images of the set, the distance to the tenth nearest:
photos differ in many ways, handwritten digits in few.

The product of both must be small. As in Lowe's ratio test (2004, section 7.1), one threshold on a ratio serves sets of
which each would need its own on the distance.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, Shaped
from torch import Tensor
from torch.nn.functional import normalize

from shoal.clustering.neighbours import Neighbours, approximate_neighbours
from shoal.results.registration import Windows, register

ALIKE = 0.95
"""Least cosine from which images are alike by their features alone: ``alike_cosine`` raises it where all are near."""

SHARE_ALIKE = 1 / 6
"""1 − cosine of images that are alike, relative to what is usual: 0.95 where the tenth nearest has a cosine of 0.7."""

LIMIT = 0.01
"""Product of both measures, relative to what is usual, up to which images are copies.

``benchmarks/duplicates.py``: of photos that differ the smallest is 0.06, of handwritten digits 0.03.
"""

LIMIT_OF_THUMBNAILS = 0.03
"""The same of the thumbnails alone, where the features are those of a training run, which draws images together."""

FARTHEST = 0.05
"""1 − correlation of the thumbnails of copies, at most."""

_POOL = 1024
_NEAREST_OF_POOL = 0.05
_LEAST_OF_POOL = 0.25
_FEW, _USUAL_OF_FEW = 50, 0.05

_CROPPED = 0.002  # 1 − correlation of the thumbnails of a crop: rarely less
_NOT_CROPPED = 0.75
_NEAR = 0.75  # 1 − cosine of a crop, relative to what is usual: of ten neighbours hardly one is so near by chance
_FLAT = 1.0  # standard deviation, in grey levels, below which thumbnails show noise
_BLOCK = 4096
_SAMPLE = 2048

_GREY = 2.0  # root mean square of the colour of an image without any
_GREYED = 0.005  # 1 − correlation of the thumbnails of an image and its grey version, at most
_COLOUR, _COLOUR_SHARE = 8.0, 0.5
_BRIGHTNESS, _BRIGHTNESS_SHARE = 8.0, 1.5


@dataclass(frozen=True, eq=False)
class Pairs:
    """Rows that are copies of each other, and the cosine of their features."""

    one: Int64[Tensor, "m"]
    other: Int64[Tensor, "m"]
    similarity: Float[Tensor, "m"]


def alike_cosine(features: Float[Tensor, "n d"], seed: int = 0) -> float:
    """Cosine from which images are alike, by how near different ones usually are: to the tenth nearest of a sample.

    Features of many networks lie in a narrow cone, where 0.95 would be everybody's.
    """
    n = len(features)
    rows = torch.randperm(n, generator=torch.Generator().manual_seed(seed))[:_SAMPLE]
    sample = normalize(features[rows].float())
    tenth = min(10, len(sample) - 1)
    if tenth < 1:
        return ALIKE
    usual = 1 - (sample @ sample.T).topk(tenth + 1).values[:, -1].median()
    return max(ALIKE, 1 - SHARE_ALIKE * float(usual))


def pairs_by_cosine(found: Neighbours, alike: float = ALIKE) -> Pairs:
    """Neighbours whose features are nearly the same, for images of which no thumbnail was kept."""
    close = found.similarity >= alike
    return Pairs(found.rows[:, None].expand_as(found.index)[close], found.index[close], found.similarity[close])


def copies(
    features: Float[Tensor, "n d"],
    found: Neighbours,
    sketches: Shaped[np.ndarray, "n"],
    *,
    trained: bool = False,
    seed: int = 0,
) -> Pairs:
    """Find the copies among some rows.

    Compared are the ten nearest by features and the ten nearest by thumbnails (``approximate_neighbours``).

    Args:
        features: of all images.
        found: the neighbours of the rows to look at, by their features.
        sketches: of all images, as ``data.sketch`` keeps them.
        trained: the features are those of a training run, so that their nearness says nothing.
        seed: of the search.
    """
    known = torch.from_numpy(sketches["width"][found.rows.numpy()] > 0)
    if not known.all():
        found, unknown = _among(found, known), found
        others = pairs_by_cosine(unknown, torch.inf if trained else alike_cosine(features, seed))
    thumbnails = _thumbnails(sketches)
    looks = approximate_neighbours(thumbnails, found.rows, seed)
    pairs = _Compared(features, thumbnails, sketches, found, looks, trained=trained, seed=seed).pairs()
    if known.all():
        return pairs
    sketched = torch.from_numpy(sketches["width"] > 0)
    rest = ~(sketched[others.one] & sketched[others.other])
    return Pairs(
        torch.cat([pairs.one, others.one[rest]]),
        torch.cat([pairs.other, others.other[rest]]),
        torch.cat([pairs.similarity, others.similarity[rest]]),
    )


def _among(found: Neighbours, known: Bool[Tensor, "m"]) -> Neighbours:
    """The neighbours of some rows, without those that are not among them."""
    rows = found.rows[known]
    inside = torch.isin(found.index[known], rows)
    index = found.index[known].masked_fill(~inside, -1)
    return Neighbours(rows, index, found.similarity[known].masked_fill(~inside, -torch.inf))


def _thumbnails(sketches: Shaped[np.ndarray, "n"]) -> Float[Tensor, "n p"]:
    """Centred grey thumbnails, of which the cosine is the correlation.

    A last, constant column makes thumbnails of one colour alike, whose noise has no meaning.
    """
    luma = torch.from_numpy(np.ascontiguousarray(sketches["luma"])).flatten(1)
    found = torch.empty(len(luma), luma.shape[1] + 1, dtype=torch.float16)
    for start in range(0, len(luma), _BLOCK):
        part = luma[start : start + _BLOCK].float()
        found[start : start + _BLOCK, :-1] = part - part.mean(1, keepdim=True)
    found[:, -1] = _FLAT * luma.shape[1] ** 0.5
    return found


class _Compared:
    """Candidates for copies, and what is usual between the images of the set."""

    def __init__(
        self,
        features: Float[Tensor, "n d"],
        thumbnails: Float[Tensor, "n p"],
        sketches: Shaped[np.ndarray, "n"],
        found: Neighbours,
        looks: Neighbours,
        *,
        trained: bool,
        seed: int,
    ) -> None:
        self.features = features
        self.thumbnails = thumbnails
        self.sketches = sketches
        self.found = found
        self.looks = looks
        self.trained = trained
        rows = found.rows
        self.place = torch.full((len(features),), -1)
        self.place[rows] = torch.arange(len(rows))
        few = _USUAL_OF_FEW * min(1.0, (_FEW / max(len(rows), 1)) ** (2 / 3))
        by_look = _usual(thumbnails, looks, seed)
        self.usual_features = torch.ones(len(rows)) if trained else _usual(features, found, seed).clamp(min=few**0.5)
        self.usual = by_look.clamp(min=few**0.5) if trained else (by_look * self.usual_features).clamp(min=few)

    def pairs(self) -> Pairs:
        """The candidates that are copies."""
        kept = [(torch.zeros(0, dtype=torch.int64),) * 2 + (torch.zeros(0),)]
        for one, other in self._candidates():
            cosine = _cosines(self.features, one, other)
            copied = self._are_copies(one, other, cosine)
            kept.append((one[copied], other[copied], cosine[copied]))
        return Pairs(*(torch.cat(column) for column in zip(*kept, strict=True)))

    def _candidates(self) -> Iterator[tuple[Int64[Tensor, "b"], Int64[Tensor, "b"]]]:
        """Each pair of neighbours once, a block at a time."""
        n, keys = len(self.features), []
        for found in (self.found, self.looks):
            one, other = found.rows[:, None].expand_as(found.index)[found.index >= 0], found.index[found.index >= 0]
            keys.append(torch.minimum(one, other) * n + torch.maximum(one, other))
        for block in torch.split(torch.unique(torch.cat(keys)), _BLOCK):
            yield block // n, block % n

    def _are_copies(
        self, one: Int64[Tensor, "b"], other: Int64[Tensor, "b"], cosine: Float[Tensor, "b"]
    ) -> Bool[Tensor, "b"]:
        i, j = self.place[one], self.place[other]
        allowed = torch.minimum(self.usual[i], self.usual[j])
        alone = LIMIT_OF_THUMBNAILS * allowed
        farthest = (alone if self.trained else LIMIT * allowed / (1 - cosine).clamp(min=1e-6)).clamp(max=FARTHEST)
        a, b = self._luma(one), self._luma(other)
        plain, mirrored = 1 - _correlation(a, b), 1 - _correlation(a, b.flip(2))
        turned, apart = mirrored < plain, torch.minimum(plain, mirrored)
        copied = apart <= farthest
        whole = copied.nonzero()[:, 0]
        copied[whole] = self._same_colours(one[whole], other[whole], turned[whole], apart[whole])
        if not self.trained:
            near = 1 - cosine <= _NEAR * torch.minimum(self.usual_features[i], self.usual_features[j])
            rest = (near & (farthest >= _CROPPED) & (apart > farthest) & (apart <= _NOT_CROPPED)).nonzero()[:, 0]
            for parts in (False, True):
                rest = rest[~copied[rest]]
                ends = (other[rest], one[rest]) if parts else (one[rest], other[rest])
                copied[rest] = self._shows_part(*ends, turned[rest], farthest[rest])
        return copied

    def _shows_part(
        self,
        one: Int64[Tensor, "b"],
        other: Int64[Tensor, "b"],
        turned: Bool[Tensor, "b"],
        farthest: Float[Tensor, "b"],
    ) -> Bool[Tensor, "b"]:
        """Whether the other image shows a part of the one."""
        if not len(one):
            return torch.zeros(0, dtype=torch.bool)
        part = self._luma(other)
        apart, windows = register(self._luma(one), torch.where(turned[:, None, None], part.flip(2), part))
        copied = apart <= farthest
        near = copied.nonzero()[:, 0]
        seen = Windows(windows.size[near], windows.centre[near])
        copied[near] = self._same_colours(one[near], other[near], turned[near], apart[near], seen)
        return copied

    def _same_colours(
        self,
        one: Int64[Tensor, "b"],
        other: Int64[Tensor, "b"],
        turned: Bool[Tensor, "b"],
        apart: Float[Tensor, "b"],
        windows: Windows | None = None,
    ) -> Bool[Tensor, "b"]:
        """Whether colours and brightness are so alike as in a copy, or one of both images is the grey version."""
        if not len(one):
            return torch.zeros(0, dtype=torch.bool)
        a, b = self._chroma(one), self._chroma(other)
        b = torch.where(turned[:, None, None, None], b.flip(3), b)
        light, dark = self._luma(one).flatten(1), self._luma(other).flatten(1)
        if windows is not None:
            a = torch.stack([windows.of(a[:, 0]), windows.of(a[:, 1])], 1)
            light = windows.of(self._luma(one)).flatten(1)
        colours = torch.stack([_rms(a), _rms(b)])
        same = _rms(a - b) <= _COLOUR + _COLOUR_SHARE * colours.amin(0)
        greyed = (colours.amin(0) <= _GREY) & (apart <= _GREYED)
        lit = (light.mean(1) - dark.mean(1)).abs() <= _BRIGHTNESS + _BRIGHTNESS_SHARE * torch.minimum(
            light.std(1, correction=0), dark.std(1, correction=0)
        )
        return (same | greyed) & lit

    def _luma(self, rows: Int64[Tensor, "b"]) -> Float[Tensor, "b s s"]:
        return torch.from_numpy(self.sketches["luma"][rows.numpy()].astype(np.float32))

    def _chroma(self, rows: Int64[Tensor, "b"]) -> Float[Tensor, "b 2 c c"]:
        return torch.from_numpy(self.sketches["chroma"][rows.numpy()].astype(np.float32)) - 128


def _usual(values: Float[Tensor, "n d"], found: Neighbours, seed: int) -> Float[Tensor, "m"]:
    """1 − cosine that is usual between each row and different ones like it.

    That to the tenth nearest, unless these are copies all: then a quarter of what is usual among random ones.
    """
    rows = found.rows
    pool = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))[:_POOL]]
    rank = max(1, round(_NEAREST_OF_POOL * len(pool)))
    others = normalize(values[pool].float())
    usual = torch.zeros(len(rows))
    for start in range(0, len(rows), _BLOCK):
        cosines = normalize(values[rows[start : start + _BLOCK]].float()) @ others.T
        cosines.masked_fill_(rows[start : start + _BLOCK, None] == pool, -1)
        usual[start : start + _BLOCK] = _LEAST_OF_POOL * (1 - cosines.topk(rank).values[:, -1])
    if found.similarity.shape[1]:
        usual = torch.maximum(usual, 1 - found.similarity[:, -1])
    return usual.clamp(0, 1)


def _cosines(values: Float[Tensor, "n d"], one: Int64[Tensor, "b"], other: Int64[Tensor, "b"]) -> Float[Tensor, "b"]:
    return torch.cosine_similarity(values[one].float(), values[other].float()).clamp(max=1)


def _correlation(a: Float[Tensor, "b s s"], b: Float[Tensor, "b s s"]) -> Float[Tensor, "b"]:
    """Correlation of thumbnails; of two that are of one colour, 1."""
    x, y = ((image - image.mean((1, 2), keepdim=True)).flatten(1) for image in (a, b))
    noise = _FLAT**2 * x.shape[1]
    return (x * y).sum(1).add(noise) / ((x.square().sum(1) + noise) * (y.square().sum(1) + noise)).sqrt()


def _rms(values: Float[Tensor, "b c h w"]) -> Float[Tensor, "b"]:
    return values.square().mean((1, 2, 3)).sqrt()
