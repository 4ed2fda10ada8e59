"""The command as its users meet it: what it prints, and its exit status."""

import csv
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from shoal import workflow
from shoal.cli import main
from shoal.training.folder import RunFolder
from tests.runs import tiny_recipe

pytestmark = pytest.mark.usefixtures("no_umap")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SHOAL_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run on the digits."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SHOAL_CACHE", str(folder / "cache"))
        assert main(["train", str(tiny_recipe(folder)), "--quiet", "--out", str(folder / "run")]) == 0
    return folder / "run"


def photos(folder, n=12, size=10, seed=0):
    """A flat folder of random PNG files."""
    folder.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (n, size, size, 3), dtype=np.uint8)
    for i, each in enumerate(pixels):
        Image.fromarray(each).save(folder / f"{i:03}.png")
    return folder


def complaint(capsys) -> str:
    """The one sentence that a mistake gets."""
    text = capsys.readouterr().err
    assert "Traceback" not in text
    lines = [line for line in text.splitlines() if line]
    assert lines, "nothing was said"
    assert lines[-1].startswith("shoal: ")
    return lines[-1]


def test_a_run_is_the_folder_that_was_promised(run):
    assert {path.name for path in run.iterdir()} == {
        "config.yaml",
        "metrics.jsonl",
        "state.safetensors",
        "model.safetensors",
        "assignments.parquet",
        "report.html",
    }
    table = pq.read_table(run / "assignments.parquet")
    assert table.column_names == ["id", "cluster", "distance", "margin", "label"]
    assert len(table) == 200
    assert set(table["cluster"].to_pylist()) == {0, 1, 2, 3}
    assert min(table["margin"].to_pylist()) >= 0
    rows = RunFolder(run).read_metrics()
    assert [row["epoch"] for row in rows] == [0, 1, 2, 3]
    assert {"loss", "psa", "lr", "seconds", "acc", "nmi", "ari", "fmi", "silhouette", "feature_std"} <= rows[1].keys()
    assert "psl" not in rows[0]
    assert "psl" in rows[1]


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
    assert str(out / "report.html") in said.out
    assert str(out / "assignments.parquet") in said.out


def test_quiet_is_quiet(tmp_path, capsys):
    recipe = str(tiny_recipe(tmp_path))
    assert main(["train", recipe, "--quiet", "--max-steps", "1", "--out", str(tmp_path / "run")]) == 0
    said = capsys.readouterr()
    assert said.out == said.err == ""


def test_predict_writes_parquet_and_csv(run, tmp_path, capsys):
    folder = photos(tmp_path / "new", size=20)
    for name in ("a.csv", "a.parquet"):
        assert main(["predict", str(run), str(folder), "--out", str(tmp_path / name)]) == 0
    with (tmp_path / "a.csv").open() as file:
        rows = list(csv.DictReader(file))
    table = pq.read_table(tmp_path / "a.parquet")
    assert [row["id"] for row in rows] == table["id"].to_pylist() == [f"{i:03}.png" for i in range(12)]
    assert [int(row["cluster"]) for row in rows] == table["cluster"].to_pylist()
    assert main(["predict", str(run), str(folder), "--out", str(tmp_path / "a.csv")]) == 2
    assert "exists already" in complaint(capsys)


def test_predict_repeats_the_training_assignment(run, tmp_path):
    assert main(["predict", str(run), str(run.parent / "pictures"), "--out", str(tmp_path / "a.parquet")]) == 0
    old, new = pq.read_table(run / "assignments.parquet"), pq.read_table(tmp_path / "a.parquet")
    assert old["cluster"].equals(new["cluster"])


