"""The command as its users meet it: what it prints, and its exit status."""

import csv
import json
import re
import shlex

import numpy as np
import pyarrow.parquet as pq
import pytest
from tests.commands import complaint, photos
from tests.runs import tiny_recipe

from shoal.cli.main import main
from shoal.folder import ResultFolder
from shoal.results.page import report_data
from shoal.results.result import Result

pytestmark = pytest.mark.usefixtures("no_umap", "own_cache")


def test_a_run_is_the_folder_that_was_promised(run):
    assert {path.name for path in run.iterdir()} == {
        "config.yaml",
        "metrics.jsonl",
        "state.safetensors",
        "model.safetensors",
        "clustering.safetensors",
        "centers.npy",
        "features",
        "assignments.parquet",
        "assignments.csv",
        "representatives.csv",
        "duplicates.csv",
        "outliers.csv",
        "atlas.parquet",
        "report.html",
    }
    table = pq.read_table(run / "assignments.parquet")
    names = ["id", "cluster", "name", "confidence", "distance", "margin", "x", "y", "label"]
    assert table.column_names == names
    assert len(table) == 200
    assert set(table["cluster"].to_pylist()) == {0, 1, 2, 3}
    assert min(table["margin"].to_pylist()) >= 0
    rows = ResultFolder(run).read_metrics()
    assert [row["epoch"] for row in rows] == [0, 1, 2, 3]
    assert {"loss", "psa", "lr", "seconds", "acc", "nmi", "ari", "fmi", "silhouette", "feature_std"} <= rows[1].keys()
    assert "psl" not in rows[0]
    assert "psl" in rows[1]


@pytest.mark.slow
def test_the_config_of_a_run_is_a_recipe_that_gives_the_same_run(run, tmp_path):
    assert main(["train", str(run / "config.yaml"), "--quiet", "--out", str(tmp_path / "again")]) == 0
    one, two = (pq.read_table(folder / "assignments.parquet") for folder in (run, tmp_path / "again"))
    assert one.equals(two)


def test_a_plain_log_has_a_line_per_epoch_and_the_result(tmp_path, capsys):
    out = tmp_path / "run"
    assert main(["train", str(tiny_recipe(tmp_path)), "--out", str(out)]) == 0
    said = capsys.readouterr()
    assert [line.split()[1] for line in said.err.splitlines() if line.startswith("epoch")] == ["1", "2", "3"]
    assert "images/s" in said.err
    assert re.search(r"^epoch 2 of 3 .* left$", said.err, re.M)
    for name, words in {
        "run": str(out),
        "device": "",
        "images": "200 of 8 × 8 px",
        "length": "3 epochs, each 6 steps",
    }.items():
        assert re.search(rf"^{name} +\S*{re.escape(words)}", said.err, re.M), name
    assert str(out / "report.html") in said.out
    assert str(out / "assignments.csv") in said.out


def test_quiet_is_quiet(tmp_path, capsys):
    recipe = str(tiny_recipe(tmp_path))
    assert main(["train", recipe, "--quiet", "--max-steps", "1", "--out", str(tmp_path / "run")]) == 0
    said = capsys.readouterr()
    assert said.out == said.err == ""


def test_recipes_are_listed_and_shown(capsys):
    assert main(["recipes"]) == 0
    assert "propos-digits" in capsys.readouterr().out
    assert main(["recipes", "propos-digits"]) == 0
    assert "n_clusters: 10" in capsys.readouterr().out
    assert main(["recipes", "propos-digit"]) == 2
    assert "did you mean 'propos-digits'" in complaint(capsys)


