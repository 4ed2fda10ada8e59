"""The confidence of a result is calibrated, saved with it, and the same wherever it is asked for."""

from dataclasses import asdict

import numpy as np
import pytest
import torch
from tests.results.conftest import COLOURS, photograph

from shoal.cli.main import main
from shoal.evaluation.calibration import calibration
from shoal.evaluation.metrics import matched_class
from shoal.evaluation.result import Evaluation
from shoal.results.deciding import record
from shoal.results.result import Result
from shoal.results.tables import read_assignments
from shoal.tensors import read_tensors, write_tensors


def own_of(shares, labels):
    return shares.gather(1, labels[:, None])[:, 0].float()


def edit(path, kept):
    header, tensors = read_tensors(path)
    write_tensors(path, {**header, "calibration": kept}, tensors)


def test_table_and_predictions_have_the_same_calibrated_confidence(clusters, tmp_path):
    found = Result.load(clusters)
    assert found.calibration is not None
    labels, confidence = found.assignments.labels, found.assignments.confidence
    torch.testing.assert_close(own_of(found.model.predict_proba(found.features), labels), confidence)
    assert not torch.allclose(own_of(found.clusterer.predict_proba(found.features), labels), confidence, atol=1e-3)
    torch.testing.assert_close(own_of(found.model.as_module()(found.features), labels), confidence)
    assert main(["predict", str(clusters), "photos", "--out", "same.parquet"]) == 0
    again = read_assignments(tmp_path / "same.parquet")[1]
    torch.testing.assert_close(again.confidence, confidence, rtol=1e-4, atol=1e-5)


def test_an_update_has_it_as_well(clusters, photos):
    confidence = Result.load(clusters).assignments.confidence
    for colour in COLOURS:
        photograph(photos, colour, 99)
    assert main(["update", str(clusters)]) == 0
    found = Result.load(clusters)
    assert found.calibration is not None
    new = torch.tensor(["99" in name for name in found.ids])
    assert new.sum() == 4
    torch.testing.assert_close(found.assignments.confidence[~new], confidence)
    labels = found.assignments.labels[new]
    own = own_of(found.posterior.predict_proba(found.features[new]), labels)
    torch.testing.assert_close(found.assignments.confidence[new], own)


def test_merged_clusters_have_the_sum(clusters):
    before = Result.load(clusters)
    shares = before.model.predict_proba(before.features)
    merged = record(before, [{"do": "merge", "clusters": [0], "into": 1}]).model.predict_proba(before.features)
    torch.testing.assert_close(merged, torch.stack([shares[:, 0] + shares[:, 1], shares[:, 2], shares[:, 3]], 1))


def test_a_result_of_before_keeps_the_probabilities_of_its_method(clusters, tmp_path):
    edit(clusters / "clustering.safetensors", None)
    found = Result.load(clusters)
    assert found.posterior is found.clusterer
    assert main(["predict", str(clusters), "photos", "--out", "same.parquet"]) == 0
    again = read_assignments(tmp_path / "same.parquet")[1]
    torch.testing.assert_close(again.confidence, own_of(found.clusterer.predict_proba(found.features), again.labels))


@pytest.mark.parametrize(
    "kept",
    [
        3,
        {"temperature": 1.0},
        {"temperature": "warm", "odds": [0.0], "right": [1.0]},
        {"temperature": -1.0, "odds": [0.0], "right": [1.0]},
        {"temperature": 1.0, "odds": [0.0, 0.0], "right": [1.0, 2.0]},
        {"temperature": 1.0, "odds": [[0.0]], "right": [1.0]},
    ],
)
def test_a_damaged_calibration_is_told_in_a_sentence(clusters, kept, capsys):
    edit(clusters / "clustering.safetensors", kept)
    assert main(["predict", str(clusters), "photos", "--out", "new.csv"]) == 2
    assert "clustering.safetensors is damaged" in capsys.readouterr().err


@pytest.mark.usefixtures("photos", "no_umap")
@pytest.mark.parametrize(("k", "sure"), [("1", 1.0), ("31", None)])
def test_one_cluster_and_nearly_as_many_as_images(network, k, sure, tmp_path):
    assert main(["cluster", "photos", "-k", k, *network]) == 0
    found = Result.load(tmp_path / "clusters/photos")
    assert found.calibration is None
    assert ((found.assignments.confidence >= 0) & (found.assignments.confidence <= 1)).all()
    if sure is not None:
        assert (found.assignments.confidence == sure).all()


@pytest.mark.usefixtures("no_umap")
def test_evaluate_measures_what_the_table_says(photos, network, tmp_path, capsys):
    for photo in [*photos.iterdir()]:
        folder = photos / photo.name.partition("-")[0]
        folder.mkdir(exist_ok=True)
        photo.rename(folder / photo.name)
    assert main(["cluster", "photos", "-k", "4", *network]) == 0
    assert main(["evaluate", "clusters/photos"]) == 0
    found = Result.load(tmp_path / "clusters/photos")
    said = Evaluation.load(tmp_path / "clusters/photos/evaluation.json").calibration
    targets, labels = found.embedded.targets, found.assignments.labels
    right = torch.from_numpy(matched_class(targets, labels, 4))[labels] == targets
    expected = calibration(found.assignments.confidence, right)
    assert asdict(said)["error"] == pytest.approx(expected.error, abs=1e-9)
    text = capsys.readouterr().out
    assert f"Expected calibration error {expected.error:>15.4f}".split()[-1] in text
    assert "Confidence" in text


@pytest.mark.usefixtures("no_umap")
def test_no_confidence_is_larger_than_one(tmp_path, monkeypatch):
    """Votes are summed and rounded."""
    monkeypatch.chdir(tmp_path)
    np.save("rows.npy", np.random.default_rng(0).normal(size=(60, 32)).astype(np.float32))
    assert main(["cluster", "rows.npy", "--method", "umap-kmeans", "-k", "1", "--out", "one"]) == 0
    assert Result.load(tmp_path / "one").assignments.confidence.max() <= 1
