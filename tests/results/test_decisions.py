"""What a person decides is kept, and everything reads it."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pyarrow.parquet
import pytest
import torch
from tests.results.conftest import photograph

from shoal.cli.main import main
from shoal.decisions.log import DecisionLog
from shoal.decisions.replay import Replayed
from shoal.errors import UserError
from shoal.results.decided import Decided, Learned
from shoal.results.deciding import record
from shoal.results.finish import rewrite, rewrite_tables
from shoal.results.model import Model
from shoal.results.outliers import Outlier, write_outliers
from shoal.results.result import Result


def labels_of(result):
    """Cluster of each image by its name."""
    return dict(zip(result.ids, result.assignments.labels.tolist(), strict=True))


def colours_of(result):
    """The present cluster of the images of each colour; they are of one cluster each."""
    found = {}
    for name, label in labels_of(result).items():
        found.setdefault(name.partition("-")[0], set()).add(label)
    return {colour: min(labels) for colour, labels in found.items() if len(labels) == 1}


@pytest.fixture
def result(clusters):
    return Result.load(clusters)


def decide(result, *decisions):
    with result.folder.alone():
        return record(result, decisions)


def test_a_merge_a_name_and_a_move_are_read_again(result, clusters):
    colour = colours_of(result)
    decide(
        result,
        {"do": "merge", "clusters": [colour["green"]], "into": colour["red"]},
        {"do": "rename", "cluster": colour["red"], "name": "warm"},
        {"do": "move", "images": ["blue-0.png"], "cluster": colour["grey"]},
        {"do": "move", "images": ["blue-1.png"], "cluster": -1},
    )
    again = Result.load(clusters)
    found = labels_of(again)
    assert {found[f"{name}-{seed}.png"] for name in ("red", "green") for seed in range(8)} == {colour["red"]}
    assert found["blue-0.png"] == colour["grey"]
    assert found["blue-1.png"] == -1
    assert again.names == {colour["red"]: "warm"}
    assert again.model.numbers.tolist() == sorted({colour["red"], colour["blue"], colour["grey"]})
    place = list(again.ids).index("blue-1.png")
    assert again.assignments.confidence[place] == 0
    assert torch.isnan(again.assignments.distance[place])
    assert again.assignments.confidence[list(again.ids).index("blue-0.png")] == 1


def test_undo_takes_back_the_last_decision_that_counts(result, clusters):
    before = labels_of(result)
    colour = colours_of(result)
    result = decide(result, {"do": "move", "images": ["blue-0.png"], "cluster": colour["red"]})
    merge = {"do": "merge", "clusters": [colour["green"]], "into": colour["red"]}
    result = decide(result, merge, {"do": "rename", "cluster": colour["red"], "name": "warm"})
    result = decide(result, {"do": "undo"})  # both, since they were taken together
    assert result.names == {}
    assert labels_of(result) == before | {"blue-0.png": colour["red"]}
    result = decide(result, {"do": "undo"})
    assert labels_of(result) == before
    result = decide(result, {"do": "undo"})  # there is nothing left
    rewrite(result)
    assert labels_of(Result.load(clusters)) == before
    assert result.assignments.confidence == pytest.approx(result.clustered[1].confidence, abs=1e-6)


def test_tables_report_and_centres_follow_once_they_are_written_again(result, clusters):
    colour = colours_of(result)
    result = decide(
        result,
        {"do": "merge", "clusters": [colour["green"], colour["blue"]], "into": colour["red"]},
        {"do": "rename", "cluster": colour["red"], "name": "colours"},
    )
    rewrite(result)
    with (clusters / "assignments.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["name"] for row in rows if not row["id"].startswith("grey")} == {"colours"}
    assert {int(row["cluster"]) for row in rows} == {colour["red"], colour["grey"]}
    assert len(np.load(clusters / "centers.npy")) == 2
    with (clusters / "representatives.csv").open() as file:
        assert {int(row["cluster"]) for row in csv.DictReader(file)} == {colour["red"], colour["grey"]}
    assert {*pyarrow.parquet.read_table(clusters / "atlas.parquet")["cluster"].to_pylist()} == {
        colour["red"],
        colour["grey"],
    }
    assert "colours" in (clusters / "report.html").read_text()


def test_a_split_is_followed_by_new_images(result, clusters, tmp_path):
    colour = colours_of(result)
    # All in one cluster, which is then split by hand.
    result = decide(
        result,
        {"do": "merge", "clusters": [colour["green"]], "into": colour["red"]},
        {"do": "merge", "clusters": [colour["blue"]], "into": colour["grey"]},
        {
            "do": "split",
            "cluster": colour["red"],
            "parts": [{"cluster": 9, "images": [f"green-{i}.png" for i in range(8)]}],
        },
        {"do": "new", "cluster": 12, "images": [f"blue-{i}.png" for i in range(8)], "name": "sky"},
    )
    for name in ("red", "green", "blue", "grey"):
        photograph(tmp_path / "more", name, 50)
    assert main(["predict", str(clusters), "more", "--out", "more.csv"]) == 0
    with (tmp_path / "more.csv").open() as file:
        found = {row["id"]: (int(row["cluster"]), row["name"]) for row in csv.DictReader(file)}
    assert found == {
        "blue-50.png": (12, "sky"),
        "green-50.png": (9, ""),
        "grey-50.png": (colour["grey"], ""),
        "red-50.png": (colour["red"], ""),
    }


@pytest.mark.slow
def test_the_graph_has_mergers_splits_and_names(result, clusters, tmp_path):
    colour = colours_of(result)
    result = decide(
        result,
        {"do": "merge", "clusters": [colour["green"], colour["blue"]], "into": colour["red"]},
        {
            "do": "split",
            "cluster": colour["red"],
            "parts": [{"cluster": 7, "images": [f"blue-{i}.png" for i in range(8)]}],
        },
        {"do": "rename", "cluster": 7, "name": "some blues"},
    )
    assert main(["export", str(clusters), "net.onnx"]) == 0
    session = onnxruntime.InferenceSession("net.onnx", providers=["CPUExecutionProvider"])
    about = session.get_modelmeta().custom_metadata_map
    assert json.loads(about["shoal.numbers"]) == result.model.numbers.tolist()
    assert json.loads(about["shoal.clusters"]) == {"7": "some blues"}
    assert main(["predict", str(clusters), "photos", "--out", "again.csv"]) == 0
    with Path("again.csv").open() as file:
        wanted = [int(row["cluster"]) for row in csv.DictReader(file)]
    pixels = np.stack([result.network.prepare((tmp_path / "photos" / name).read_bytes()) for name in result.ids])
    cluster, probabilities = session.run(["cluster", "probabilities"], {"images": pixels.astype(np.float32) / 255})
    assert cluster.tolist() == wanted
    assert probabilities.sum(1) == pytest.approx(np.ones(32), abs=1e-5)


@pytest.mark.usefixtures("no_umap")
def test_sort_and_evaluate_follow(result, clusters, tmp_path):
    colour = colours_of(result)
    decide(
        result,
        {"do": "merge", "clusters": [colour["green"]], "into": colour["red"]},
        {"do": "rename", "cluster": colour["red"], "name": "warm"},
        {"do": "move", "images": ["blue-1.png"], "cluster": -1},
    )
    assert main(["sort", str(clusters), "--copy", "sorted", "--yes"]) == 0
    assert len(list((tmp_path / "sorted" / "warm").iterdir())) == 16
    assert not list((tmp_path / "sorted").rglob("blue-1.png"))
    assert main(["evaluate", str(clusters)]) == 0


def test_an_update_carries_names_splits_and_places(result, clusters, tmp_path):
    colour = colours_of(result)
    result = decide(
        result,
        {"do": "merge", "clusters": [colour["green"]], "into": colour["red"]},
        {"do": "rename", "cluster": colour["red"], "name": "warm"},
        {"do": "new", "cluster": 4, "images": [f"blue-{i}.png" for i in range(4)], "name": "sky"},
        {"do": "move", "images": ["grey-0.png", "grey-1.png", "grey-2.png"], "cluster": colour["red"]},
    )
    photos = tmp_path / "photos"
    (photos / "grey-0.png").rename(photos / "stone.png")
    (photos / "grey-1.png").unlink()
    photograph(photos, "blue", 77).replace(photos / "grey-2.png")
    for name in ("red", "green"):
        photograph(photos, name, 50)
    (photos / "blue-1.png").unlink()
    assert main(["update", str(clusters)]) == 0
    again = Result.load(clusters)
    found = labels_of(again)
    assert found["stone.png"] == colour["red"]  # it has moved along
    assert found["grey-2.png"] in (colour["blue"], 4)  # another image: what was said of the old one has lapsed
    assert found["green-50.png"] == found["red-50.png"] == colour["red"]
    assert {found[f"blue-{i}.png"] for i in (0, 2, 3)} == {4}
    assert again.names == {colour["red"]: "warm", 4: "sky"}
    with (clusters / "assignments.csv").open() as file:
        assert {row["id"]: int(row["cluster"]) for row in csv.DictReader(file)} == found
    # What was decided before can still be undone.
    undone = labels_of(decide(again, {"do": "undo"}))
    assert undone["stone.png"] == colour["grey"]
    assert undone["blue-0.png"] == colour["blue"]


def test_half_a_line_is_as_if_it_had_never_been(result, clusters):
    colour = colours_of(result)
    result = decide(result, {"do": "rename", "cluster": 0, "name": "first"})
    log = clusters / "decisions.jsonl"
    with log.open("a") as file:
        file.write('{"do": "rename", "cluster": 0, "na')
    assert Result.load(clusters).names == {0: "first"}
    decide(Result.load(clusters), {"do": "rename", "cluster": 1, "name": "second"})
    assert Result.load(clusters).names == {0: "first", 1: "second"}
    assert len(log.read_text().splitlines()) == 2
    assert colour


def test_a_last_line_whose_end_an_editor_took_away_counts(result, clusters):
    result = decide(result, {"do": "rename", "cluster": 0, "name": "first"})
    log = clusters / "decisions.jsonl"
    log.write_bytes(log.read_bytes().removesuffix(b"\n"))
    assert Result.load(clusters).names == {0: "first"}
    assert DecisionLog(log).size == DecisionLog(log).read()[1] == log.stat().st_size
    decide(Result.load(clusters), {"do": "rename", "cluster": 1, "name": "second"})
    assert Result.load(clusters).names == {0: "first", 1: "second"}


KILLED = """
import sys
from pathlib import Path
from shoal.decisions.log import DecisionLog
log = DecisionLog(Path(sys.argv[1]))
print("ready", flush=True)
for i in range(10**6):
    log.append([{"do": "move", "images": [f"image {n}" for n in range(200)], "cluster": i}])
