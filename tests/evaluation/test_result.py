"""evaluation.json: written, read, and refused."""

import dataclasses
import json

import pytest
import torch
from tests.evaluation.examples import blobs, clustered, truth_of

from shoal.errors import UserError
from shoal.evaluation import Evaluation, evaluate


def full():
    features, labels = blobs(n_classes=7)
    truth = truth_of(labels, 60)
    return evaluate(truth, features, clustered(features, 9), 0, knn=True, linear=True)


def test_what_was_written_is_read(tmp_path):
    found = full()
    found.save(tmp_path / "evaluation.json")
    assert Evaluation.load(tmp_path / "evaluation.json") == found
    raw = json.loads((tmp_path / "evaluation.json").read_text())
    assert raw["format"] == 1
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


@pytest.mark.parametrize(
    "text", ["", "[]", "null", "{", "{}", '{"format": 1}', '{"format": "one"}', b"\xff", '{"format": 1, "images": "x"}']
)
def test_a_damaged_file(tmp_path, text):
    path = tmp_path / "evaluation.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match="is damaged: 'shoal evaluate' writes it again"):
        Evaluation.load(path)


def test_a_newer_file(tmp_path):
    path = tmp_path / "evaluation.json"
    full().save(path)
    path.write_text(path.read_text().replace('"format": 1', '"format": 2'))
    with pytest.raises(UserError, match="newer version"):
        Evaluation.load(path)
