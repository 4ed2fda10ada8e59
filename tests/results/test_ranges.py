"""Greys of many bits from the command: one scale, told, kept for new images, and the same after an interruption."""

import csv
import json

import numpy as np
import pytest
import torch
from PIL import Image

from shoal.cli.main import main
from shoal.features import extract, filling, open_embedded
from shoal.features.embedded import read_header
from shoal.results.result import Result

pytestmark = pytest.mark.usefixtures("no_umap")


@pytest.fixture
def cells(tmp_path, monkeypatch):
    """24 greys of 12 bits, one half twice as bright as the other, and the same at full range."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SHOAL_CACHE", str(tmp_path / "cache"))
    for folder in ("cells", "full", "new"):
        (tmp_path / folder).mkdir()
    for number in range(24):
        rng = np.random.default_rng(number)
        values = np.kron(rng.integers(0, 4096 // (1 + number % 2), (8, 8)), np.ones((5, 5), int)).astype(np.uint16)
        Image.fromarray(values).save(tmp_path / f"cells/{number:02}.tif")
        Image.fromarray(values * 16).save(tmp_path / f"full/{number:02}.tif")
    Image.fromarray(values // 8).save(tmp_path / "new/a.png")
    return tmp_path


def said(capsys):
    return [line for line in capsys.readouterr().err.splitlines() if line.startswith("range")]


@pytest.mark.slow
def test_twelve_bits_become_the_clusters_of_sixteen(cells, network, capsys):
    assert main(["cluster", "cells", "-k", "3", *network]) == 0
    assert said(capsys) == [
        "range        0 to 4095 of uint16 is shown as black to white; --data.range LOW HIGH sets another"
    ]
    assert main(["cluster", "full", "-k", "3", *network]) == 0
    deep, full = Result.load(cells / "clusters/cells"), Result.load(cells / "clusters/full")
    assert deep.embedded.ranges == {"uint16": (0, 4095)}
    assert full.embedded.ranges == {"uint16": (0, 65535)}
    assert torch.equal(deep.assignments.labels, full.assignments.labels)
    assert main(["predict", "clusters/cells", "cells", "--out", "again.csv"]) == 0
    with (cells / "again.csv").open(newline="") as file:
        assert [int(row["cluster"]) for row in csv.DictReader(file)] == deep.assignments.labels.tolist()


@pytest.mark.usefixtures("cells")
def test_a_new_image_is_as_bright_as_it_was_among_the_others(network, monkeypatch):
    assert main(["cluster", "cells", "-k", "3", *network]) == 0
    seen, real = [], filling.decode_blob
    monkeypatch.setattr(filling, "decode_blob", lambda *given, **how: seen.append(real(*given, **how)) or seen[-1])
    assert main(["predict", "clusters/cells", "new", "--out", "new.csv"]) == 0
    assert seen[0].pixels.max() < 255 / 8  # alone, it would reach 255


def test_a_chosen_range_is_kept(cells, network, capsys):
    assert main(["cluster", "cells", "-k", "2", "--data.range", "0", "16383", *network]) == 0
    assert "0 to 16383 is shown as black to white" in said(capsys)[0]
    result = Result.load(cells / "clusters/cells")
    assert result.embedded.ranges == {"any": (0, 16383)}
    assert main(["cluster", "cells", "-k", "2", "--data.range", "9", "3", *network]) == 2
    assert "--data.range 9 3 must be two numbers, the smaller one first" in capsys.readouterr().err
    assert main(["cluster", "clusters/cells", "-k", "2", "--out", "b", "--data.range", "0", "9"]) == 2
    assert "has features already" in capsys.readouterr().err


def test_another_range_does_not_go_on_in_a_folder_that_was_begun(cells, network, monkeypatch, capsys):
    def stop(done, _total):
        if done > 20:
            raise KeyboardInterrupt

    monkeypatch.setattr(filling, "_COMMIT_SECONDS", 0.0)
    monkeypatch.setattr("shoal.features.extract.choose_batch_size", lambda _encoder: 4)
    from shoal.progress import Progress

    monkeypatch.setattr(Progress, "counter", lambda *_: stop)
    with pytest.raises(KeyboardInterrupt):
        main(["cluster", "cells", "-k", "2", "--data.range", "0", "99", "--quiet", *network])
    monkeypatch.undo()
    monkeypatch.chdir(cells)
    assert main(["cluster", "cells", "-k", "2", "--quiet", *network]) == 2
    assert "begun with another --data.range" in capsys.readouterr().err


@pytest.mark.parametrize("stop_at", [4, 12, 23])
def test_an_interrupted_embedding_resumes_bit_for_bit(cells, network, monkeypatch, stop_at):
    assert main(["cluster", "cells", "-k", "2", "--out", "whole", "--quiet", *network]) == 0
    whole = open_embedded(cells / "whole/features")

    def stop(done, _total):
        if done > stop_at:
            raise KeyboardInterrupt

    from shoal.progress import Progress

    with monkeypatch.context() as patch:
        patch.setattr(filling, "_COMMIT_SECONDS", 0.0)
        patch.setattr(extract, "choose_batch_size", lambda _: 4)
        patch.setattr(Progress, "counter", lambda *_: stop)
        with pytest.raises(KeyboardInterrupt):
            main(["cluster", "cells", "-k", "2", "--out", "b", "--quiet", *network])
    assert main(["cluster", "cells", "-k", "2", "--out", "b", "--quiet", *network]) == 0
    resumed = open_embedded(cells / "b/features")
    assert resumed.ranges == whole.ranges
    torch.testing.assert_close(resumed.features, whole.features, rtol=0, atol=1e-5)  # batches of another size


def test_features_of_an_older_version_keep_its_range(cells, network):
    assert main(["cluster", "cells", "-k", "2", "--quiet", *network]) == 0
    header = cells / "clusters/cells/features/header.json"
    values = json.loads(header.read_text())
    del values["ranges"]
    header.write_text(json.dumps(values | {"format": 1}))
    assert read_header(header.parent).ranges == {"uint16": (0, 65535)}


def test_what_an_image_lacks_is_in_the_list(cells, network, caplog):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8))
    noise.resize((300, 200)).save(cells / "full/cut.jpg", quality=92)
    data = (cells / "full/cut.jpg").read_bytes()
    (cells / "full/cut.jpg").write_bytes(data[: int(0.85 * len(data))])
    assert main(["cluster", "full", "-k", "2", *network]) == 0
    with (cells / "clusters/full/skipped.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["id"] == "cut.jpg"
    assert row["reason"].startswith("kept although truncated: ")
    with (cells / "clusters/full/assignments.csv").open(newline="") as file:
        assert "cut.jpg" in [row["id"] for row in csv.DictReader(file)]
    assert "1 image lacks a part: cut.jpg" in caplog.text


def test_images_beyond_the_range_are_told(cells, network, caplog):
    assert main(["cluster", "cells", "-k", "2", *network]) == 0
    assert "clipped" not in caplog.text
    for name in ("00", "02"):
        (cells / f"full/{name}.tif").rename(cells / f"cells/bright-{name}.tif")
    values = np.asarray(Image.open(cells / "cells/bright-00.tif"))
    told = (
        "2 images are brighter or darker than the range that was measured, and clipped, such as bright-00.tif (its "
        f"values are {values.min()} to {values.max()}, and 0 to 4095 are shown as black to white): to tell "
        "their values apart, embed all"
    )
    for command in (["predict", "clusters/cells", "cells", "--out", "a.csv"], ["update", "clusters/cells"]):
        caplog.clear()
        assert main(command) == 0
        assert told in caplog.text
    with (cells / "clusters/cells/skipped.csv").open(newline="") as file:
        assert [row["id"] for row in csv.DictReader(file)] == ["bright-00.tif", "bright-02.tif"]
    caplog.clear()
    assert main(["cluster", "cells", "-k", "2", "--out", "wide", "--data.range", "0", "65535", *network]) == 0
    assert "clipped" not in caplog.text