"""


def test_a_kill_leaves_whole_lines(tmp_path):
    path = tmp_path / "decisions.jsonl"
    for _ in range(3):
        with subprocess.Popen([sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE) as process:
            process.stdout.readline()
            while DecisionLog(path).size < 20_000:
                pass
            os.kill(process.pid, signal.SIGKILL)
        found, size = DecisionLog(path).read()
        assert [each["cluster"] for each in found] == list(range(len(found)))
        path.unlink()
        assert size > 0


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("nonsense", "line 1"),
        ('{"do": "fly"}', "nothing that can be done"),
        ('{"do": "move", "images": "a.png", "cluster": 1}', "lacks its images"),
        ('{"do": "move", "images": [], "cluster": -2}', "lacks its cluster"),
        ('{"do": "merge", "clusters": [true], "into": 1}', "lacks its clusters"),
        ('{"do": "learn", "file": "../../etc/passwd"}', "lacks its file"),
        ('{"do": "rename", "cluster": 99, "name": "x"}', "cluster 99"),
        ("[" * 5000, "line 1"),
    ],
)
def test_a_damaged_line_is_named(result, clusters, line, words, capsys):
    decide(result, {"do": "rename", "cluster": 0, "name": "first"})
    (clusters / "decisions.jsonl").write_text(line + "\n")
    assert main(["report", str(clusters)]) == 2
    assert words in capsys.readouterr().err


def test_what_cannot_be_followed_is_not_kept(result, clusters):
    with pytest.raises(UserError, match="cluster 50"):
        decide(result, {"do": "merge", "clusters": [50], "into": 0})
    assert not (clusters / "decisions.jsonl").exists()


def test_two_processes_do_not_decide_at_once(result):
    with result.folder.alone(), pytest.raises(UserError, match="close its review"), result.folder.alone():
        pass


def test_a_merged_cluster_stands_for_the_one_that_it_is_in(result):
    """As where two windows are open, and one does not know yet."""
    colour = colours_of(result)
    result = decide(result, {"do": "merge", "clusters": [colour["green"]], "into": colour["red"]})
    result = decide(result, {"do": "move", "images": ["grey-0.png"], "cluster": colour["green"]})
    result = decide(result, {"do": "rename", "cluster": colour["green"], "name": "warm"})
    assert labels_of(result)["grey-0.png"] == colour["red"]
    assert result.names == {colour["red"]: "warm"}


@pytest.mark.slow
def test_a_run_that_ends_again_keeps_what_was_decided(run, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    result = decide(Result.load(copy), {"do": "merge", "clusters": [1], "into": 0})
    decide(result, {"do": "rename", "cluster": 0, "name": "kept"})
    (copy / "clustering.safetensors").unlink()
    assert main(["train", "--resume", str(copy), "--quiet"]) == 0
    again = Result.load(copy)
    assert again.names == {0: "kept"}
    assert 1 not in again.assignments.labels
    assert "kept" in (copy / "assignments.csv").read_text()


@pytest.mark.slow
def test_decisions_about_other_clusters_are_set_aside(run, tmp_path, capsys):
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    decide(Result.load(copy), {"do": "rename", "cluster": 0, "name": "old"})
    table = pyarrow.parquet.read_table(copy / "clustered.parquet")
    turned = table.set_column(1, "cluster", pyarrow.array([0] * len(table), pyarrow.int64()))
    pyarrow.parquet.write_table(turned, copy / "clustered.parquet")
    assert main(["train", "--resume", str(copy)]) == 0
    assert "set aside" in capsys.readouterr().out
    assert Result.load(copy).names == {}
    assert "old" in (copy / "decisions-of-earlier-clusters.jsonl").read_text()
    assert not (copy / "decisions.jsonl").exists()


def test_a_made_cluster_that_all_were_merged_into_can_be_emptied(result, clusters, capsys):
    middle = torch.nn.functional.normalize(result.centers.double().mean(0), dim=0)
    result = decide(
        result,
        {"do": "new", "cluster": 9, "images": ["red-0.png"], "name": "all"},
        {"do": "merge", "clusters": [0, 1, 2, 3], "into": 9},
        {"do": "move", "images": [*result.table_ids], "cluster": -1},
    )
    rewrite(result)
    assert Result.load(clusters).model.numbers.tolist() == [9]
    assert np.load(clusters / "centers.npy")[0] == pytest.approx(middle.numpy(), abs=1e-5)
    assert main(["predict", str(clusters), "photos", "--out", "found.csv"]) == 0
    with Path("found.csv").open() as file:
        assert {row["name"] for row in csv.DictReader(file)} == {"all"}
    assert main(["update", str(clusters)]) == 0
    assert "32 images in 1 cluster" in capsys.readouterr().out


def test_a_kill_before_the_first_decision_leaves_a_result_that_can_be_updated(clusters, tmp_path):
    shutil.copy(clusters / "assignments.parquet", clusters / "clustered.parquet")
    photograph(tmp_path / "photos", "red", 70)
    (tmp_path / "photos" / "blue-0.png").unlink()
    assert main(["update", str(clusters)]) == 0
    found = labels_of(Result.load(clusters))
    assert found["red-70.png"] == found["red-0.png"]
    assert "blue-0.png" not in found
    assert main(["report", str(clusters)]) == 0


def test_an_update_counts_no_cluster_as_empty_that_a_person_has_merged_or_made(result, clusters, tmp_path, capsys):
    new = [{"do": "new", "cluster": 4 + i, "images": [f"blue-{i}.png"], "name": ""} for i in range(2)]
    decide(result, *new)
    photograph(tmp_path / "photos", "red", 70)
    assert main(["update", str(clusters)]) == 0
    assert "clusters     6, of 33\n" in capsys.readouterr().out


class Sure:
    """A clusterer that is sure of the first cluster."""

    def predict_proba(self, X):
        return torch.tensor([[1 - 1e-7, 1e-7]]).repeat(len(X), 1)


def test_confidence_is_that_of_the_cluster_that_is_shown():
    labels = np.array([7, 7, 2, -1, 7])
    replayed = Replayed(
        labels=labels,
        names={},
        base=labels,
        into={2: 2, 3: 7, 7: 7},
        fixed=np.array([False, False, False, False, True]),
        unsaid=labels,
    )
    learned = Learned(torch.tensor([3, 7, 2, -1, 2]), torch.tensor([0.9, 0.8, 0.6, 0.0, 0.7]), Sure(), [2, 7])
    model = Model(Sure(), torch.eye(2, 3), torch.tensor([2, 7]))
    rows = torch.rand(5, 3, generator=torch.Generator().manual_seed(0))
    found = Decided(replayed, learned, 0).assignments(model, rows, "euclidean", None)
    # The first was learned to be in 3, which has been merged into 7 since.
    torch.testing.assert_close(found.confidence, torch.tensor([0.9, 0.8, 0.6, 0.0, 1.0]))


def in_another_order(path, change):
    whole = pyarrow.parquet.read_table(path)
    pyarrow.parquet.write_table(whole.sort_by("distance") if change == "sorted" else whole.slice(1), path)


@pytest.mark.parametrize("change", ["sorted", "shorter"])
def test_a_table_in_another_order_is_refused_by_every_command(clusters, capsys, change):
    path = clusters / "assignments.parquet"
    kept = path.read_bytes()
    in_another_order(path, change)
    before = {file.name: file.read_bytes() for file in clusters.iterdir() if file.is_file()}
    Path("edit.csv").write_text("id,cluster,name\nred-0.png,1,x\n")
    for command in ("evaluate", "ask", "sort --copy sorted", "report", "learn edit.csv --yes", "export out --to xmp"):
        name, *rest = command.split()
        assert main([name, str(clusters), *rest]) == 2, command
        assert "in another order: bring it back from a copy" in capsys.readouterr().err, command
    assert {file.name: file.read_bytes() for file in clusters.iterdir() if file.is_file()} == before
    path.write_bytes(kept)
    assert main(["ask", str(clusters)]) == 0


def test_so_is_one_that_decisions_have_changed(result, clusters):
    decide(result, {"do": "rename", "cluster": 0, "name": "first"})
    rewrite(Result.load(clusters))
    in_another_order(clusters / "assignments.parquet", "sorted")
    with pytest.raises(UserError, match="in another order"):
        _ = Result.load(clusters).assignments


def outliers_in(folder):
    with (folder / "outliers.csv").open(newline="") as file:
        return [*csv.DictReader(file)]


def test_outliers_are_in_the_clusters_that_they_were_moved_to(result, clusters):
    colour, rows = colours_of(result), list(result.ids)
    found = [
        Outlier(rows.index(name), colour[name[:-6]], score) for name, score in (("red-3.png", 9.1), ("blue-0.png", 4))
    ]
    write_outliers(found, result.ids, result.folder.outliers)
    before = outliers_in(clusters)
    with result.folder.alone():
        rewrite(record(result, [{"do": "move", "images": ["red-3.png"], "cluster": colour["grey"]}]))
    after = outliers_in(clusters)
    assert [row["cluster"] for row in after] == [str(colour["grey"]), str(colour["blue"])]
    assert [(row["id"], row["score"]) for row in after] == [(row["id"], row["score"]) for row in before]


@pytest.mark.parametrize("text", ["id,cluster,score\nred-3.png,0,high\n", "id;cluster;score\nred-3.png;0;4\n"])
def test_edited_outliers_stay_as_they_are(result, clusters, text):
    decide(result, {"do": "move", "images": ["red-3.png"], "cluster": -1})
    result.folder.outliers.write_text(text)
    rewrite_tables(Result.load(clusters))
    assert result.folder.outliers.read_text() == text
    assert not Result.load(clusters).tables_are_behind


def test_centres_under_the_cosine_have_unit_length_and_those_of_other_clusters_stay(result, clusters):
    colour = colours_of(result)
    again = decide(
        result,
        {"do": "merge", "clusters": [colour["green"]], "into": colour["red"]},
        {"do": "move", "images": ["red-0.png"], "cluster": colour["blue"]},
        {"do": "new", "cluster": 4, "images": ["blue-1.png", "grey-1.png"], "name": ""},
        {"do": "split", "cluster": colour["grey"], "parts": [{"cluster": 5, "images": ["grey-2.png", "grey-3.png"]}]},
    )
    rewrite(again)
    centers = np.load(clusters / "centers.npy")
    assert centers.shape == (5, 96)
    np.testing.assert_allclose(np.linalg.norm(centers.astype(np.float64), axis=1), 1, atol=1e-6)
    renamed = decide(again, {"do": "undo"}, {"do": "rename", "cluster": 0, "name": "as before"})
    assert torch.equal(renamed.model.centers, result.centers)


@pytest.mark.parametrize("width", [5, 20])
def test_centres_of_rows_in_double_precision_keep_it(tmp_path, monkeypatch, width):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    rows = np.concatenate([rng.normal(c, 1, (20, width)) for c in (-9, 9)])
    np.save("rows.npy", rows)
    assert main(["cluster", "rows.npy", "-k", "2", "--out", "out", "--quiet"]) == 0
    result = Result.load(Path("out"))
    labels = result.labels.numpy()
    again = decide(result, {"do": "move", "images": ["0"], "cluster": int(labels[-1])})
    rewrite(again)
    centers = np.load("out/centers.npy")
    assert centers.dtype == rows.dtype == np.float64
    own = rows[again.labels.numpy() == labels[-1]]
    if width == 5:
        np.testing.assert_allclose(centers[labels[-1]], own.mean(0), rtol=1e-12)
    else:
        np.testing.assert_allclose(np.linalg.norm(centers, axis=1), 1, rtol=1e-12)