def test_help_and_version(capsys):
    for args in ([], ["--help"], ["-h"], ["help"]):
        assert main(args) == 0
        assert "shoal train" in capsys.readouterr().out
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("shoal 0.")


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["trian"], "no command 'trian': did you mean 'train'"),
        (["train", "propos-digits", "--epohcs", "3"], "no option --epohcs: did you mean '--epochs'"),
        (["train", "propos-digits", "--data.path", "nowhere"], "nowhere"),
        (
            ["train", "propos-digits", "--n-clusters", "1"],
            "n_clusters: input should be greater than or equal to 2",
        ),
        (
            ["train", "cc-digits", "--smooth-features"],
            "cc clusters by its own head, not by k-means: leave out --smooth",
        ),
        (["train", "propos-digits", "--n-clusters", "1798"], "1798 clusters need at least as many images"),
        (["train", "--resume", "nowhere"], "nowhere holds no training run"),
        (["train", "--resume", "nowhere", "--epochs", "3"], "nowhere holds no training run"),
        (["train", "--resume", "nowhere", "--seed", "3"], "exactly as it began, but for --epochs and --max-steps"),
        (["predict", "nowhere", "digits"], "nowhere holds no finished clusters"),
        (["predict", "nowhere", "digits", "--out", "a.txt"], "should end in .parquet or .csv"),
        (["evaluate", "nowhere"], "nowhere holds no finished clusters"),
        (["evaluate"], "nothing to evaluate: give the folder of a result, or --features"),
        (["evaluate", "nowhere", "--features", "f.npy"], "give a result alone, or --features"),
        (["evaluate", "--features", "f.npy"], "cannot read f.npy: No such file"),
        (["report", "nowhere"], "nowhere holds no finished clusters"),
    ],
)
def test_a_mistake_gets_a_sentence_and_status_2(args, sentence, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(args) == 2
    assert sentence in complaint(capsys)
    assert [p.name for p in tmp_path.iterdir() if p.name != "cache"] == []


def test_a_recipe_with_a_typo(tmp_path, capsys):
    recipe = tiny_recipe(tmp_path, "epochs: 3\nmethod: {name: propos, temprature: 0.4}\n")
    assert main(["train", str(recipe)]) == 2
    assert "no setting 'method.temprature': did you mean 'method.temperature'" in complaint(capsys)


def test_an_existing_run_is_never_overwritten(run, tmp_path, capsys):
    before = (run / "model.safetensors").stat().st_mtime_ns
    assert main(["train", str(tiny_recipe(tmp_path)), "--out", str(run)]) == 2
    assert "already holds a run: 'shoal train --resume" in complaint(capsys)
    assert (run / "model.safetensors").stat().st_mtime_ns == before
    other = photos(tmp_path / "precious")
    assert main(["train", str(tiny_recipe(tmp_path)), "--out", str(other)]) == 2
    assert "is not an empty folder" in complaint(capsys)


def test_broken_images_are_skipped_and_listed_or_refused(tmp_path, capsys, caplog):
    folder = photos(tmp_path / "photos", n=97)
    for name in ("a.png", "b.png", "c.jpg"):
        (folder / name).write_bytes(b"this is no image")
    recipe = str(tiny_recipe(tmp_path))
    args = ["train", recipe, "--data.path", str(folder), "--max-steps", "1", "--quiet"]
    assert main([*args, "--out", str(tmp_path / "run")]) == 0
    with (tmp_path / "run" / "skipped.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == ["a.png", "b.png", "c.jpg"]
    assert all(row["reason"] for row in rows)
    warnings = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert len(warnings) == 1
    assert "3 of 100" in warnings[0]
    assert len(pq.read_table(tmp_path / "run" / "assignments.parquet")) == 97
    capsys.readouterr()
    assert main([*args, "--strict", "--out", str(tmp_path / "strict")]) == 2
    assert "a.png" in complaint(capsys)
    assert not (tmp_path / "strict").exists()


def test_metrics_are_json_that_anything_reads(run):
    for line in (run / "metrics.jsonl").read_text().splitlines():
        assert all(value is None or np.isfinite(value) for value in json.loads(line).values())


@pytest.mark.slow
def test_the_command_in_the_report_makes_the_run_again(tmp_path, monkeypatch):
    recipe = str(tiny_recipe(tmp_path))
    assert main(["train", recipe, "--max-steps", "1", "--quiet", "--out", str(tmp_path / "it's mine")]) == 0
    monkeypatch.chdir("/")
    shoal, *args = shlex.split(report_data(Result.load(tmp_path / "it's mine")).command)
    assert shoal == "shoal"
    assert main([*args, "--quiet", "--out", str(tmp_path / "again")]) == 0
    models = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("it's mine", "again")]
    assert models[0] == models[1]


def test_a_name_that_the_file_system_refuses(tmp_path, capsys):
    out = tmp_path / ("x" * 300)
    assert main(["train", str(tiny_recipe(tmp_path)), "--quiet", "--out", str(out)]) == 2
    said = complaint(capsys)
    assert said.startswith(f"shoal: {out}")
    assert said.endswith("File name too long")


@pytest.mark.parametrize("args", [["run"], ["run", "pictures", "--out"]])
def test_a_verb_that_is_used_wrongly_has_status_2(args, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["predict", *args])
    assert exit_.value.code == 2
    assert "shoal predict --help" in capsys.readouterr().err
