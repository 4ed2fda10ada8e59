"""``shoal train --resume RUN --answers``: a finished run is fine-tuned on answers, into a result of its own."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from shoal.cli.main import main
from shoal.config import load_recipe
from shoal.folder import ResultFolder
from shoal.progress import Progress
from shoal.results.deciding import record
from shoal.results.fine_tune import default_out
from shoal.results.finish import rewrite
from shoal.results.result import Result
from shoal.results.run_images import images_of_run
from shoal.training import fine_tune
from shoal.training.trained import Trained

ANSWERED, EPOCHS = 40, 40
pytestmark = [pytest.mark.usefixtures("own_cache"), pytest.mark.slow]


@pytest.fixture(scope="module")
def copied(run, tmp_path_factory):
    """A copy of the run, about which 40 answers were given: two clusters were merged, and one is new."""
    place = tmp_path_factory.mktemp("answered")
    shutil.copytree(run, place / "run")
    result = Result.load(place / "run")
    ids = list(result.ids)
    true = {"class 0": 0, "class 1": 1, "class 2": 3, "class 3": 4}
    some = np.random.default_rng(0).permutation(len(ids))[:ANSWERED].tolist()
    answers = [{"do": "answer", "image": ids[row], "cluster": true[ids[row].partition("/")[0]]} for row in some]
    steps = [
        {"do": "merge", "clusters": [2], "into": 1},
        {"do": "new", "cluster": 4, "images": [ids[some[0]]], "name": "Bottom right"},
        {"do": "rename", "cluster": 0, "name": "Top left"},
        *answers[:-3],
        {"do": "move", "images": [answers[-3]["image"]], "cluster": answers[-3]["cluster"]},
        {"do": "answer", "image": answers[-2]["image"], "none_of": [0, 2, 3]},
        {"do": "answer", "image": answers[-1]["image"], "cluster": -1},
    ]
    rewrite(record(result, steps))
    return place / "run"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def tuned(copied, tmp_path_factory):
    """The outcome, and the files of the run before."""
    before = contents(copied)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SHOAL_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(fine_tune, "EPOCHS", EPOCHS)
        assert main(["train", "--resume", str(copied), "--answers", "--quiet"]) == 0
    return copied.with_name("run-answers"), before


def test_the_run_stays_as_it_is(copied, tuned):
    assert contents(copied) == tuned[1]
    assert {path.name for path in copied.parent.iterdir()} == {"run", "run-answers"}


def test_the_network_agrees_with_the_answers_more_than_the_clustering_did(copied, tuned):
    before, after = Result.load(copied), Result.load(tuned[0])
    said = before.decided.replayed
    named = said.fixed & (said.labels >= 0)
    own = after.clustered[1].labels.numpy()
    assert (own == said.labels)[named].mean() > (said.unsaid == said.labels)[named].mean() + 0.2
    classes = np.array([name.partition("/")[0] for name in after.ids])
    others = ~said.fixed

    def pure(labels):
        held = [np.unique(classes[others & (labels == each)], return_counts=True)[1] for each in np.unique(labels)]
        return sum(counts.max() for counts in held if len(counts)) / others.sum()

    assert pure(own) > pure(said.unsaid) + 0.1  # of images that nobody was asked about


def test_numbers_names_and_answers_are_kept(copied, tuned):
    before, after = Result.load(copied), Result.load(tuned[0])
    assert after.model.numbers.tolist() == before.model.numbers.tolist() == [0, 1, 3, 4]
    assert dict(after.names) == dict(before.names) == {0: "Top left", 4: "Bottom right"}
    old, new = before.decided.replayed, after.decided.replayed
    np.testing.assert_array_equal(old.fixed, new.fixed)
    np.testing.assert_array_equal(old.labels[old.fixed], new.labels[new.fixed])
    assert {row: set(out) for row, out in new.ruled_out.items()} == {
        row: {old.into[each] for each in out} for row, out in old.ruled_out.items()
    }
    assert (old.next_number, old.into[2]) == (new.next_number, new.into[2])


def test_every_command_reads_the_outcome(tuned, tmp_path, monkeypatch, capsys):
    folder = tuned[0]
    monkeypatch.chdir(tmp_path)
    pictures = load_recipe(str(folder / "config.yaml")).data.path
    assert main(["predict", str(folder), pictures, "--out", "found.csv"]) == 0
    result = Result.load(folder)
    with Path("found.csv").open() as file:
        found = {row["id"]: (int(row["cluster"]), row["name"]) for row in csv.DictReader(file)}
    own = dict(zip(result.ids, result.clustered[1].labels.tolist(), strict=True))
    assert {name: cluster for name, (cluster, _) in found.items()} == own
    assert {name for cluster, name in found.values() if cluster == 0} == {"Top left"}
    assert main(["report", str(folder)]) == 0
    assert "shoal train --resume" in (folder / "report.html").read_text()
    assert main(["ask", str(folder), "-n", "5"]) == 0
    assert main(["sort", str(folder), "--copy", "sorted"]) == 0
    assert main(["update", str(folder), "--quiet"]) == 0
    assert main(["train", "--resume", str(folder)]) == 2
    assert "nothing to resume" in capsys.readouterr().err
    assert default_out(folder).name == "run-answers-2"


def test_an_undone_answer_leaves_the_image_to_the_network(tuned, tmp_path):
    shutil.copytree(tuned[0], tmp_path / "copy")
    before = Result.load(tmp_path / "copy").decided.replayed
    assert main(["learn", str(tmp_path / "copy"), "--undo"]) == 0
    after = Result.load(tmp_path / "copy").decided.replayed
    assert before.fixed.sum() + len(before.ruled_out) == after.fixed.sum() + len(after.ruled_out) + 1


def test_the_same_again_is_the_same(copied, tmp_path, monkeypatch):
    monkeypatch.setattr(fine_tune, "EPOCHS", 2)
    for name in ("one", "other"):
        assert main(["train", "--resume", str(copied), "--answers", "--quiet", "--out", str(tmp_path / name)]) == 0
    names = ("clustering.safetensors", "assignments.parquet", "clustered.parquet", "features/features.f32")
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "other" / name).read_bytes(), name


@pytest.mark.parametrize("signal", [KeyboardInterrupt, OSError])
def test_what_fails_on_the_way_leaves_nothing(copied, tmp_path, monkeypatch, signal):
    monkeypatch.setattr(fine_tune, "EPOCHS", 1)
    before = contents(copied)

    def fail(*_):
        raise signal(28, "No space left on device")

    monkeypatch.setattr("shoal.results.fine_tune.write_files", fail)
    flags = ["train", "--resume", str(copied), "--answers", "--quiet", "--out", str(tmp_path / "out")]
    if signal is OSError:
        assert main(flags) == 2
    else:
        with pytest.raises(KeyboardInterrupt):
            main(flags)
    assert contents(copied) == before
    assert [path.name for path in tmp_path.iterdir() if path.name != "cache"] == []


def refused(args, capsys):
    assert main(["train", *args]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


def test_what_cannot_be_fine_tuned_is_said(run, copied, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert "nothing has been said of single images" in refused(["--resume", str(run), "--answers"], capsys)
    assert "--resume RUN" in refused(["--answers"], capsys)
    assert "takes only" in refused(["propos-digits", "--resume", str(run), "--answers"], capsys)
    assert "takes only" in refused(["--resume", str(run), "--answers", "--epochs", "3"], capsys)
    assert "already holds" in refused(["--resume", str(copied), "--answers", "--out", str(run)], capsys)
    with Result.load(copied).folder.alone():
        assert "another process" in refused(["--resume", str(copied), "--answers", "--out", "out"], capsys)
    np.save("rows.npy", np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32))
    assert main(["cluster", "rows.npy", "-k", "2", "--quiet", "--out", "rows"]) == 0
    assert "'shoal learn rows'" in refused(["--resume", "rows", "--answers"], capsys)
    shutil.copytree(copied, "stopped")
    Path("stopped/clustering.safetensors").unlink()
    Path("stopped/model.safetensors").unlink()
    assert "has not been trained to its end" in refused(["--resume", "stopped", "--answers"], capsys)
    shutil.copytree(run, "nowhere")
    result = Result.load(Path("nowhere"))
    record(result, [{"do": "move", "images": [result.table_ids[0]], "cluster": -1}])
    assert "say of no image" in refused(["--resume", "nowhere", "--answers"], capsys)


def test_images_that_are_gone_are_named(copied, tmp_path, monkeypatch, capsys):
    pictures = Path(load_recipe(str(copied / "config.yaml")).data.path)
    monkeypatch.chdir(tmp_path)
    shutil.copytree(pictures, "pictures")
    result = Result.load(copied)
    shutil.copytree(copied, "run")
    replace(
        result, folder=ResultFolder(Path("run")), source=str(tmp_path / "pictures"), features_at=Path("run/features")
    ).save()
    lost = next(Path("pictures").rglob("*.png"))
    lost.unlink()
    assert "1 image is gone" in refused(["--resume", "run", "--answers"], capsys)
    shutil.rmtree("pictures")
    assert "pictures" in refused(["--resume", "run", "--answers"], capsys)
    assert not Path("run-answers").exists()


def test_published_losses_take_part(tuned):
    rows = [json.loads(line) for line in (tuned[0] / "metrics.jsonl").read_text().splitlines()]
    assert rows[-2]["steps"] == EPOCHS * fine_tune.STEPS
    assert rows[-2]["positive"] < rows[0]["positive"] / 2
    assert {"negative", "easy"} <= rows[0].keys()
    assert rows[-1]["clusters"] == 4


def test_the_other_images_are_learned_anew_halfway(run, monkeypatch):
    monkeypatch.setattr(fine_tune, "EPOCHS", 4)
    monkeypatch.setattr(fine_tune, "STEPS", 1)
    trained, result = Trained.load(run), Result.load(run)
    images = images_of_run(result, trained, Progress())
    learned = result.labels.clone()
    classes = torch.full_like(learned, -1)
    classes[:4], learned[:8] = result.labels[:4], -1
    calls = []

    def relearn(features, own):
        calls.append((features.clone(), own.clone()))
        return torch.full_like(own, 3)

    job = fine_tune._Job(trained, images, fine_tune.Told(classes, {}, learned), trained.centers, relearn)
    before = trained.embed(images)
    assert len([*job.epochs(Progress())]) == 4
    [(features, own)] = calls
    found = job.found([])
    assert not torch.equal(features, before)  # two steps have been made,
    assert not torch.equal(features, trained.embed(images))  # and two are to come
    assert own.shape == found(features).shape == (len(images),)
    assert job.told.learned[:8].tolist() == [-1] * 8
    assert (job.told.learned[8:] == 3).all()


def test_a_run_that_accumulates_takes_no_more_views_than_it_did(copied):
    trained = Trained.load(copied)
    config = replace(trained.config, optim=replace(trained.config.optim, batch_size=60, accumulate=2))
    classes, learned = torch.full((200,), -1), torch.zeros(200, dtype=torch.int64)
    classes[:30], learned[:30] = 1, -1
    told = fine_tune.Told(classes, {}, learned)
    images = type("Pixels", (), {"pixels": torch.zeros(200, 3, 8, 8, dtype=torch.uint8)})
    job = fine_tune._Job(replace(trained, config=config), images, told, torch.eye(4, 8), lambda _, own: own)
    asked, others = job._order()[0]
    assert len(asked) + len(others) == 60
