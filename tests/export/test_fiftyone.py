"""The labels that FiftyOne imports.

The format was checked with the importer of FiftyOne 1.22.1, which reads labels, confidences and attributes.
"""

import json
from pathlib import Path

from tests.export.conftest import ODD

from shoal.cli.main import main


def test_labels_go_by_the_paths_of_the_images_which_stay_in_place(decided, photos, tmp_path, capsys):
    folder, cluster = decided
    out = tmp_path / "out"
    assert main(["export", str(folder), str(out), "--to", "fiftyone"]) == 0
    assert capsys.readouterr().out == f"labels       {out / 'labels.json'}, 32 images\n"
    content = json.loads((out / "labels.json").read_text(encoding="utf-8"))
    assert {*content} == {"labels"}  # with classes FiftyOne would take labels for their places
    labels = content["labels"]
    assert {Path(key) for key in labels} == {*photos.iterdir()}
    assert labels[str(photos / "blue-0.png")] is None
    said = labels[str(photos / "red-3.png")]
    assert said["label"] == ODD
    assert 0.5 < said["confidence"] <= 1
    assert said["attributes"] == {"cluster": cluster["red"], "said_by": "shoal"}
    assert labels[str(photos / "blue-1.png")]["attributes"] == {"cluster": cluster["red"], "said_by": "person"}
    assert labels[str(photos / "green-3.png")]["label"] == labels[str(photos / "blue-3.png")]["label"] == "same"
    assert (out / "data").is_dir()  # the importer refuses a folder without it
    assert not any((out / "data").iterdir())
