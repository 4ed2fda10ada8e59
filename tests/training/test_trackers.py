"""What a tracker is told is what metrics.jsonl holds, read back with the tracker's own reader."""

import importlib.util
import io
import json
import logging
import os
import subprocess
import sys
import types

import pytest
from PIL import Image
from tests.runs import StopAfter, new_run, reopened, same_files, tiny_config, tiny_images, tiny_recipe
from tests.wandbs import FakeWandB, history

from shoal.cli.main import main
from shoal.config import load_recipe, to_dict
from shoal.folder import ResultFolder
from shoal.progress import Progress
from shoal.results import train as workflow
from shoal.training import fit
from shoal.training.run import Interrupted, Watcher
from shoal.training.trackers import Tracker, open_tracker

TRAIN_TWICE = """
import sys
from shoal.cli.main import main
recipe, out = sys.argv[1:]
tracked = ["--quiet", "--tracker", "wandb"]
sys.exit(main(["train", recipe, "--out", out, *tracked]) or main(["train", "--resume", out, *tracked]))
"""


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SHOAL_CACHE", str(tmp_path / "cache"))


class Killed(BaseException):
    """What ends a process without warning."""


class KillAfter(Watcher):
    """Saves after the first epoch and lets the run be killed after a later one, whose row no state counts."""

    def __init__(self, run, epochs):
        self.run, self.epochs = run, epochs

    def epoch(self, row):
        if row["epoch"] == 0:
            self.run.save()
        if row["epoch"] + 1 == self.epochs:
            raise Killed


def train(run, name="tensorboard", *others):
    """Train with a tracker as the command does."""
    with open_tracker(name, run, quiet=True) as tracker:
        fit(run, Progress(), [tracker, *others])


