"""Thumbnails, neighbours and confusion against what they are made of."""

from __future__ import annotations

import base64
import io
import math

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.metrics import confusion_matrix
from sklearn.neighbors import NearestNeighbors
from tests.report.examples import example

from shoal.report import gallery_picture
from shoal.report.confusion import confusion
from shoal.report.contents import majorities, members, nearest_images
from shoal.report.pictures import COLUMNS, edge_for, sheets


def decode(content):
    return np.array(Image.open(io.BytesIO(base64.b64decode(content))))


def cell(found, place):
    sheet = decode(found.contents[place // COLUMNS**2])
    row, column = divmod(place % COLUMNS**2, COLUMNS)
    return sheet[row * found.height :, column * found.width :][: found.height, : found.width]


def test_small_images_are_in_their_cells_to_the_pixel():
    pixels = example(n=600, k=1, size=8).images.pixels
    order = torch.randperm(600, generator=torch.Generator().manual_seed(1))[:530]
    found = sheets(pixels, order)
    assert [decode(content).shape for content in found.contents] == [(128, 128, 3), (128, 128, 3), (16, 128, 3)]
    for place in (0, 15, 16, 255, 256, 529):
        np.testing.assert_array_equal(cell(found, place), pixels[order[place]].permute(1, 2, 0))


def test_large_images_keep_their_shape_and_look():
    y, x = torch.meshgrid(torch.arange(150), torch.arange(300), indexing="ij")
    pixels = torch.stack((x // 2, y, 255 - x // 2)).to(torch.uint8)[None]
    small = cell(sheets(pixels, torch.zeros(1, dtype=torch.int64)), 0)
    assert small.shape == (48, 96, 3)
    expected = pixels[0, :, 1::3, 1::3].permute(1, 2, 0)[:48, :96].float()
    assert np.abs(small - expected.numpy()).mean() < 8


def test_sheets_too_large_are_made_coarser():
    pixels = example(n=20, k=1, size=32).images.pixels
    fine, coarse = (sheets(pixels, torch.arange(20), max_bytes=limit) for limit in (10**6, 1))
    assert len(coarse.contents[0]) < 0.7 * len(fine.contents[0])


def test_thumbnails_shrink_as_images_grow_in_number():
    assert [edge_for(n) for n in (1, 1_000, 1_001, 5_000, 5_001)] == [96, 96, 64, 64, 48]


def test_neighbours_are_scikit_learns():
    features = torch.from_numpy(load_digits().data[:1500]).float() + 1000
    distances, expected = NearestNeighbors(n_neighbors=9).fit(features).kneighbors(features)
    found = nearest_images(features)
    assert (found >= 0).all()
    ours = (features[:, None] - features[found]).norm(dim=2)
    np.testing.assert_allclose(ours, distances[:, 1:], rtol=1e-3)
    assert np.mean(found.numpy() == expected[:, 1:]) > 0.98, "all but ties"


def test_few_images_have_few_neighbours():
    found = nearest_images(torch.tensor([[0.0], [1.0], [3.0]]))
    assert found.tolist() == [[1, 2] + [-1] * 6, [0, 2] + [-1] * 6, [1, 0] + [-1] * 6]
    assert nearest_images(torch.zeros(1, 2)).tolist() == [[-1] * 8]


def test_members_are_sorted_from_the_centre_outwards():
    clusters = torch.tensor([1, 0, -1, 1, 0, 1])
    data = example(n=6, k=3, clusters=clusters)
    data.clustering.distances[:] = torch.tensor([3.0, 2.0, 0.0, 1.0, 1.0, 2.0])
    assert [own.tolist() for own in members(data.clustering)] == [[4, 1], [3, 5, 0], []]


def test_the_majority_is_of_the_labelled():
    data = example(n=60, k=2)
    data.images.targets[:] = torch.tensor([0, 1]).repeat(30)
    data.images.targets[4], data.images.targets[6] = 1, -1
    first, second = majorities(data.images, members(data.clustering))
    assert (first.name, second.name, second.purity) == ("class-0", "class-1", 1)
    assert first.purity == pytest.approx(28 / 29)


def test_confusion_takes_numbers_with_gaps():
    data = example(k=6, clusters=torch.tensor([0, 2, 5] * 20))
    found = confusion(data.images, data.clustering)
    assert set(found.clusters) == {0, 2, 5}
    assert [[cell.count for cell in row.cells if cell.matched] for row in found.rows] == [[20]] * 3


def test_confusion_is_scikit_learns_with_matches_on_the_diagonal():
    generator = torch.Generator().manual_seed(1)
    data = example(n=600, k=5)
    swapped = torch.tensor([3, 0, 4, 1, 2])[data.images.targets]
    noise = torch.randint(0, 5, (600,), generator=generator)
    clusters = torch.where(torch.rand(600, generator=generator) < 0.3, noise, swapped)
    data.clustering.labels.copy_(clusters)
    found = confusion(data.images, data.clustering)
    assert found is not None
    assert found.clusters == [3, 0, 4, 1, 2]
    expected = confusion_matrix(data.images.targets, clusters)[:, found.clusters]
    np.testing.assert_array_equal([[cell.count for cell in row.cells] for row in found.rows], expected)
    assert [[cell.matched for cell in row.cells] for row in found.rows] == np.eye(5, dtype=bool).tolist()
    np.testing.assert_allclose([sum(cell.share for cell in row.cells) for row in found.rows], 1)
    worst = max((int(c), i, j) for (i, j), c in np.ndenumerate(expected) if i != j)
    assert found.mixups[0].count == worst[0]


def test_clusters_without_a_class_come_last_and_large_tables_become_a_list():
    data = example(n=600, k=30)
    data.images.targets[:] = data.clustering.labels // 2
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