def test_evaluate_prints_what_training_measured(run, capsys):
    (run / "evaluation.json").unlink(missing_ok=True)
    assert main(["evaluate", str(run)]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    found = json.loads((run / "evaluation.json").read_text())
    last = RunFolder(run).read_metrics()[-1]
    for name in ("acc", "nmi", "ari", "fmi"):
        assert found["scores"][name] == pytest.approx(last[name], abs=1e-3)
    assert found["signals"]["silhouette"] == pytest.approx(last["silhouette"], abs=1e-3)
    assert f"accuracy, a cluster for each class {found['scores']['acc']:.4f}" in printed
    assert "200 images, all labelled, 0 held out; 4 clusters" in printed
    assert [(row["of"], row["method"]) for row in found["baselines"]] == [
        ("features", "k-means"),
        ("features", "UMAP + k-means"),
        ("pixels", "k-means"),
        ("pixels", "UMAP + k-means"),
    ]
    assert f"k-means on pixels {found['baselines'][2]['scores']['acc']:.4f}" in printed
    assert str(run / "evaluation.json") in printed
    (run / "evaluation.json").unlink()


def test_evaluate_reads_the_backbone_and_the_report_shows_it(run, tmp_path, capsys):
    copy = tmp_path / "it's a copy"
    shutil.copytree(run, copy)
    assert main(["evaluate", str(copy), "--knn", "--linear"]) == 0
    said = capsys.readouterr().out
    assert "each image among all others (200 among 199)" in said
    assert "trained on 160 images and tested on a random fifth (40)" in said
    found = json.loads((copy / "evaluation.json").read_text())
    assert found["knn"]["accuracy"]["top1"] > 0.9
    assert found["linear"]["sgd"]["top1"] > 0.9
    command = shlex.split(said.partition("'shoal ")[2].rpartition("' puts")[0])
    assert main(command) == 0
    assert "Linear probe" in (copy / "report.html").read_text()
    assert "Linear probe" not in (run / "report.html").read_text()


def test_images_without_labels_have_neither_neighbours_nor_a_probe(tmp_path, capsys):
    bare = tmp_path / "bare"
    photos(bare, n=40)
    out = tmp_path / "run"
    recipe = str(tiny_recipe(tmp_path))
    assert main(["train", recipe, "--data.path", str(bare), "--max-steps", "1", "--quiet", "--out", str(out)]) == 0
    for flag, name in (("--linear", "a linear probe needs"), ("--knn", "nearest neighbours need")):
        assert main(["evaluate", str(out), flag]) == 2
        assert f"{name} labels, and these images have none: give each class a subfolder" in complaint(capsys)
    assert not (out / "evaluation.json").exists()
    assert main(["evaluate", str(out)]) == 0
    assert json.loads((out / "evaluation.json").read_text())["scores"] == {}
    assert main(["report", str(out)]) == 0
    assert "UMAP + k-means on pixels" in (out / "report.html").read_text()


def test_a_damaged_evaluation_is_refused_by_the_report(run, tmp_path, capsys):
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    (copy / "evaluation.json").write_text("{")
    assert main(["report", str(copy)]) == 2
    assert "evaluation.json is damaged: 'shoal evaluate' writes it again" in complaint(capsys)


def test_report_is_written_again(run):
    before = (run / "report.html").read_text()
    (run / "report.html").unlink()
    assert main(["report", str(run)]) == 0
    assert len((run / "report.html").read_text()) == pytest.approx(len(before), rel=0.05)


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
        (["trian"], "no verb 'trian': did you mean 'train'"),
        (["train", "propos-digits", "--epohcs", "3"], "no option --epohcs: did you mean '--epochs'"),
        (["train", "propos-digits", "--data.path", "nowhere"], "nowhere"),
        (
            ["train", "propos-digits", "--n-clusters", "1"],
            "n_clusters: input should be greater than or equal to 2",
        ),
        (["train", "propos-digits", "--n-clusters", "1798"], "1798 clusters need at least as many images"),
        (["train", "--resume", "nowhere"], "nowhere is not a run folder"),
        (["train", "--resume", "nowhere", "--epochs", "3"], "exactly as it began"),
        (["predict", "nowhere", "digits"], "nowhere is not a run folder"),
        (["predict", "nowhere", "digits", "--out", "a.txt"], "should end in .parquet or .csv"),
        (["evaluate", "nowhere"], "nowhere is not a run folder"),
        (["evaluate"], "nothing to evaluate: give a run folder, or --features"),
        (["evaluate", "nowhere", "--features", "f.npy"], "give a run alone, or --features"),
        (["evaluate", "--features", "f.npy"], "cannot read f.npy: No such file"),
        (["report", "nowhere"], "nowhere is not a run folder"),
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


def test_a_damaged_model_is_refused(run, tmp_path, capsys):
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    model = copy / "model.safetensors"
    model.write_bytes(model.read_bytes()[:1000])
    assert main(["evaluate", str(copy)]) == 2
    assert "is damaged" in complaint(capsys)
    # The state holds the truth: resuming a run that was done writes the model again.
    assert main(["train", "--resume", str(copy), "--quiet"]) == 0
    assert model.read_bytes() == (run / "model.safetensors").read_bytes()


def test_a_run_that_is_not_finished_cannot_predict(tmp_path, capsys):
    from tests.runs import new_run

    new_run(tmp_path / "run").save()
    assert main(["predict", str(tmp_path / "run"), "digits", "--out", str(tmp_path / "a.csv")]) == 2
    assert "shoal train --resume" in complaint(capsys)


def test_nan_weights_are_noticed_before_clustering(run, tmp_path, capsys):
    """Weights that went wrong on disk give NaN features."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    with safe_open(copy / "model.safetensors", "pt") as file:
        metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    tensors = {
        k: torch.full_like(v, torch.nan) if v.is_floating_point() and k != "centers" else v for k, v in tensors.items()
    }
    save_file(tensors, copy / "model.safetensors", metadata)
    assert main(["evaluate", str(copy)]) == 2
    assert "NaN" in complaint(capsys)


def test_metrics_are_json_that_anything_reads(run):
    for line in (run / "metrics.jsonl").read_text().splitlines():
        assert all(value is None or np.isfinite(value) for value in json.loads(line).values())


def signalled(monkeypatch, name: str, *signums: int) -> None:
    """Let signals come while ``workflow`` does something."""
    does = getattr(workflow, name)

    def and_a_signal(*args, **kwargs):
        for signum in signums:
            os.kill(os.getpid(), signum)
        return does(*args, **kwargs)

    monkeypatch.setattr(workflow, name, and_a_signal)


@pytest.mark.parametrize("output", ["write_assignments", "report"])
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_results_are_written_is_heeded(tmp_path, capsys, monkeypatch, output, signum):
    out = tmp_path / "my run"
    with monkeypatch.context() as patch:
        signalled(patch, output, signum)
        assert (
            main(["train", str(tiny_recipe(tmp_path)), "--max-steps", "1", "--quiet", "--out", str(out)])
            == 128 + signum
        )
    said = complaint(capsys)
    assert said.startswith("shoal: stopped and saved.")
    assert (out / "report.html").exists() == (output == "report")
    command = shlex.split(said.partition("Go on with:")[2])
    assert command == ["shoal", "train", "--resume", str(out)]
    assert main([*command[1:], "--quiet"]) == 0
    assert (out / "report.html").exists()


@pytest.mark.parametrize(
    "signums", [(signal.SIGTERM, signal.SIGTERM), (signal.SIGINT, signal.SIGINT), (signal.SIGINT, signal.SIGTERM)]
)
def test_a_second_signal_stops_at_once(tmp_path, capsys, monkeypatch, signums):
    out = tmp_path / "run"
    signalled(monkeypatch, "write_assignments", *signums)
    args = ["train", str(tiny_recipe(tmp_path)), "--max-steps", "1", "--quiet", "--out", str(out)]
    assert main(args) == 128 + signums[-1]
    assert complaint(capsys) == f"shoal: stopped. Go on with:  shoal train --resume {out}"
    assert not (out / "assignments.parquet").exists()


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_before_the_run_exists(tmp_path, capsys, monkeypatch, signum):
    before = signal.getsignal(signum)
    signalled(monkeypatch, "load_images", signum)
    out = tmp_path / "run"
    assert main(["train", str(tiny_recipe(tmp_path)), "--quiet", "--out", str(out)]) == 128 + signum
    assert complaint(capsys) == "shoal: stopped."
    assert not out.exists()
    assert signal.getsignal(signum) is before


def test_the_command_in_the_report_makes_the_run_again(tmp_path, monkeypatch):
    commands = []
    monkeypatch.setattr(workflow, "write_report", lambda data, _path: commands.append(data.command))
    recipe = str(tiny_recipe(tmp_path))
    assert main(["train", recipe, "--max-steps", "1", "--quiet", "--out", str(tmp_path / "it's mine")]) == 0
    monkeypatch.chdir("/")
    shoal, *args = shlex.split(commands[0])
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


@pytest.mark.parametrize("args", [["run"], ["run", "pictures", "--foo"]])
def test_a_verb_that_is_used_wrongly_has_status_2(args, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["predict", *args])
    assert exit_.value.code == 2
    assert "shoal predict --help" in capsys.readouterr().err


def piped(args: list[str], output: int) -> tuple[int, str]:
    """Status and complaints of the command as a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "shoal", *args], stdout=output, stderr=subprocess.PIPE, text=True, check=False
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize("args", [["recipes"], ["--help"], ["predict", "--help"]])
def test_output_that_nobody_reads(args):
    reader, writer = os.pipe()
    os.close(reader)
    try:
        assert piped(args, writer) == (128 + signal.SIGPIPE, "")
    finally:
        os.close(writer)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has /dev/full")
def test_output_onto_a_full_disk():
    with Path("/dev/full").open("w") as full:
        assert piped(["--help"], full.fileno()) == (2, "shoal: No space left on device\n")


@pytest.mark.parametrize("verb", ["evaluate", "report"])
def test_images_that_changed_since_training_are_noticed(run, verb, capsys):
    extra = run.parent / "pictures" / "class 0" / "extra.png"
    Image.new("RGB", (8, 8)).save(extra)
    try:
        assert main([verb, str(run)]) == 2
        assert "have changed since the run was trained" in complaint(capsys)
    finally:
        extra.unlink()
