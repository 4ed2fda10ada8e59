"""Planted copies of images among different ones, told by features and thumbnails."""

import csv

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps

import shoal
from shoal.clustering import approximate_neighbours
from shoal.data.rgb import to_array
from shoal.data.sketch import SKETCH, sketch
from shoal.results import copies as copying
from shoal.results.copies import copies

N = 60


def scene(seed):
    """A smooth picture with detail, as photos are: noise of all scales."""
    draw = np.random.default_rng(seed)
    layers = [draw.normal(0, 1, (n, n, 3)) * 60 / n**0.7 for n in (3, 6, 12, 24)]
    sizes = [
        np.stack(
            [np.asarray(Image.fromarray(layer[..., c].astype(np.float32)).resize((96, 96), 3)) for c in range(3)], 2
        )
        for layer in layers
    ]
    grey = np.stack([sum(sizes).mean(2)] * 3, 2)
    return Image.fromarray((128 + 2 * grey + sum(sizes)).clip(0, 255).astype(np.uint8))


def cropped(image, left, top, share):
    side = round(image.width * share)
    return image.crop((left, top, left + side, top + side))


COPIES = {
    "smaller": lambda image: image.resize((40, 40), Image.Resampling.LANCZOS),
    "brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.15),
    "mirrored": ImageOps.mirror,
    "grey": lambda image: image.convert("L").convert("RGB"),
    "cropped": lambda image: cropped(image, 5, 5, 0.9),
    "cropped at a side": lambda image: cropped(image, 0, 12, 0.87),
    "cropped and mirrored": lambda image: ImageOps.mirror(cropped(image, 9, 3, 0.88)),
    "with a border": lambda image: ImageOps.expand(image, 4, "white"),
}


def sketched(images):
    return np.concatenate([np.frombuffer(sketch(one, b"", to_array(one)), SKETCH) for one in images])


def features_of(n, originals, noise=0.3, seed=0):
    """Random features, and those of copies near their originals."""
    draw = torch.Generator().manual_seed(seed)
    rows = torch.randn(n, 64, generator=draw)
    return torch.cat([rows, rows[originals] + noise * torch.randn(len(originals), 64, generator=draw)])


def neighbours(features):
    rows = torch.arange(len(features))
    return rows, [approximate_neighbours(features, rows)]


def pairs_of(features, images, **options):
    found = copies(features, *neighbours(features), sketched(images), **options)
    return {(min(pair), max(pair)) for pair in zip(found.one.tolist(), found.other.tolist(), strict=True)}


@pytest.fixture(scope="module")
def scenes():
    return [scene(seed) for seed in range(N)]


def test_every_planted_copy_is_found_and_no_other_pair(scenes):
    images = scenes + [change(scenes[i]) for i, change in enumerate(COPIES.values())]
    features = features_of(N, torch.arange(len(COPIES)))
    assert pairs_of(features, images) == {(i, N + i) for i in range(len(COPIES))}


def test_candidates_are_sorted_a_part_at_a_time(scenes, monkeypatch):
    images = scenes + [change(scenes[i]) for i, change in enumerate(COPIES.values())]
    features = features_of(N, torch.arange(len(COPIES)))
    whole = copies(features, *neighbours(features), sketched(images))
    monkeypatch.setattr(copying, "_SORTED", 7)
    monkeypatch.setattr(copying, "_COMPARED", 3)
    parts = copies(features, *neighbours(features), sketched(images))
    assert torch.equal(torch.stack([whole.one, whole.other]), torch.stack([parts.one, parts.other]))


def test_of_a_trained_network_the_thumbnails_decide(scenes):
    whole = [scenes[0], *(COPIES[name](scenes[i]) for i, name in enumerate(("smaller", "brighter", "mirrored"), 1))]
    together = torch.ones(N + 4, 8) + 1e-3 * torch.randn(N + 4, 8, generator=torch.Generator().manual_seed(0))
    assert pairs_of(together, scenes + whole, trained=True) == {(i, N + i) for i in range(4)}
    assert pairs_of(together[:N], scenes, trained=True) == set()


def test_another_colour_is_no_copy(scenes):
    other = [Image.merge("RGB", scenes[i].split()[::-1]) for i in range(4)]
    assert pairs_of(features_of(N, torch.arange(4), 0.05), scenes + other) == set()


def test_sheets_of_one_colour_are_copies_if_it_is_the_same(scenes):
    sheets = [Image.new("RGB", (64, 64), colour) for colour in ("white", "white", "black", "#c00000", "#00c000")]
    features = features_of(N, torch.zeros(5, dtype=torch.int64), 0.1)
    assert pairs_of(features, scenes + sheets) == {(N, N + 1)}


def test_a_group_larger_than_the_neighbours_that_are_looked_at(scenes):
    changes = [COPIES["smaller"], COPIES["brighter"], COPIES["mirrored"], COPIES["grey"]]
    images = scenes + [scenes[0].resize((side, side)) for side in range(40, 60, 2)]
    images += [change(scenes[0].resize((90, 90))) for change in changes]
    features = features_of(N, torch.zeros(14, dtype=torch.int64), 0.1)
    found = pairs_of(features, images)
    assert {0, *range(N, N + 14)} == {row for pair in found for row in pair}


def test_images_without_a_sketch_are_compared_by_their_features(scenes):
    images = [*scenes, COPIES["cropped"](scenes[0]), scenes[1]]
    features = features_of(N, torch.tensor([0, 1]), 0.05)
    sketches = sketched(images)
    sketches["width"][N + 1] = 0
    found = copies(features, *neighbours(features), sketches)
    assert set(zip(found.one.tolist(), found.other.tolist(), strict=True)) >= {(0, N), (1, N + 1)}
    assert {frozenset(pair) for pair in zip(found.one.tolist(), found.other.tolist(), strict=True)} == {
        frozenset((0, N)),
        frozenset((1, N + 1)),
    }


@pytest.mark.parametrize("n", [1, 2, 3])
def test_a_few_images(scenes, n):
    assert pairs_of(features_of(n, torch.zeros(0, dtype=torch.int64)), scenes[:n]) == set()
    assert pairs_of(features_of(n, torch.tensor([0]), 0.1), [*scenes[:n], COPIES["smaller"](scenes[0])]) == {(0, n)}


@pytest.mark.usefixtures("own_cache", "no_umap")
def test_a_training_run_lists_copies_and_no_links(scenes, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for i, image in enumerate(scenes[:24]):
        image.save(folder / f"{i:02}.png")
    scenes[5].save(folder / "again.jpg", quality=60)
    (folder / "link.png").symlink_to(folder / "03.png")
    settings = {"data.size": 32, "method.dim": 8, "backbone.width": 4}
    shoal.ProPos(2, epochs=1, settings=settings).fit(folder).save(tmp_path / "model")
    with (tmp_path / "model" / "duplicates.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {(row["id"], row["kind"]) for row in rows} == {("05.png", "near"), ("again.jpg", "near")}
    assert sorted(row["keep"] for row in rows) == ["false", "true"]
