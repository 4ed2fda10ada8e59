"""Galleries, thumbnails, map and confusion against what they are made of."""

from __future__ import annotations

import base64
import io
import math

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.manifold import trustworthiness
from sklearn.metrics import confusion_matrix
from tests.report.examples import example

from shoal.report import gallery_picture
from shoal.report.confusion import confusion
from shoal.report.galleries import Gallery
from shoal.report.scatter import HEIGHT, MARGIN, WIDTH, scatter
from shoal.report.thumbnails import sprites, thumbnail_uri


def decode(uri):
    return np.array(Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/webp;base64,")))))


def test_small_thumbnails_are_the_image_itself():
    pixels = example(size=8).images.pixels[0]
    np.testing.assert_array_equal(decode(thumbnail_uri(pixels, 64)), pixels.permute(1, 2, 0))


def test_large_thumbnails_keep_their_shape_and_look():
    y, x = torch.meshgrid(torch.arange(100), torch.arange(200), indexing="ij")
    pixels = torch.stack((x, y, 255 - x)).to(torch.uint8)
    small = decode(thumbnail_uri(pixels, 64))
    assert small.shape == (32, 64, 3)
    expected = pixels[:, 1::3, 1::3].permute(1, 2, 0)[:32, :64].float()
    assert np.abs(small - expected.numpy()).mean() < 8


def test_each_sprite_is_in_its_place():
    pixels = example(n=7, k=1, size=8).images.pixels
    index = torch.tensor([6, 0, 3, 2, 5])
    sheet = sprites(pixels, index, edge=32, max_bytes=10**6)
    picture = decode(sheet.uri)
    assert picture.shape == (sheet.rows * 8, sheet.columns * 8, 3)
    for place, i in enumerate(index.tolist()):
        row, column = divmod(place, sheet.columns)
        cell = picture[8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
        np.testing.assert_array_equal(cell, pixels[i].permute(1, 2, 0))


def test_a_sheet_too_large_is_made_coarser():
    data = example(n=20, k=1, size=32)
    fine = sprites(data.images.pixels, torch.arange(20), edge=32, max_bytes=10**6)
    coarse = sprites(data.images.pixels, torch.arange(20), edge=32, max_bytes=1)
    assert len(coarse.uri) < 0.7 * len(fine.uri)


@pytest.mark.parametrize("k", [3, 40, 130])
def test_cards_show_the_nearest_and_the_most_doubtful(k):
    data = example(n=400, k=k)
    pages = Gallery(data.images, data.clustering, data.margins).pages()
    cards = [card for page in pages for card in page]
    assert [card.cluster for card in cards] == list(range(k))
    assert all(len(page) <= 60 for page in pages)
    for card in cards:
        own = [i for i in range(400) if i % k == card.cluster]
        assert card.size == len(own)
        assert card.share == pytest.approx(len(own) / 400)
        assert (card.majority, card.purity) == (f"class-{card.cluster}", 1)
        n_central = len(card.central)
        # In this example distance rises with the index and the margin falls.
        assert [t.text for t in card.central] == [f"image-{i} · {card.majority}" for i in own[:n_central]]
        n_doubtful = len(card.doubtful)
        doubtful = own[n_central:][::-1][:n_doubtful]
        assert [t.text for t in card.doubtful] == [f"image-{i} · {card.majority}" for i in doubtful]
    n_shown = len(cards[0].central) + len(cards[0].doubtful)
    assert n_shown == {3: 21, 40: 10, 130: 4}[k]


def test_images_of_another_class_are_framed():
    data = example(n=60, k=2)
    data.images.labels[:] = torch.tensor([0, 1]).repeat(30)
    data.images.labels[4], data.images.labels[6] = 1, -1
    card = Gallery(data.images, data.clustering, data.margins).pages()[0][0]
    stray = {thumb.text for thumb in (*card.central, *card.doubtful) if thumb.stray}
    assert stray == {"image-4 · class-1"}
    assert card.purity == pytest.approx(28 / 29)


def test_doubt_needs_a_second_cluster():
    data = example(n=40, k=1)
    assert Gallery(data.images, data.clustering, data.margins).pages()[0][0].doubtful == []


def test_the_map_keeps_neighbours_together():
    digits = torch.from_numpy(load_digits().data[:300]).float()
    data = example(n=300, k=10, features=digits)
    gallery = Gallery(data.images, data.clustering, data.margins)
    drawn = scatter(gallery, data.features, torch.Generator().manual_seed(0))
    assert drawn is not None
    places = np.array([(point.x, point.y) for point in drawn.points])
    assert trustworthiness(digits, places, n_neighbors=10) > 0.95
    assert places.min(axis=0).tolist() == [MARGIN, MARGIN]
    assert places.max(axis=0).tolist() == [WIDTH - MARGIN, HEIGHT - MARGIN]


def test_a_large_set_is_sampled_and_images_without_cluster_are_left_out(monkeypatch):
    monkeypatch.setattr("shoal.report.scatter.MAX_POINTS", 20)
    clusters = torch.arange(90) % 3 - 1
    data = example(n=90, k=2, clusters=clusters)
    gallery = Gallery(data.images, data.clustering, data.margins)
    drawn = scatter(gallery, data.features, torch.Generator().manual_seed(0))
    assert drawn is not None
    assert (len(drawn.points), drawn.n) == (20, 60)
    assert len({point.name for point in drawn.points}) == 20
    for point in drawn.points:
        assert int(clusters[int(point.name.removeprefix("image-"))]) == point.cluster
    assert sum(group.path.count("M") for group in drawn.groups) == 20


def test_confusion_is_scikit_learns_with_matches_on_the_diagonal():
    generator = torch.Generator().manual_seed(1)
    data = example(n=600, k=5)
    swapped = torch.tensor([3, 0, 4, 1, 2])[data.images.labels]
    noise = torch.randint(0, 5, (600,), generator=generator)
    clusters = torch.where(torch.rand(600, generator=generator) < 0.3, noise, swapped)
    data.clustering.labels.copy_(clusters)
    found = confusion(data.images, data.clustering)
    assert found is not None
    assert found.clusters == [3, 0, 4, 1, 2]
    expected = confusion_matrix(data.images.labels, clusters)[:, found.clusters]
    np.testing.assert_array_equal([[cell.count for cell in row.cells] for row in found.rows], expected)
    assert [[cell.matched for cell in row.cells] for row in found.rows] == np.eye(5, dtype=bool).tolist()
    np.testing.assert_allclose([sum(cell.share for cell in row.cells) for row in found.rows], 1)
    worst = max((int(c), i, j) for (i, j), c in np.ndenumerate(expected) if i != j)
    assert found.mixups[0].count == worst[0]


def test_clusters_without_a_class_come_last_and_large_tables_become_a_list():
    data = example(n=600, k=30)
    data.images.labels[:] = data.clustering.labels // 2
    found = confusion(data.images, data.clustering)
    assert found is not None
    assert found.rows == []
    assert sorted(found.clusters) == list(range(30))
    assert {mixup.instead for mixup in found.mixups} == {""}
    assert len(found.mixups) == 12


def test_the_gallery_picture_has_a_row_for_each_cluster(tmp_path):
    data = example(n=40, k=3)
    gallery_picture(data, tmp_path / "clusters.png")
    picture = np.array(Image.open(tmp_path / "clusters.png"))
    assert picture.shape == (3 * 52 - 4, 16 * 52 - 4, 3)
    for row, column in ((0, 0), (1, 4), (2, 12)):
        tile = picture[row * 52 : row * 52 + 48, column * 52 : column * 52 + 48]
        expected = data.images.pixels[row + 3 * column].permute(1, 2, 0).numpy()
        np.testing.assert_array_equal(tile[3::6, 3::6], expected)
    beyond = picture[2 * 52 :, 13 * 52 :]
    assert math.isclose(beyond.mean(), 255)
