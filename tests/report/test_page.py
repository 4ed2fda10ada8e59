"""The page as a browser's parser sees it."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from sklearn.datasets import load_sample_image
from tests.report.examples import ROWS, example

from shoal.errors import UserError
from shoal.report import write_report
from shoal.report.data import Copy

WORK = ["results", "clusters", "map", "selection"]
VOID = {"meta", "img", "br", "hr", "input", "link"}
EVIL = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</script><h1>",
    "' onload='x",
    "{{ 7 * 7 }}",
)


class Page(HTMLParser):
    """Elements with their attributes, and the text of each id."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.source, self.elements, self.open, self.texts = text, [], [], {}
        self.feed(text)
        self.close()
        assert self.open == [], "every element is closed"

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append((tag, dict(attrs)))

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        for key in {a.get("id") or tag for tag, a in self.open}:
            self.texts[key] = self.texts.get(key, "") + data

    def all(self, tag, **attributes):
        return [a for t, a in self.elements if t == tag and attributes.items() <= a.items()]

    @property
    def sections(self):
        return [a["id"] for a in self.all("section")]


def render(data, folder):
    write_report(data, folder / "report.html")
    return Page((folder / "report.html").read_text(encoding="utf-8"))


def test_with_labels_every_section_is_there(tmp_path):
    data = example()
    data = replace(data, images=replace(data.images, skipped={"broken.png": "not an image"}))
    page = render(data, tmp_path)
    assert page.sections == [*WORK, "confusion", "training", "skipped", "reproduce"]
    assert page.texts["command"] == data.command
    assert page.texts["config"] == data.config_yaml
    assert "broken.png" in page.texts["skipped"]
    assert "not an image" in page.texts["skipped"]
    figures = re.findall("<dt>(.*?)</dt><dd>(.*?)</dd>", page.source)
    assert dict(figures) == {
        "Images": "60",
        "Clusters": "3",
        "Accuracy": "87.5\u202f%",
        "NMI": "0.750",
        "ARI": "0.625",
        "Silhouette": "0.250",
        "Skipped files": "1",
    }


def test_without_labels_nothing_speaks_of_classes(tmp_path):
    page = render(example(labelled=False), tmp_path)
    assert page.sections == [*WORK, "training", "reproduce"]
    assert "Accuracy" not in page.source
    assert "class-0" not in page.source


def test_it_asks_nothing_of_the_network(tmp_path):
    page = render(example(), tmp_path)
    places = [v for _, a in page.elements for k, v in a.items() if k in {"src", "href", "srcset", "action", "data"}]
    assert all(place.startswith("#") for place in places)
    assert not re.search(r"url\(", page.source)
    assert not re.search(r"https?:|@import|fetch\(|import\(", page.source)
    [policy] = page.all("meta", **{"http-equiv": "Content-Security-Policy"})
    assert set(re.findall(r"([\w-]+) 'unsafe-inline'", policy["content"])) == {"script-src", "style-src"}
    assert policy["content"].startswith("default-src 'none';")


def test_every_fragment_link_has_its_target(tmp_path):
    page = render(example(), tmp_path)
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))
    # A script makes the cards of the clusters.
    assert {a["href"][1:] for a in page.all("a")} <= {*ids, "cluster-0", "cluster-1", "cluster-2"}
    assert {a["for"] for a in page.all("label")} <= set(ids)
    assert {a["data-copies"] for a in page.all("button") if "data-copies" in a} <= set(ids)
    named_by = {a["aria-labelledby"] for _, a in page.elements if "aria-labelledby" in a}
    assert named_by <= set(ids)


def test_hostile_names_stay_text(tmp_path):
    ids = [f"{EVIL[i % 5]}{i}" for i in range(60)]
    data = example(ids=ids, classes=EVIL[:3], title=EVIL[0], command=EVIL[1], config_yaml=EVIL[2])
    data = replace(data, images=replace(data.images, skipped={EVIL[0]: EVIL[1]}))
    clean, page = render(example(), tmp_path), render(data, tmp_path)
    assert len(page.all("script")) == len(clean.all("script"))
    assert len(page.all("h1")) == 1
    assert not [k for _, a in page.elements for k in a if k.startswith("on")]
    assert page.texts["h1"] == EVIL[0]
    assert page.texts["command"] == EVIL[1]
    assert page.texts["config"] == EVIL[2]
    known = json.loads(page.texts["data"])
    assert sorted(known["ids"]) == sorted(ids)
    assert known["classes"] == list(EVIL[:3])
    assert "49" not in page.texts["clusters-title"]


