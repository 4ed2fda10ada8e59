"""evaluation.json: written, read, and refused."""

import dataclasses
import functools
import json

import pytest
import torch
from tests.evaluation.examples import blobs, clustered, truth_of

from shoal.errors import UserError
from shoal.evaluation import Evaluation, evaluate, plain_baselines
from shoal.evaluation.result import Baseline

pytestmark = pytest.mark.usefixtures("no_umap")


@functools.cache
def full():
    features, labels = blobs(n_classes=7)
    truth = truth_of(labels, 60)
    found = evaluate(truth, features, clustered(features, 9), 0, knn=True, linear=True)
    return dataclasses.replace(found, baselines=plain_baselines(truth, features, clustered(features, 9), 0))


def test_what_was_written_is_read(tmp_path):
    found = full()
    found.save(tmp_path / "evaluation.json")
    assert Evaluation.load(tmp_path / "evaluation.json") == found
    raw = json.loads((tmp_path / "evaluation.json").read_text())
    assert raw["format"] == 3
    assert raw["scores"].keys() == {
        *("acc", "nmi", "ari", "fmi", "ami", "homogeneity", "completeness", "v_measure", "purity")
    }
    assert raw["linear"]["lars"] is None


def test_a_name_that_is_no_utf8(tmp_path):
    features, labels = blobs()
    truth = dataclasses.replace(
        truth_of(labels), classes=(b"caf\xe9".decode("utf-8", "surrogateescape"), "b", "c", "d")
    )
    found = evaluate(truth, features, clustered(features), 0)
    found.save(tmp_path / "evaluation.json")
    assert Evaluation.load(tmp_path / "evaluation.json") == found
    assert found.classes[0].name == "caf\\udce9"


def test_bare_figures_are_read_as_well(tmp_path):
    features, labels = blobs()
    found = evaluate(truth_of(torch.full_like(labels, -1)), features, clustered(features), 0)
    found.save(tmp_path / "evaluation.json")
    assert Evaluation.load(tmp_path / "evaluation.json") == found
    assert Evaluation.load(tmp_path / "nothing.json") is None


@pytest.mark.parametrize("kmeans", [{}, {"acc": 0.5, "purity": 0.75}])
def test_a_file_of_format_1_is_read(tmp_path, kmeans):
    path = tmp_path / "evaluation.json"
    found = full()
    found.save(path)
    raw = json.loads(path.read_text())
    del raw["baselines"]
    path.write_text(json.dumps({**raw, "format": 1, "kmeans": kmeans}))
    expected = [Baseline("k-means", "backbone", None, kmeans, None, None)] if kmeans else []
    assert Evaluation.load(path) == dataclasses.replace(found, baselines=expected)


def test_a_file_of_format_2_is_read(tmp_path):
    """It has a temperature, and no error over bins of equal size."""
    path = tmp_path / "evaluation.json"
    found = full()
    found.save(path)
    raw = json.loads(path.read_text())
    del raw["calibration"]["adaptive_error"]
    raw["calibration"]["temperature"] = 0.1
    path.write_text(json.dumps({**raw, "format": 2}))
    older = dataclasses.replace(found.calibration, adaptive_error=None)
    assert Evaluation.load(path) == dataclasses.replace(found, calibration=older)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        "{",
        "{}",
        '{"format": 1}',
        '{"format": 2}',
        '{"format": 3}',
        '{"format": 1, "kmeans": 3}',
        '{"format": "one"}',
        b"\xff",
        '{"format": 1, "images": "x"}',
    ],
)
def test_a_damaged_file(tmp_path, text):
    path = tmp_path / "evaluation.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match="is damaged: run 'shoal evaluate' to write it again"):
        Evaluation.load(path)


def test_a_newer_file(tmp_path):
    path = tmp_path / "evaluation.json"
    full().save(path)
    path.write_text(path.read_text().replace('"format": 3', '"format": 4'))
    with pytest.raises(UserError, match="newer version"):
        Evaluation.load(path)
