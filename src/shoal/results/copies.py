"""Which images are copies of which: saved again, resized, brightened, mirrored, cropped.

Two measures have to agree. The features say that two images show the same, their thumbnails that they show it in the
same way: 1 − cosine of the features, and 1 − correlation of the thumbnails, of which one may be mirrored or show a part
of the other. Each is relative to what is usual between different images of the set, the distance to the tenth nearest:
photos differ in many ways, handwritten digits in few.

The product of both must be small. As in Lowe's ratio test (2004, section 7.1), one threshold on a ratio serves sets of
which each would need its own on the distance.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, Shaped
from torch import Tensor
from torch.nn.functional import normalize

from shoal.clustering.neighbours import Neighbours, neighbours_by_cell
from shoal.clustering.rows import draw_rows
from shoal.mapped import Spool, release, scratch
from shoal.results.registration import Windows, register
from shoal.results.sketches import FLAT, Sketches, Thumbnails

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
_BLOCK = 4096
_COMPARED = 1024  # pairs compared at once: where one image may show a part of the other, of 16 x 16 pixels, 50 MB
_SORTED = 2**20
_SLACK = 1 + 1e-4  # of limits by which candidates are kept: values made in another order differ in the last digits
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

    @classmethod
    def none(cls) -> Pairs:
        """Not one."""
        return cls(torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64), torch.zeros(0))

    @classmethod
    def of(cls, each: Sequence[Pairs]) -> Pairs:
        """All of several."""
        return cls(*(torch.cat([getattr(pairs, name) for pairs in each]) for name in ("one", "other", "similarity")))


def alike_cosine(features: Float[Tensor, "n d"], seed: int = 0) -> float:
    """Cosine from which images are alike, by how near different ones usually are: to the tenth nearest of a sample.

    Features of many networks lie in a narrow cone, where 0.95 would be everybody's.
    """
    n = len(features)
    rows = draw_rows(n, _SAMPLE, torch.Generator().manual_seed(seed))
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
    rows: Int64[Tensor, "m"],
    found: Iterable[Neighbours],
    sketches: Shaped[np.ndarray, "n"],
    *,
    trained: bool = False,
    seed: int = 0,
) -> Pairs:
    """Find the copies among some rows.

    Compared are the ten nearest by features and the ten nearest by thumbnails (``neighbours_by_cell``), as they come:
    what is kept of them is what may be copies by the one row of a pair that is known by then.

    Args:
        features: of all images.
        rows: to look at.
        found: the neighbours of these rows, by their features.
        sketches: of all images, as ``data.sketch`` keeps them.
        trained: the features are those of a training run, so that their nearness says nothing.
        seed: of the search.
    """
    compared = _Compared(features, rows, Sketches(sketches), trained=trained, seed=seed)
    alike = torch.inf if trained or compared.all_known else alike_cosine(features, seed)
    unknown = Pairs.none()
    for block in found:
        compared.add_by_features(block)
        if not compared.all_known:
            others = pairs_by_cosine(block, alike)
            rest = ~(compared.sketches.known(others.one) & compared.sketches.known(others.other))
            unknown = Pairs.of([unknown, Pairs(others.one[rest], others.other[rest], others.similarity[rest])])
    for block in neighbours_by_cell(Thumbnails(compared.sketches), compared.rows, seed):
        compared.add_by_looks(block)
    return Pairs.of([compared.pairs(), unknown])


class _Compared:
    """Candidates for copies, and what is usual between the images of the set."""

    def __init__(
        self, features: Float[Tensor, "n d"], rows: Int64[Tensor, "m"], sketches: Sketches, *, trained: bool, seed: int
    ) -> None:
        self.features, self.sketches, self.trained = features, sketches, trained
        known = sketches.known(rows)
        self.all_known = bool(known.all())
        self.rows = rows if self.all_known else rows[known]
        self.few = _USUAL_OF_FEW * min(1.0, (_FEW / max(len(self.rows), 1)) ** (2 / 3))
        self.pool = self.rows[draw_rows(len(self.rows), _POOL, torch.Generator().manual_seed(seed))]
        self.pool_features = normalize(features[self.pool].float())
        self.thumbnails = Thumbnails(sketches)
        self.pool_looks = normalize(self.thumbnails[self.pool].float())
        self.usual_features = scratch((len(features),), torch.float32)
        self.usual_looks = scratch((len(features),), torch.float32)
        if trained:
            self.usual_features += 1
        self.kept = Spool()

    def add_by_features(self, block: Neighbours) -> None:
        """Take the neighbours of some rows by their features."""
        found = block if self.all_known else self._known(block)
        if not self.trained:
            usual = _usual(self.features[found.rows], found, self.pool, self.pool_features)
            self.usual_features[found.rows] = usual.clamp(min=self.few**0.5)
        for one, other, similarity in self._each(found):
            apart = self._apart(one, other)[0]
            self._keep(one, other, (apart <= _SLACK * FARTHEST) | self._may_be_crop(one, 1 - similarity, apart))
        self._release()

    def add_by_looks(self, block: Neighbours) -> None:
        """Take the neighbours of some rows by their thumbnails, once all by their features are known."""
        usual = _usual(self.thumbnails[block.rows], block, self.pool, self.pool_looks)
        self.usual_looks[block.rows] = usual.clamp(min=self.few**0.5) if self.trained else usual
        for one, other, _ in self._each(block):
            apart = self._apart(one, other)[0]
            kept = apart <= _SLACK * FARTHEST
            rest = (~kept & (apart <= _NOT_CROPPED)).nonzero()[:, 0] if not self.trained else one[:0]
            if len(rest):
                cosines = _cosines(self.features, one[rest], other[rest])
                kept[rest] = self._may_be_crop(one[rest], 1 - cosines, apart[rest])
            self._keep(one, other, kept)
        self._release()

    def _known(self, block: Neighbours) -> Neighbours:
        """The neighbours of rows with sketches among each other."""
        rows = self.sketches.known(block.rows)
        index = block.index[rows]
        inside = self.sketches.known(index.clamp(min=0).flatten()).view(index.shape) & (index >= 0)
        similarity = block.similarity[rows].masked_fill(~inside, -torch.inf)
        return Neighbours(block.rows[rows], index.masked_fill(~inside, -1), similarity)

    def _each(self, block: Neighbours) -> Iterator[tuple[Int64[Tensor, "b"], Int64[Tensor, "b"], Float[Tensor, "b"]]]:
        """Rows, their neighbours and their cosines, a part at a time."""
        there = block.index >= 0
        pairs = block.rows[:, None].expand_as(block.index)[there], block.index[there], block.similarity[there]
        yield from zip(*(torch.split(each, _BLOCK) for each in pairs), strict=True)

    def _may_be_crop(
        self, one: Int64[Tensor, "b"], far: Float[Tensor, "b"], apart: Float[Tensor, "b"]
    ) -> Bool[Tensor, "b"]:
        """Whether a pair may be a picture and its crop, as far as the first row can say."""
        if self.trained:
            return torch.zeros(len(one), dtype=torch.bool)
        return (far <= _SLACK * _NEAR * self.usual_features[one] + 1e-6) & (apart <= _SLACK * _NOT_CROPPED)

    def _keep(self, one: Int64[Tensor, "b"], other: Int64[Tensor, "b"], kept: Bool[Tensor, "b"]) -> None:
        one, other = one[kept], other[kept]
        keys = torch.minimum(one, other) * len(self.features) + torch.maximum(one, other)
        self.kept.write(keys.numpy().tobytes())

    def _release(self) -> None:
        release(self.usual_features, self.usual_looks, self.features)
        self.sketches.release()

    def pairs(self) -> Pairs:
        """The candidates that are copies."""
        found, n = [Pairs.none()], len(self.features)
        for block in self._candidates():
            one, other = block // n, block % n
            cosine = _cosines(self.features, one, other)
            copied = self._are_copies(one, other, cosine)
            found.append(Pairs(one[copied], other[copied], cosine[copied]))
            self._release()
        return Pairs.of(found)

    def _candidates(self) -> Iterator[Int64[Tensor, "b"]]:
        """Keys of the pairs, each once and ascending: those of some rows are sorted at a time."""
        with self.kept:
            keys, n = self.kept.array().view(np.int64), len(self.features)
        step = -(-n // max(1, len(keys) // _SORTED))
        for start in range(0, n, step):
            least, most = start * n, (start + step) * n
            own = [part[(part >= least) & (part < most)] for part in np.split(keys, range(_SORTED, len(keys), _SORTED))]
            yield from torch.split(torch.from_numpy(np.unique(np.concatenate(own))), _COMPARED)

    def _apart(
        self, one: Int64[Tensor, "b"], other: Int64[Tensor, "b"]
    ) -> tuple[Float[Tensor, "b"], Bool[Tensor, "b"]]:
        """1 − correlation of thumbnails, of which one may be mirrored, and whether that is nearer."""
        a, b = self.sketches.luma(one), self.sketches.luma(other)
        plain, mirrored = 1 - _correlation(a, b), 1 - _correlation(a, b.flip(2))
        return torch.minimum(plain, mirrored), mirrored < plain

    def _are_copies(
        self, one: Int64[Tensor, "b"], other: Int64[Tensor, "b"], cosine: Float[Tensor, "b"]
    ) -> Bool[Tensor, "b"]:
        usual_features = torch.minimum(self.usual_features[one], self.usual_features[other])
        allowed = torch.minimum(self._usual(one), self._usual(other))
        alone = LIMIT_OF_THUMBNAILS * allowed
        farthest = (alone if self.trained else LIMIT * allowed / (1 - cosine).clamp(min=1e-6)).clamp(max=FARTHEST)
        apart, turned = self._apart(one, other)
        copied = apart <= farthest
        whole = copied.nonzero()[:, 0]
        copied[whole] = self._same_colours(one[whole], other[whole], turned[whole], apart[whole])
        if not self.trained:
            near = 1 - cosine <= _NEAR * usual_features
            rest = (near & (farthest >= _CROPPED) & (apart > farthest) & (apart <= _NOT_CROPPED)).nonzero()[:, 0]
            for parts in (False, True):
                rest = rest[~copied[rest]]
                ends = (other[rest], one[rest]) if parts else (one[rest], other[rest])
                copied[rest] = self._shows_part(*ends, turned[rest], farthest[rest])
        return copied

    def _usual(self, rows: Int64[Tensor, "b"]) -> Float[Tensor, "b"]:
        """What is usual by both measures together; after training by looks alone."""
        if self.trained:
            return self.usual_looks[rows]
        return (self.usual_looks[rows] * self.usual_features[rows]).clamp(min=self.few)

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
        part = self.sketches.luma(other)
        apart, windows = register(self.sketches.luma(one), torch.where(turned[:, None, None], part.flip(2), part))
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
        a, b = self.sketches.chroma(one), self.sketches.chroma(other)
        b = torch.where(turned[:, None, None, None], b.flip(3), b)
        light, dark = self.sketches.luma(one).flatten(1), self.sketches.luma(other).flatten(1)
        if windows is not None:
            a = torch.stack([windows.of(a[:, 0]), windows.of(a[:, 1])], 1)
            light = windows.of(self.sketches.luma(one)).flatten(1)
        colours = torch.stack([_rms(a), _rms(b)])
        same = _rms(a - b) <= _COLOUR + _COLOUR_SHARE * colours.amin(0)
        greyed = (colours.amin(0) <= _GREY) & (apart <= _GREYED)
        lit = (light.mean(1) - dark.mean(1)).abs() <= _BRIGHTNESS + _BRIGHTNESS_SHARE * torch.minimum(
            light.std(1, correction=0), dark.std(1, correction=0)
        )
        return (same | greyed) & lit


def _usual(
    values: Float[Tensor, "b d"], found: Neighbours, pool: Int64[Tensor, "p"], others: Float[Tensor, "p d"]
) -> Float[Tensor, "b"]:
    """1 − cosine that is usual between some rows and different ones like them.

    That to the tenth nearest, unless these are copies all: then a quarter of what is usual among random ones.

    Args:
        values: of the rows.
        found: their neighbours.
        pool: random rows.
        others: their values, at unit length.
    """
    rank = max(1, round(_NEAREST_OF_POOL * len(pool)))
    usual = torch.zeros(len(values))
    for start in range(0, len(values), _BLOCK):
        part = slice(start, start + _BLOCK)
        cosines = normalize(values[part].float()) @ others.T
        cosines.masked_fill_(found.rows[part, None] == pool, -1)
        usual[part] = _LEAST_OF_POOL * (1 - cosines.topk(rank).values[:, -1])
    if found.similarity.shape[1]:
        usual = torch.maximum(usual, 1 - found.similarity[:, -1])
    return usual.clamp(0, 1)


def _cosines(values: Float[Tensor, "n d"], one: Int64[Tensor, "b"], other: Int64[Tensor, "b"]) -> Float[Tensor, "b"]:
    return torch.cosine_similarity(values[one].float(), values[other].float()).clamp(max=1)


def _correlation(a: Float[Tensor, "b s s"], b: Float[Tensor, "b s s"]) -> Float[Tensor, "b"]:
    """Correlation of thumbnails; of two that are of one colour, 1."""
    x, y = ((image - image.mean((1, 2), keepdim=True)).flatten(1) for image in (a, b))
    noise = FLAT**2 * x.shape[1]
    return (x * y).sum(1).add(noise) / ((x.square().sum(1) + noise) * (y.square().sum(1) + noise)).sqrt()


def _rms(values: Float[Tensor, "b c h w"]) -> Float[Tensor, "b"]:
    return values.square().mean((1, 2, 3)).sqrt()