def test_a_name_that_is_no_utf8_can_be_written(tmp_path):
    name = b"caf\xe9.png".decode("utf-8", "surrogateescape")
    page = render(example(ids=[name] * 60), tmp_path)
    assert set(json.loads(page.texts["data"])["ids"]) == {name}
    assert "caf?.png" in render(example(title=name), tmp_path).texts["h1"]


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"n": 40, "k": 1}, id="one cluster"),
        pytest.param({"n": 5, "k": 2}, id="five images"),
        pytest.param({"n": 1, "k": 1}, id="one image"),
        pytest.param({"n": 40, "k": 45, "labelled": False}, id="more clusters than images"),
        pytest.param({"metrics": ()}, id="no metrics"),
        pytest.param({"metrics": ({"epoch": 0, "loss": 1.0, "acc": float("nan")},)}, id="one epoch"),
        pytest.param({"features": torch.ones(60, 16)}, id="collapsed features"),
        pytest.param({"features": torch.arange(60.0)[:, None]}, id="one feature"),
        pytest.param({"clusters": torch.full((60,), -1)}, id="nothing clustered"),
        pytest.param({"n": 12, "size": 256}, id="large images"),
    ],
)
def test_odd_runs_still_give_a_page(tmp_path, change):
    page = render(example(**change), tmp_path)
    assert "clusters" in page.sections
    shown = " ".join(text for key, text in page.texts.items() if key in {"header", "main"})
    assert not re.search(r"\b(nan|NaN|inf|Infinity|None)\b", shown)
    json.loads(page.texts["data"], parse_constant=pytest.fail)


def test_clusters_without_images_are_counted_apart(tmp_path):
    page = render(example(clusters=torch.arange(60) % 2, n_asked=4), tmp_path)
    assert "30 to 30 images each; 2 more were asked for and are empty" in page.texts["dl"]


def test_the_same_run_gives_the_same_page(tmp_path):
    assert render(example(), tmp_path).source == render(example(), tmp_path).source


def test_features_alone_have_no_configuration_and_no_curves(tmp_path):
    page = render(example(labelled=False, metrics=(), config_yaml=""), tmp_path)
    assert page.sections == [*WORK, "reproduce"]
    assert not page.all("pre", id="config")


def test_a_sample_says_so(tmp_path):
    page = render(example(sizes=torch.tensor([20, 30, 50]), n_images=1234), tmp_path)
    assert "1\u202f234" in page.texts["dl"]
    assert "60 of them on this page, 1\u202f134 (91.9\u202f%) in no cluster" in page.texts["dl"]
    assert "20 to 50 images each" in page.texts["dl"]


def test_duplicates_and_outliers_have_sections(tmp_path):
    page = render(
        example(
            duplicates=[[Copy("image-1", "near", True), Copy("image-2", "near")]],
            outliers=["image-3"] * 500,
            more_outliers=1,
        ),
        tmp_path,
    )
    assert page.sections[4:6] == ["duplicates", "outliers"]
    assert "1 group of" in page.texts["duplicates"]
    assert "is marked keep" in " ".join(page.texts["duplicates"].split())
    without = render(example(duplicates=[[Copy("image-1", "near"), Copy("image-2", "near")]]), tmp_path)
    assert "keep" not in without.texts["duplicates"]
    assert "501 images far from all others; the first 500 are listed" in page.texts["outliers"]


def test_many_photos_stay_small(tmp_path):
    photo = torch.from_numpy(np.array(load_sample_image("china.jpg"))).permute(2, 0, 1)
    crops = [photo[:, y : y + 64, x : x + 64] for y in range(0, 360, 12) for x in range(0, 570, 19)]
    data = example(n=len(crops), k=100, pixels=torch.stack(crops))
    write_report(data, tmp_path / "report.html")
    assert len(crops) == 900
    # 25 MB for 20 000 thumbnails of 48 pixels are 2 MB for 900 of 64.
    assert 500_000 < (tmp_path / "report.html").stat().st_size < 2_000_000


def test_a_folder_that_is_a_file_is_a_users_mistake(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        write_report(example(metrics=ROWS), tmp_path / "file" / "report.html")