def reader(folder):
    """TensorBoard's own view of the event files in a folder."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(folder / "tensorboard")).Reload()


def curves(folder):
    """Rows as TensorBoard shows them, by step."""
    events, rows = reader(folder), {}
    for name in events.Tags()["scalars"]:
        for event in events.Scalars(name):
            assert name not in rows.setdefault(event.step, {}), "a step was told twice"
            rows[event.step][name] = event.value
    return rows


def shows_the_metrics(folder):
    """TensorBoard keeps numbers in single precision."""
    rows = ResultFolder(folder).read_metrics()
    assert rows
    shown = curves(folder)
    assert sorted(shown) == [row["epoch"] for row in rows]
    for step, row in enumerate(rows):
        assert shown[step] == pytest.approx(row, rel=1e-6)


@pytest.mark.slow
def test_tensorboard_reads_the_rows_the_settings_and_the_picture(tmp_path):
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    run = tmp_path / "run"
    assert main(["train", str(tiny_recipe(tmp_path)), "--quiet", "--tracker", "tensorboard", "--out", str(run)]) == 0
    shows_the_metrics(run)
    events = reader(run)
    (picture,) = events.Images("gallery")
    png = run / "tensorboard" / "gallery.png"
    with Image.open(png) as image, Image.open(io.BytesIO(picture.encoded_image_string)) as shown:
        assert (picture.width, picture.height) == image.size
        assert shown.tobytes() == image.convert("RGB").tobytes()
    data = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    settings = HParamsPluginData.FromString(data).session_start_info.hparams
    assert settings["optim.lr"].number_value == pytest.approx(0.1)
    assert settings["method.name"].string_value == "propos"
    assert settings["augment.crop_scale"].string_value == "[1.0, 1.0]"
    config = to_dict(load_recipe(str(run / "config.yaml")))
    n_settings = sum(len(part) if isinstance(part, dict) else 1 for part in config.values())
    assert len(settings) == n_settings


@pytest.mark.parametrize("steps", [1, 3, 5])
def test_a_stopped_run_goes_on_with_its_curves(tmp_path, steps):
    with pytest.raises(Interrupted):
        train(new_run(tmp_path / "run"), "tensorboard", StopAfter(steps))
    train(reopened(tmp_path / "run"))
    shows_the_metrics(tmp_path / "run")
    assert len(list((tmp_path / "run" / "tensorboard").glob("events*"))) == 1


def test_rows_that_a_kill_took_back_are_shown_once(tmp_path):
    config = tiny_config(epochs=4)
    run = new_run(tmp_path / "run", config)
    with pytest.raises(Killed):
        train(run, "tensorboard", KillAfter(run, 3))
    (events,) = (tmp_path / "run" / "tensorboard").glob("events*")
    assert sorted(curves(tmp_path / "run")) == [0, 1, 2]
    events.write_bytes(events.read_bytes()[:-5])  # in the middle of a write
    run = reopened(tmp_path / "run")
    assert run.state.epoch == 1
    train(run)
    shows_the_metrics(tmp_path / "run")


def test_a_run_that_began_without_a_tracker_shows_all_its_rows(tmp_path):
    with pytest.raises(Interrupted):
        train(new_run(tmp_path / "run"), "none", StopAfter(4))
    train(reopened(tmp_path / "run"))
    shows_the_metrics(tmp_path / "run")


@pytest.mark.slow
def test_the_command_goes_on_with_another_tracker(tmp_path):
    out = tmp_path / "run"
    assert main(["train", str(tiny_recipe(tmp_path)), "--quiet", "--out", str(out)]) == 0
    assert main(["train", "--resume", str(out), "--quiet", "--tracker", "tensorboard"]) == 0
    shows_the_metrics(out)
    assert reader(out).Tags()["images"] == ["gallery"]


def test_a_tracker_changes_no_bit_of_the_run(tmp_path):
    fit(new_run(tmp_path / "plain"), Progress())
    train(new_run(tmp_path / "tracked"))
    same_files(tmp_path / "plain", tmp_path / "tracked")


def test_a_disk_that_is_full_costs_a_warning_and_no_run(tmp_path, monkeypatch, caplog):
    from tensorboard.summary.writer.record_writer import RecordWriter

    def full(_records, _data):
        raise OSError(28, "No space left on device")

    class ThenTheDiskIsFull(Watcher):
        def epoch(self, row):
            monkeypatch.setattr(RecordWriter, "write", full)

    fit(new_run(tmp_path / "plain"), Progress())
    run = new_run(tmp_path / "tracked")
    with caplog.at_level(logging.WARNING):
        train(run, "tensorboard", ThenTheDiskIsFull())
    assert [record.getMessage() for record in caplog.records] == [
        "tensorboard failed and gets no more of this run, which continues (OSError: [Errno 28] No space left on device)"
    ]
    same_files(tmp_path / "plain", tmp_path / "tracked")
    assert sorted(curves(tmp_path / "tracked")) == [0]


@pytest.mark.slow
def test_very_many_clusters_give_no_picture(tmp_path):
    class Counter:
        shown = closed = 0

        def row(self, step, row):
            pass

        def picture(self, step, png):
            self.shown += 1

        def close(self):
            self.closed += 1

    for k, shown in ((100, 1), (101, 0)):
        writer, images = Counter(), tiny_images(120)
        run = new_run(tmp_path / str(k), tiny_config(n_clusters=k, max_steps=1, cluster_from=9), images)
        with Tracker("tensorboard", writer, run) as tracker:
            workflow.train(run, Progress(), [tracker])
        assert (writer.shown, writer.closed) == (shown, 1)


def test_an_unknown_tracker(tmp_path, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["train", str(tiny_recipe(tmp_path)), "--tracker", "mlflow", "--out", str(tmp_path / "run")])
    assert exit_.value.code == 2
    assert "invalid choice 'mlflow'" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_missing_package_is_noticed_before_anything_is_read(tmp_path, monkeypatch, capsys, name):
    for module in (name, "tensorboard.compat", "wandb.sdk"):
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr(workflow, "load_images", None)
    for args in ([str(tiny_recipe(tmp_path)), "--out", str(tmp_path / "run")], ["--resume", str(tmp_path / "run")]):
        assert main(["train", *args, "--tracker", name]) == 2
        said = capsys.readouterr().err
        assert said == f"shoal: --tracker {name} needs a package that is missing: pip install 'shoal[{name}]'\n"
    assert not (tmp_path / "run").exists()


@pytest.fixture
def fake(request, monkeypatch):
    for name in ("WANDB_PROJECT", "WANDB_NAME", "WANDB_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    module = FakeWandB(online=request.param)
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.setitem(sys.modules, "wandb.sdk", types.ModuleType("wandb.sdk"))
    return module


both_modes = pytest.mark.parametrize(
    "fake",
    [pytest.param(False, id="offline"), pytest.param(True, id="online", marks=pytest.mark.slow)],
    indirect=True,
)


@both_modes
def test_wandb_goes_on_with_its_run_and_is_told_each_step_once(tmp_path, fake):
    config = tiny_config(epochs=4)
    run = new_run(tmp_path / "run", config)
    with pytest.raises(Killed):
        train(run, "wandb", KillAfter(run, 3))
    run = reopened(tmp_path / "run")
    with open_tracker("wandb", run, quiet=True) as tracker:
        workflow.train(run, Progress(), [tracker])
    rows = ResultFolder(tmp_path / "run").read_metrics()
    gallery = {"gallery": str(tmp_path / "run" / "wandb" / "gallery.png")}
    clock = {"seconds", "images_per_second", "e_step_seconds"}
    assert [step for step, _ in fake.told] == [0, 1, 2, 3, 4, 5]
    for (_, told), row in zip(fake.told, [*rows, gallery], strict=True):
        assert {k: v for k, v in told.items() if k not in clock} == {k: v for k, v in row.items() if k not in clock}
    first, second = fake.inits
    assert (first["id"], first["resume"]) == (None, None)
    assert (second["id"], second["resume"]) == ("abc", "allow")
    assert first["dir"] == tmp_path / "run"
    assert (first["project"], first["name"]) == ("shoal", "run")
    assert first["config"]["optim.batch_size"] == 16
    train(reopened(tmp_path / "run"), "wandb")
    assert len(fake.told) == 6
    assert fake.ended == 3


@pytest.mark.parametrize("fake", [True], indirect=True)
def test_a_tracker_that_cannot_begin_ends_the_command_before_training(tmp_path, fake, monkeypatch, capsys):
    def init(**_arguments):
        raise RuntimeError("api_key not configured\n(no-tty)")

    monkeypatch.setattr(fake, "init", init)
    assert main(["train", str(tiny_recipe(tmp_path)), "--tracker", "wandb", "--out", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said == "shoal: --tracker wandb cannot start: RuntimeError: api_key not configured (no-tty)"
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="wandb is not installed")
@pytest.mark.timeout(300)
def test_wandb_itself_offline(tmp_path):
    """In a process of its own, as it starts threads and another process: the second time there is nothing to tell."""
    out = tmp_path / "run"
    surroundings = {**os.environ, "WANDB_MODE": "offline", "HOME": str(tmp_path)}
    command = [sys.executable, "-c", TRAIN_TWICE, str(tiny_recipe(tmp_path)), str(out)]
    done = subprocess.run(command, env=surroundings, capture_output=True, text=True, timeout=240, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    first, second = sorted(out.glob("wandb/offline-run-*/*.wandb"), key=lambda path: path.stat().st_mtime_ns)
    assert first.name == second.name == f"run-{json.loads((out / 'wandb' / 'shoal.json').read_text())['id']}.wandb"
    rows = history(first)
    assert [row.pop("_step") for row in rows] == [0, 1, 2, 3, 4]
    assert rows.pop()["gallery/_type"] == "image-file"
    assert [{k: v for k, v in row.items() if not k.startswith("_")} for row in rows] == ResultFolder(out).read_metrics()
    assert history(second) == []
