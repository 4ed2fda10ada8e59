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
from shoal.report.page import environment

KINDS = {"certainty": "<f4", "confidence": "<f4", "place": "<u2"}


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
    np.testing.assert_array_equal(column(found, "label"), data.images.labels[shown])
    np.testing.assert_array_equal(column(found, "certainty"), data.margins[shown])
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
    # The margin falls with the index: the most doubtful are the last.
    assert set(cells[[*own[:15], *own[-6:]]]) == set(range(21, 42))


def test_neighbours_and_places_are_among_the_shown():
    data = shuffled()
    given = torch.stack([(torch.arange(90) + 1 + j) % 90 for j in range(8)], dim=1)
    given[5, 7] = -1
    places = torch.arange(180.0).reshape(90, 2)
    found = contents(dataclasses.replace(data, neighbours=given, places=places))
    shown = rows(found)
    for i, near in enumerate(column(found, "neighbours")):
        assert [shown[j] if j >= 0 else -1 for j in near] == given[shown[i]].tolist()
    np.testing.assert_allclose(column(found, "place")[:, 0], np.rint(np.array(shown) / 89 * 65534))
    assert found.method == ""
    own = contents(data)
    far = (data.features[:, None] - data.features).norm(dim=2).fill_diagonal_(torch.inf)
    np.testing.assert_array_equal([rows(own)[j] for j in column(own, "neighbours")[:, 0]], far.argmin(1)[rows(own)])


def test_a_large_set_is_sampled(monkeypatch):
    monkeypatch.setattr("shoal.report.contents.MAX_SHOWN", 100)
    data = shuffled(n=400, k=4)
    found = contents(data)
    shown = set(rows(found))
    assert (found.n_shown, found.n_images, len(shown)) == (100, 400, 100)
    assert found.values["sizes"] == [100, 100, 100, 0]
    assert -1 not in column(found, "cluster"), "clustered images go first"
    for cluster in range(3):
        own = torch.nonzero(data.clustering.labels == cluster).squeeze(1)
        assert set(own[:12].tolist()) <= shown, "the most central of each are there"
        assert set(own[data.margins[own].argsort()[:12]].tolist()) <= shown, "and the most doubtful"
    assert contents(data).values == found.values
    assert rows(contents(dataclasses.replace(data, seed=4))) != rows(found)


def test_a_sample_of_a_larger_set_has_its_sizes():
    sizes = torch.tensor([1000, 20, 300])
    found = contents(example(sizes=sizes, n_images=1400))
    assert (found.values["sizes"], found.n_images, found.n_shown) == ([1000, 20, 300], 1400, 60)


def test_confidences_replace_margins():
    given = torch.rand(60, generator=torch.Generator().manual_seed(0))
    found = contents(example(confidences=given))
    np.testing.assert_array_equal(column(found, "certainty"), given[rows(found)])
    np.testing.assert_array_equal(column(found, "confidence"), given[rows(found)])
    assert contents(example()).values["columns"]["confidence"] is None


def test_duplicates_and_outliers_are_places_or_names():
    found = contents(example(duplicates=[["image-3", "elsewhere"], ["image-1"]], outliers=["gone", "image-0"]))
    place = found.values["ids"].index
    assert found.values["duplicates"] == [[place("image-3"), "elsewhere"], [place("image-1")]]
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
