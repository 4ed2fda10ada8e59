"""Neighbours, near-duplicates and outliers, against scikit-learn and planted ones."""

import csv

import numpy as np
import pytest
import torch
from sklearn.datasets import make_blobs
from sklearn.neighbors import NearestNeighbors
from torch.nn.functional import normalize

from shoal.clustering import approximate_neighbours, cells
from shoal.clustering.cells import N_NEIGHBOURS
from shoal.data.equal import first_of_each
from shoal.data.sketch import SKETCH
from shoal.results.copies import alike_cosine, pairs_by_cosine
from shoal.results.duplicates import KINDS, duplicates, write_duplicates
from shoal.results.outliers import MAX_SHARE, isolation, outliers, write_outliers


@pytest.fixture(scope="module")
def rows():
    return torch.from_numpy(make_blobs(900, 16, centers=6, random_state=0)[0]).float()


def prints(numbers):
    return torch.tensor([[n % 251, n // 251] + [7] * 14 for n in numbers], dtype=torch.uint8)


def test_few_rows_have_the_neighbours_that_scikit_learn_finds(rows):
    some = torch.arange(0, 900, 3)
    found = approximate_neighbours(rows, some)
    far, near = NearestNeighbors(n_neighbors=N_NEIGHBOURS, metric="cosine").fit(rows[some]).kneighbors()
    np.testing.assert_allclose(1 - found.similarity, far, atol=1e-6)
    assert (found.index == some[torch.from_numpy(near)]).float().mean() > 0.99  # equally near ones may change places


def test_many_rows_have_almost_all_of_them(rows, monkeypatch):
    monkeypatch.setattr(cells, "CELL_ROWS", 40)
    monkeypatch.setattr(cells, "_BLOCK", 64)
    monkeypatch.setattr(cells, "_READ", 100)
    found = approximate_neighbours(rows, torch.arange(900))
    _, near = NearestNeighbors(n_neighbors=N_NEIGHBOURS, metric="cosine").fit(rows).kneighbors()
    hits = [len(set(a) & set(b)) for a, b in zip(found.index.tolist(), near.tolist(), strict=True)]
    assert np.mean(hits) / N_NEIGHBOURS > 0.9
    assert (found.index != torch.arange(900)[:, None]).all()
    assert all(len(set(row)) == N_NEIGHBOURS for row in found.index.tolist())
    cosines = normalize(rows) @ normalize(rows).T
    torch.testing.assert_close(found.similarity, cosines.gather(1, found.index))


@pytest.mark.parametrize("n", [1, 2, 5])
def test_fewer_rows_than_neighbours(rows, n):
    found = approximate_neighbours(rows, torch.arange(n))
    assert found.index.shape == (n, n - 1)
    assert all(set(row) == set(range(n)) - {i} for i, row in enumerate(found.index.tolist()))
    assert outliers(found.rows, isolation(found), torch.zeros(n, dtype=torch.int64)) == []


def test_planted_duplicates_are_found_and_no_others(tmp_path):
    draw = torch.Generator().manual_seed(0)
    rows = torch.randn(200, 64, generator=draw)
    numbers = list(range(200))
    for copy in (50, 60, 70, *range(100, 120)):  # more copies than neighbours are looked for
        rows[copy], numbers[copy] = rows[5], 5
    rows[80] = rows[9] + 0.05 * torch.randn(64, generator=draw)
    rows[81] = rows[80] + 0.05 * torch.randn(64, generator=draw)
    rows[90] = rows[5] + 0.05 * torch.randn(64, generator=draw)
    first = first_of_each(prints(numbers))
    assert first.tolist() == numbers
    ids = [f"{i}.png" for i in range(200)]
    found = duplicates(first, pairs_by_cosine(approximate_neighbours(rows, first.unique())), ids)
    groups = {}
    for group, row, kind, similarity in zip(found.group, found.row, found.kind, found.similarity, strict=True):
        groups.setdefault(int(group), {})[int(row)] = KINDS[kind], float(similarity)
    assert [set(group) for group in groups.values()] == [{5, 50, 60, 70, 90, *range(100, 120)}, {9, 80, 81}]
    assert list(groups) == [0, 1]
    assert [row for row, (kind, _) in groups[0].items() if kind == "near"] == [90]
    assert groups[0][50] == ("exact", 1)
    cosine = torch.nn.functional.cosine_similarity(rows[80], rows[[9, 81]]).max()
    assert groups[1][80][1] == pytest.approx(float(cosine), abs=1e-6)
    write_duplicates(found, ids, tmp_path / "duplicates.csv")
    with (tmp_path / "duplicates.csv").open() as file:
        table = list(csv.DictReader(file))
    unknown = dict.fromkeys(("keep", "width", "height", "bytes"), "")
    assert table[0] == {"group": "0", "kind": "exact", "id": "5.png", "similarity": "1"} | unknown
    assert len(table) == len(found)


def test_no_duplicates_give_an_empty_table(tmp_path):
    first = first_of_each(prints(range(20)))
    found = duplicates(first, pairs_by_cosine(approximate_neighbours(torch.eye(20), first)), [""] * 20)
    write_duplicates(found, [""] * 20, tmp_path / "duplicates.csv")
    assert (tmp_path / "duplicates.csv").read_text().splitlines() == [
        '"group","kind","id","similarity","keep","width","height","bytes"'
    ]


def known(*sizes):
    """Sketches of images, of each width, height, bytes and sharpness."""
    found = np.zeros(len(sizes), SKETCH)
    for name, column in zip(("width", "height", "bytes", "sharpness"), zip(*sizes, strict=True), strict=True):
        found[name] = column
    return found


@pytest.mark.parametrize(
    ("sizes", "best"),
    [
        ([(10, 10, 9, 2), (20, 10, 5, 1), (10, 19, 9, 2)], 1),  # the most pixels, though less sharp
        ([(10, 10, 9, 1), (10, 10, 5, 2), (10, 10, 9, 1)], 1),  # as many, and sharper, though a smaller file
        ([(10, 10, 7, 1), (10, 10, 9, 0.95), (10, 10, 5, 1)], 1),  # hardly less sharp, and the larger file
        ([(10, 10, 9, 1)] * 3, 1),  # the name without "copy"
    ],
)
def test_the_best_of_a_group_is_kept(sizes, best):
    near = pairs_by_cosine(approximate_neighbours(torch.ones(3, 4), torch.arange(3)))
    found = duplicates(torch.arange(3), near, ["cat (1).jpg", "cat.jpg", "cat copy.jpg"], sketches=known(*sizes))
    assert [*zip(found.row, found.keep, strict=True)] == [(best, 1), *((i, 0) for i in range(3) if i != best)]


def test_links_alone_are_no_group_and_every_name_of_the_best_file_is_kept():
    first, links = first_of_each(prints([0, 0, 2, 3, 3, 3])), torch.tensor([[1, 0], [4, 3]])
    nothing = pairs_by_cosine(approximate_neighbours(torch.eye(6), first.unique()))
    sketches = known(*[(8, 8, 99, 1)] * 6)
    found = duplicates(first, nothing, list("abcdef"), links=links, sketches=sketches)
    kinds = [KINDS[kind] for kind in found.kind]
    assert [*zip(found.row, kinds, found.keep, strict=True)] == [(3, "exact", 1), (4, "link", 1), (5, "exact", 0)]


@pytest.mark.parametrize("spread", [0.05, 0.5])
def test_planted_outliers_come_first(spread, tmp_path):
    draw = torch.Generator().manual_seed(3)
    # Two clusters of which one is ten times as dense; each image alone is alone by its own cluster's measure.
    middle = torch.eye(32)[:2].repeat_interleave(500, 0)
    widths = torch.tensor([spread / 10, spread]).repeat_interleave(500)[:, None] / 32**0.5
    rows = middle + widths * torch.randn(1000, 32, generator=draw)
    alone = [7, 300, 777]
    rows[7, 5], rows[300, 6] = spread, -spread
    rows[777] = torch.randn(32, generator=draw)
    clusters = torch.arange(1000) // 500
    near = approximate_neighbours(rows, torch.arange(1000))
    found = outliers(near.rows, isolation(near), clusters)
    assert {one.row for one in found[:3]} == set(alone)
    assert len(found) <= MAX_SHARE * 1000
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)
    assert all(one.cluster == clusters[one.row] for one in found)
    write_outliers(found, [f"{i}.png" for i in range(1000)], tmp_path / "outliers.csv")
    assert (tmp_path / "outliers.csv").read_text().startswith('"id","cluster","score"\n')


def test_images_are_alike_by_what_is_usual_among_them(rows):
    """Rows that are spread out, the same in a narrow cone, and few of them."""
    assert alike_cosine(torch.randn(900, 64, generator=torch.Generator().manual_seed(0))) == 0.95
    narrow = 0.1 * normalize(rows) + torch.ones(16)
    cosines = normalize(narrow) @ normalize(narrow).T
    threshold = alike_cosine(narrow)
    assert (cosines > 0.95).all()
    assert (cosines.fill_diagonal_(0) >= threshold).float().mean() < 0.01
    copied = torch.cat([narrow, narrow[:30]])
    pairs = pairs_by_cosine(approximate_neighbours(copied, torch.arange(930)), alike_cosine(copied))
    planted = {(i, i + 900) for i in range(30)}
    assert planted <= {tuple(sorted(pair)) for pair in zip(pairs.one.tolist(), pairs.other.tolist(), strict=True)}
    assert [alike_cosine(rows[:n]) for n in (0, 1)] == [0.95, 0.95]
