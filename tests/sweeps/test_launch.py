"""The processes of a sweep: failures, signals, and what is done again."""

import os
import signal
import threading
import time

import pytest

from shoal.cli import child
from shoal.config import to_yaml
from shoal.errors import UserError
from shoal.folder import ResultFolder
from shoal.sweeps.launch import Machine, stop_handler


def test_a_failing_run_ends_no_other_and_is_tried_again(sweep):
    folder, points, launcher, heard = sweep(0, 1, 3, jobs=2)
    ended = launcher.run(points, points, heard)
    assert [point.seed for point in ended.done] == [0, 3]
    assert [(each.point.seed, each.reason) for each in ended.failed] == [(1, "this seed brings bad luck")]
    assert "bad luck" in ended.failed[0].log.read_text()
    assert [folder.status(point) for point in points] == ["done", "begun", "done"]
    assert sum("failed: this seed" in line for line in heard.lines) == 1
    assert len(heard.lines) == 3
    (folder.path / "mended").touch()
    _, _, again, heard = sweep(0, 1, 3)
    ended = again.run([point for point in points if folder.status(point) != "done"], points, heard)
    assert [point.seed for point in ended.done] == [1]
    assert not ended.failed
    assert heard.lines[0].startswith("[3/3] propos-digits_seed=1: done in")
    starts = [(folder.path / point.name / "starts").read_text().splitlines() for point in points]
    assert [len(each) for each in starts] == [1, 2, 1]
    assert starts[1][1].startswith("True")


def test_the_processes_load_the_plugins_of_the_sweep(sweep):
    folder, points, launcher, heard = sweep(0, plugins=["mine.py"])
    launcher.run(points, points, heard)
    assert (folder.path / points[0].name / "starts").read_text().startswith("--plugin mine.py 3")


def test_a_run_that_cannot_be_started_is_a_failed_one(sweep):
    folder, points, launcher, heard = sweep(0, 3)
    folder.log(points[0].name).parent.mkdir()
    folder.log(points[0].name).mkdir()  # as any other error of the system
    ended = launcher.run(points, points, heard)
    assert [point.seed for point in ended.done] == [3]
    assert ended.failed[0].reason == "it cannot be started: Is a directory"


def test_threads_and_gpus_are_divided(sweep):
    folder, points, launcher, heard = sweep(0, 3, 4, jobs=2, gpus=("5", "7"))
    launcher.run(points, points, heard)
    found = [(folder.path / point.name / "starts").read_text().split() for point in points]
    assert {each[1] for each in found} == {"3"}
    assert {each[2] for each in found} == {"5", "7"}


def test_the_machine_gives_each_process_its_share(monkeypatch):
    monkeypatch.setattr("torch.get_num_threads", lambda: 8)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, 6")
    assert Machine.of(None) == Machine(2, ["3", "6"], 4)
    assert Machine.of(16).threads == 1
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert Machine.of(None) == Machine(1, [], 8)


@pytest.mark.parametrize("signals", [1, 2])
def test_a_signal_lets_runs_save_and_a_second_ends_them(sweep, signals):
    folder, points, launcher, heard = sweep(2, 3)
    handle = stop_handler(launcher)
    waits = folder.path / points[0].name / "waits"

    def send():
        while not waits.exists():
            time.sleep(0.01)
        for _ in range(signals):
            handle(signal.SIGTERM, None)

    threading.Thread(target=send).start()
    ended = launcher.run(points, points, heard)
    assert ended.signum == signal.SIGTERM
    assert not ended.done
    assert not ended.failed
    assert (folder.path / points[0].name / "saved").exists() == (signals == 1)
    assert not (folder.path / points[1].name).exists()


def test_a_killed_run_is_a_failed_one(sweep):
    folder, points, launcher, heard = sweep(2)

    def kill():
        while not (folder.path / points[0].name / "waits").exists():
            time.sleep(0.01)
        os.kill(launcher._running[0].process.pid, signal.SIGKILL)

    threading.Thread(target=kill).start()
    assert "want of memory" in launcher.run(points, points, heard).failed[0].reason


def test_two_processes_do_not_share_a_sweep(sweep):
    folder, *_ = sweep(0)
    with folder.locked(), pytest.raises(UserError, match="another process"), folder.locked():
        pass


def test_a_sweep_grows_and_is_no_other(sweep):
    folder, points, launcher, heard = sweep(0)
    launcher.run(points, points, heard)
    _, points, launcher, heard = sweep(0, 3)
    assert [folder.status(point) for point in points] == ["done", "new"]
    assert [member.seed for member in folder.members()] == [0, 3]
    with pytest.raises(UserError, match="which this one lacks"):
        sweep(0)
    with pytest.raises(UserError, match="which this one lacks"):
        sweep(0, 3, words=["optim.lr=0.1"])


def test_a_sweep_whose_recipe_has_changed_is_another(sweep):
    folder, points, *_ = sweep(0)
    folder.recipe(points[0].name).write_text("epochs: 7\n" + to_yaml(points[0].config).replace("epochs: 90\n", ""))
    with pytest.raises(UserError, match="epochs is 7, not 90"):
        sweep(0)


def test_the_folder_of_a_run_that_holds_another_run(sweep):
    folder, points, *_ = sweep(0)
    run = ResultFolder(folder.path / points[0].name)
    run.path.mkdir()
    run.config.write_text("{epochs: 7}")
    with pytest.raises(UserError, match="has other settings"):
        folder.status(points[0])


@pytest.mark.parametrize(
    "text", ['{"format"', "[]", '{"format": 1, "runs": 3}', '{"format": 1, "runs": [{"name": 1}]}']
)
def test_a_damaged_sweep(sweep, text):
    folder, *_ = sweep(0)
    folder.index.write_text(text)
    with pytest.raises(UserError, match="is damaged"):
        folder.members()
    folder.index.write_text('{"format": 99, "runs": []}')
    with pytest.raises(UserError, match="newer version"):
        folder.members()


def test_a_folder_with_other_things_is_left_alone(sweep, tmp_path):
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "thesis.tex").touch()
    with pytest.raises(UserError, match="not an empty folder"):
        sweep(0)


def test_a_child_stops_once_its_parent_is_gone(monkeypatch):
    pipe = iter([b"x", b""])
    killed = []
    monkeypatch.setattr(os, "read", lambda *_: next(pipe))
    monkeypatch.setattr(os, "kill", lambda pid, signum: killed.append((pid, signum)))
    child._stop_with_parent()
    assert killed == [(os.getpid(), signal.SIGTERM)]
