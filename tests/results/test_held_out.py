"""Held-out images with labels in the clusters of a result."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image, ImageOps
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import normalized_mutual_info_score
from tests.commands import complaint, photos
from tests.results.conftest import COLOURS, photograph

from shoal.cli.main import main
from shoal.data import to_images
from shoal.results.result import Result
from shoal.training.trained import Trained


@pytest.mark.usefixtures("own_cache")
def test_held_out_images_of_a_run(run, tmp_path, capsys):
    """Half of them were trained on, under other names."""
    held, out = tmp_path / "held", tmp_path / "figures.json"
    for number, file in enumerate(sorted((run.parent / "pictures").rglob("*.png"))[::10]):
        other = held / file.parent.name / f"{number}.png"
        other.parent.mkdir(parents=True, exist_ok=True)
        if number % 2:
            shutil.copy(file, other)
        else:
            ImageOps.mirror(Image.open(file)).save(other)
    assert main(["evaluate", str(run), str(held), "--out", str(out)]) == 0
    text = capsys.readouterr().out
    assert "20 images, all labelled, 20 held out; 4 clusters" in text
    assert "10 of these images are among those that the clusters were made of" in text
    figures = json.loads(out.read_text())
    assert (figures["labelled"], figures["trained_on"]) == (20, 10)

    images, trained, result = to_images(held), Trained.load(run), Result.load(run)
    clusters = (trained.embed(images) @ trained.centers.T).argmax(1).numpy()
    targets = images.targets.numpy()
    assert figures["scores"]["nmi"] == pytest.approx(normalized_mutual_info_score(targets, clusters))
    votes = np.zeros((4, 4), int)
    np.add.at(votes, (result.labels, result.embedded.targets), 1)
    matched = linear_sum_assignment(-votes)[1]
    assert figures["matched_before"] == pytest.approx((matched[clusters] == targets).mean())
    assert not (run / "held_out").exists()

    assert main(["evaluate", str(run), str(held), "--out", str(out)]) == 2
    assert "figures.json exists already" in complaint(capsys)
    for more in (["--knn"], ["--merge-to", "3"]):
        assert main(["evaluate", str(run), str(held), *more]) == 2
        assert "only clusters are measured" in complaint(capsys)
    assert main(["evaluate", str(run), str(photos(tmp_path / "flat", n=3))]) == 2
    assert "scores need labels, and these images have none: give each class a subfolder" in complaint(capsys)


def test_held_out_images_of_a_pretrained_network(clusters, photos, tmp_path, capsys):
    for colour in (*COLOURS, "red"):
        photograph(tmp_path / "held" / colour, colour, 50)
    photograph(tmp_path / "held" / "purple", "red", 51)
    shutil.copy(next(photos.glob("blue*")), tmp_path / "held" / "blue" / "seen.png")
    assert main(["evaluate", str(clusters), str(tmp_path / "held")]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "6 images, all labelled, 6 held out; 4 clusters" in text
    assert "4 clusters and 5 classes: the accuracy matches one to one, the purity is that of the best" in text
    assert "1 of these images is among those that the clusters were made of" in text
    assert "Accuracy (one-to-one matching) 0.8333" in text
    assert "the run's own labels" not in text


def test_clusters_of_features_take_no_images(tmp_path, capsys):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(20, 3)))
    assert main(["cluster", str(tmp_path / "x.npy"), "-k", "2", "--out", str(tmp_path / "c"), "--quiet"]) == 0
    assert main(["evaluate", str(tmp_path / "c"), str(photos(tmp_path / "flat", n=3))]) == 2
    assert "holds clusters of features, so no images can be put into them" in complaint(capsys)
