"""What the page's scripts are given, read back."""

from __future__ import annotations

import base64
import dataclasses
import json

import numpy as np
import pytest
import torch
from tests.report.examples import example
from tests.report.test_pictures import cell

from shoal.report.contents import contents
from shoal.report.data import Copy
from shoal.report.page import environment

KINDS = {"confidence": "<f4", "place": "<u2"}


def column(found, name):
    raw = np.frombuffer(base64.b64decode(found.values["columns"][name]), KINDS.get(name, "<i4"))
    return raw.reshape(found.n_shown, -1).squeeze(1) if len(raw) == found.n_shown else raw.reshape(found.n_shown, -1)


def rows(found):
    return [int(name.removeprefix("image-")) for name in found.values["ids"]]


def shuffled(n=90, k=4, **other):
    """Clusters, one of them empty and some images in none, that do not follow the order of the images."""
    clusters = torch.randperm(n, generator=torch.Generator().manual_seed(3)) % k - 1
    return example(n=n, k=k, clusters=clusters, **other)


def test_columns_follow_clusters_and_their_centres():
    data = shuffled()
    found = contents(data)
    shown = rows(found)
    assert sorted(shown) == list(range(90))
    np.testing.assert_array_equal(column(found, "cluster"), data.clustering.labels[shown])
    np.testing.assert_array_equal(column(found, "label"), data.images.targets[shown])
    np.testing.assert_array_equal(column(found, "confidence"), data.confidences[shown])
    # In this example distance rises with the index.
    expected = [i for cluster in (0, 1, 2, 3, -1) for i in range(90) if data.clustering.labels[i] == cluster]
    assert shown == expected
    assert found.values["sizes"] == [sum(data.clustering.labels == c).item() for c in range(4)]


def test_thumbnails_are_where_the_column_says_those_of_the_cards_first():
    data = shuffled(n=400, k=3)
    found = contents(data)
    cells = column(found, "cell")
    assert sorted(cells) == list(range(400))
    for i, row in enumerate(rows(found)):
        np.testing.assert_array_equal(cell(found.sheets, int(cells[i])), data.images.pixels[row].permute(1, 2, 0))
    own = np.flatnonzero(column(found, "cluster") == 1)
    # The confidence falls with the index: the most doubtful are the last.
    assert set(cells[[*own[:15], *own[-6:]]]) == set(range(21, 42))


def test_neighbours_are_the_nearest_of_those_shown():
    data = shuffled()
    found = contents(data)
    far = (data.features[:, None] - data.features).norm(dim=2).fill_diagonal_(torch.inf)
    nearest = [rows(found)[j] for j in column(found, "neighbours")[:, 0]]
    np.testing.assert_array_equal(nearest, far.argmin(1)[rows(found)])


def test_positions_fill_a_square_with_images_in_no_cluster_among_them():
    data = shuffled()
    data.positions[:, 0], data.positions[:, 1] = torch.arange(90.0), 7
    assert (data.clustering.labels < 0).sum() > 5
    outside = torch.zeros(90, dtype=torch.bool)
    data.positions[5], outside[5] = torch.nan, True
    found = contents(data)
    shown = np.array(rows(found))
    place, off = column(found, "place"), outside.numpy()[shown]
    assert off.sum() == 1
    assert (place[off] == 65535).all()
    np.testing.assert_allclose(place[~off, 0], np.rint(shown[~off] / 89 * 65534))
    assert (place[~off, 1] == 32767).all()


def test_a_large_set_is_sampled(monkeypatch):
    monkeypatch.setattr("shoal.report.contents.MAX_SHOWN", 100)
    data = shuffled(n=400, k=4)
    found = contents(data)
    shown = set(rows(found))
    assert (found.n_shown, found.values["nImages"], len(shown)) == (100, 400, 100)
    assert found.values["sizes"] == [100, 100, 100, 0]
    assert -1 not in column(found, "cluster"), "clustered images go first"
    for cluster in range(3):
        own = torch.nonzero(data.clustering.labels == cluster).squeeze(1)
        assert set(own[:12].tolist()) <= shown, "the most central of each are there"
        assert set(own[data.confidences[own].argsort()[:12]].tolist()) <= shown, "and the most doubtful"
    assert contents(data).values == found.values
    assert rows(contents(dataclasses.replace(data, seed=4))) != rows(found)


def test_a_sample_of_a_larger_set_has_its_sizes():
    sizes = torch.tensor([1000, 20, 300])
    found = contents(example(sizes=sizes, n_images=1400))
    assert (found.values["sizes"], found.values["nImages"], found.n_shown) == ([1000, 20, 300], 1400, 60)


def test_names_of_clusters_are_given_from_the_start():
    assert contents(example(names={1: "fish"})).values["names"] == ["", "fish", ""]


def test_duplicates_and_outliers_are_places_or_names():
    found = contents(
        example(
            duplicates=[
                [Copy("image-3", "exact", True, "8 × 8"), Copy("elsewhere", "link")],
                [Copy("image-1", "near")],
            ],
            outliers=["gone", "image-0"],
        )
    )
    place = found.values["ids"].index
    assert found.values["duplicates"] == [
        [
            {"image": place("image-3"), "note": "8 × 8, same file", "keep": True},
            {"image": "elsewhere", "note": "link", "keep": False},
        ],
        [{"image": place("image-1"), "note": "", "keep": False}],
    ]
    assert found.values["outliers"] == ["gone", place("image-0")]


def test_edits_of_one_page_are_not_those_of_another():
    keys = {contents(each).values["key"] for each in (example(), shuffled(), example(ids=list(map(str, range(60)))))}
    assert len(keys) == 3
    assert contents(example()).values["key"] in keys


@pytest.mark.parametrize("name", ["</script><b>", "<!--<script>", "a\u2028b\u2029c\nd", "caf\udce9.png", "'\"&"])
def test_any_name_survives_the_page(name):
    written = environment().from_string("{{ value | tojson }}").render(value={"ids": [name]})
    assert not set("<>&\u2028\n\udce9") & set(written)
    assert json.loads(written) == {"ids": [name]}
