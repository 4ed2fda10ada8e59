"""The section of figures that an evaluation adds to the page."""

from __future__ import annotations

import dataclasses
import functools

import pytest
import torch
from tests.evaluation.examples import blobs, clustered, plain, truth_of
from tests.report.examples import example
from tests.report.test_page import EVIL, WORK, render

from shoal.evaluation import evaluate
from shoal.report.evaluated import BOTTOM, HEIGHT, TOP, evaluated


@functools.cache
def figures(n_test=60, n_classes=7, **asked):
    features, labels = blobs(n_classes=n_classes, spread=2.0)
    return evaluate(truth_of(labels, n_test), features, clustered(features, 3), 0, **asked)


def page_of(found, tmp_path):
    return render(dataclasses.replace(example(), evaluation=found), tmp_path)


def test_the_section_is_there_once_a_run_was_evaluated(tmp_path):
    assert "evaluation" not in render(example(), tmp_path).sections
    page = page_of(figures(), tmp_path)
    assert page.sections == [*WORK, "confusion", "evaluation", "training", "reproduce"]
    assert page.all("a", href="#evaluation")


def test_every_figure_is_shown(tmp_path):
    found = figures(knn=True, linear=True)
    text = page_of(found, tmp_path).texts["evaluation"]
    split = found.train_to_test
    shares = [found.scores["acc"], found.scores["purity"], split.scores["acc"], split.accuracy_matched_on_train]
    shares += [found.calibration.error, found.knn.accuracy.top1, found.knn.accuracy.top5, found.linear.sgd.top1]
    shares += [row.recall for row in found.classes]
    shares += [row.precision for row in found.classes if row.precision is not None]
    for share in shares:
        assert f"{100 * share:.1f}\u202f%" in text
    for name in ("nmi", "ami", "homogeneity", "completeness", "ari", "fmi"):
        assert f"{found.scores[name]:.3f}" in text
        assert f"{split.scores[name]:.3f}" in text
    assert "assigned to clusters found in the 180 images of the train part alone" in text
    assert "60 images, each among 180 train images" in text
    assert "trained on 180 images, tested on the test part (60 images)" in text
    assert f"{found.signals['silhouette']:.3f}" in text
    assert "LARS" not in text


def test_without_a_test_part_or_probes(tmp_path):
    text = page_of(figures(n_test=0), tmp_path).texts["evaluation"]
    assert "test part" not in text
    assert "Classifiers" not in text
    text = page_of(figures(n_test=0, knn=True, linear=True), tmp_path).texts["evaluation"]
    assert "each among all others" in text
    assert "tested on a random fifth" in text


def test_an_older_file_has_fewer_scores(tmp_path):
    found = figures()
    older = {key: found.scores[key] for key in ("acc", "nmi", "ari", "fmi", "purity")}
    text = page_of(dataclasses.replace(found, scores=older), tmp_path).texts["evaluation"]
    assert "AMI" not in text
    assert "FMI" in text


def test_bars_are_as_high_as_their_share_of_right_images():
    found = figures()
    bars = evaluated(found).bars
    assert len(bars) == len(found.calibration.bins)
    assert max(bar.weight for bar in bars) == 1
    for bar, each in zip(bars, found.calibration.bins, strict=True):
        assert bar.height == pytest.approx(each.accuracy * (HEIGHT - TOP - BOTTOM), abs=0.1)
        assert bar.y + bar.height == pytest.approx(HEIGHT - BOTTOM, abs=0.2)
        assert f"{each.images} images" in bar.text


def test_links_lead_to_the_clusters_of_the_page(tmp_path):
    page = page_of(figures(), tmp_path)
    ids = {a["id"] for _, a in page.elements if "id" in a} | {"cluster-0", "cluster-1", "cluster-2"}
    assert {a["href"][1:] for a in page.all("a")} <= ids
    assert page.source.count("<td>none</td>") == 4, "seven classes, three clusters"


def test_a_long_table_is_folded(tmp_path):
    page = page_of(figures(n_classes=30), tmp_path)
    assert page.all("details", **{"class": "classes"}) == [{"class": "classes"}]
    assert "open" in page_of(figures(), tmp_path).all("details", **{"class": "classes"})[0]


def test_without_labels_nothing_needs_classes(tmp_path):
    features, labels = blobs()
    bare = truth_of(torch.full_like(labels, -1))
    found = evaluate(bare, features, clustered(features), 0)
    page = page_of(dataclasses.replace(found, baselines=[plain(of="pixels", labelled=False)]), tmp_path)
    text = page.texts["evaluation"]
    assert "k-means on pixels" in text
    assert "0.712" in text
    assert "Silhouette" in text
    assert "ccuracy" not in text
    assert "true classes" not in text
    assert page.all("a", href="#evaluation")


def test_plain_methods_stand_beside(tmp_path):
    found = figures()
    rows = [plain(), plain("UMAP + k-means", "backbone", sampled=10000), plain(of="pixels", failed="it was <dark>")]
    text = page_of(dataclasses.replace(found, baselines=rows), tmp_path).texts["evaluation"]
    for figure in ("51.2\u202f%", "61.2\u202f%", "0.412", "0.312", "0.712", "k-means on pixels: it was <dark>"):
        assert figure in text
    assert "UMAP + k-means on backbone features *" in text
    assert "* on a random sample of 10000 images." in text
    assert "Compared with plain methods" not in page_of(found, tmp_path).texts["evaluation"]


def test_hostile_class_names_stay_text(tmp_path):
    found = figures(n_classes=5)
    rows = [dataclasses.replace(row, name=name) for row, name in zip(found.classes, EVIL, strict=True)]
    page = page_of(dataclasses.replace(found, classes=rows), tmp_path)
    assert len(page.all("script")) == len(render(example(), tmp_path).all("script"))
    assert not [k for _, a in page.elements for k in a if k.startswith("on")]
    assert all(name in page.texts["evaluation"] for name in EVIL)
