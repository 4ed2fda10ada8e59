"""Tasks and labels of Label Studio.

The format was checked with label-studio-sdk 2.1.2, whose parser takes the labels, and all predictions and annotations.
"""

import json
import os
import zipfile
from pathlib import Path
from urllib.parse import parse_qs, urlsplit
from xml.etree import ElementTree

from PIL import Image
from tests.export.conftest import ODD

from shoal.cli.main import main


def exported(folder):
    """The labels, and the tasks by the names of their files."""
    config = ElementTree.parse(folder / "config.xml").getroot()
    tasks = json.loads((folder / "tasks.json").read_text(encoding="utf-8"))
    return config, {task["data"]["file"]: task for task in tasks}


def served(task):
    """The file that Label Studio serves with its document root at /."""
    url = urlsplit(task["data"]["image"])
    assert url.path == "/data/local-files/"
    return Path("/", *parse_qs(url.query)["d"])


def test_predictions_are_of_shoal_and_annotations_of_a_person(decided, photos, tmp_path, capsys):
    folder, cluster = decided
    (photos / "grey-0.png").rename(photos / "a b & 100%?d=#ü.png")
    out = tmp_path / "out"
    assert main(["export", str(folder), str(out), "--to", "label-studio"]) == 0
    assert "32 images, 3 of them annotated by a person" in capsys.readouterr().out
    config, tasks = exported(out)
    choices, shown = config.find("Choices"), config.find("Image")
    grey = f"cluster {cluster['grey']:02}"
    assert sorted(choice.get("value") for choice in choices) == sorted([ODD, "same", grey])
    assert (shown.get("name"), shown.get("value")) == (choices.get("toName"), "$image")
    (prediction,) = tasks["red-3.png"]["predictions"]
    assert prediction["model_version"].startswith("shoal ")
    assert 0.5 < prediction["score"] <= 1
    (region,) = prediction["result"]
    assert (region["from_name"], region["to_name"]) == (choices.get("name"), shown.get("name"))
    assert (region["type"], region["value"]) == ("choices", {"choices": [ODD]})
    assert tasks["blue-0.png"]["annotations"] == [{"result": []}]
    assert tasks["blue-1.png"]["annotations"][0]["result"][0]["value"] == {"choices": [ODD]}
    assert not any("predictions" in tasks[name] for name in ("blue-0.png", "blue-1.png", "red-0.png"))
    for name in ("green", "blue"):
        assert tasks[f"{name}-3.png"]["data"]["cluster"] == cluster[name]
    answers = [each for task in tasks.values() for key in ("predictions", "annotations") for each in task.get(key, ())]
    regions = [region["id"] for answer in answers for region in answer["result"]]
    assert len(regions) == len({*regions}) == 31
    assert {served(task) for task in tasks.values()} == {*photos.iterdir()}
    assert {path.name for path in out.iterdir()} == {"config.xml", "tasks.json"}


def test_files_whose_names_are_no_text_are_copied(clusters, photos, tmp_path, capsys):
    photo = photos / "red-0.png"
    content = photo.read_bytes()
    odd = Path(os.fsdecode(bytes(photos) + b"/\xff<&>.png"))
    photo.rename(odd)
    out = tmp_path / "out"
    assert main(["export", str(clusters), str(out), "--to", "label-studio"]) == 0
    tasks = exported(out)[1]
    (copy,) = (out / "images").iterdir()
    assert copy.read_bytes() == content
    assert served(tasks["\\udcff<&>.png"]) == copy
    assert odd.read_bytes() == content
    assert main(["export", str(clusters), str(photos / "out"), "--to", "label-studio"]) == 2
    assert "images have to be copied" in capsys.readouterr().err
    assert not (photos / "out").exists()


def test_images_of_an_archive_are_copied_and_named_by_what_they_are_called(photos, tmp_path, network, capsys):
    archive = tmp_path / "photos.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for photo in sorted(photos.iterdir()):
            file.write(photo, f"in <side>/{photo.name}")
    assert main(["cluster", str(archive), "-k", "4", "--out", str(tmp_path / "clusters"), "--quiet", *network]) == 0
    made = {to: tmp_path / to for to in ("label-studio", "fiftyone", "xmp")}
    for to, out in made.items():
        assert main(["export", str(tmp_path / "clusters"), str(out), "--to", to]) == 0
    tasks = exported(made["label-studio"])[1]
    labels = json.loads((made["fiftyone"] / "labels.json").read_text())["labels"]
    assert len(tasks) == len(labels) == 32
    for name, task in tasks.items():
        with Image.open(photos / Path(name).name) as wanted, Image.open(served(task)) as found:
            assert found.tobytes() == wanted.tobytes()
        (region,) = task["predictions"][0]["result"]
        said = labels[served(task).stem]
        assert [said["label"]] == region["value"]["choices"]
        assert (made["fiftyone"] / "data" / served(task).name).read_bytes() == served(task).read_bytes()
        assert (made["xmp"] / "photos.zip" / "in side" / f"{Path(name).name}.xmp").is_file()
    capsys.readouterr()
    assert main(["export", str(tmp_path / "clusters"), str(made["fiftyone"]), "--to", "fiftyone"]) == 2
    assert "exists and is not an empty folder" in capsys.readouterr().err
