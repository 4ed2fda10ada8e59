"""A result is changed by one process at a time, and read by any number."""

import threading
import time

import pytest
from tests.commands import complaint
from tests.runs import new_run, tiny_recipe

from shoal.cli.main import main
from shoal.errors import UserError
from shoal.folder import UPDATE, ResultFolder
from shoal.progress import Progress
from shoal.results.train import train
from shoal.training import fit


def test_nothing_else_changes_a_result_that_is_held(tmp_path):
    run = new_run(tmp_path / "run")
    (folder := run.folder).path.joinpath(".state.tmp").touch()
    with ResultFolder(folder.path).alone():
        for change in (lambda: fit(run, Progress()), lambda: folder.alone().__enter__()):
            with pytest.raises(UserError, match="another process is changing"):
                change()
        assert folder.path.joinpath(".state.tmp").exists()
    train(run, Progress())
    assert not folder.path.joinpath(".state.tmp").exists()  # of a killed process
    main(["learn", str(folder.path), "--undo"])  # a command that ends in an error releases the result
    with folder.alone():
        pass


def test_a_resumed_run_and_a_report_leave_a_result_that_is_held(tmp_path, capsys):
    recipe = tiny_recipe(tmp_path)
    assert main(["train", str(recipe), "--out", str(tmp_path / "run"), "--quiet"]) == 0
    state = (folder := ResultFolder(tmp_path / "run")).state.read_bytes()
    capsys.readouterr()
    with folder.alone():
        for more in ([], ["--epochs", "9"]):
            assert main(["train", "--resume", str(folder.path), *more, "--quiet"]) == 2
            assert "another process is changing" in complaint(capsys)
    assert folder.state.read_bytes() == state


def test_a_reader_waits_for_an_update_that_moves_into_place(tmp_path):
    folder = ResultFolder(tmp_path)
    staged = tmp_path / UPDATE
    staged.mkdir()
    (tmp_path / "old").touch()
    (staged / "new").write_text("new")
    moved = []

    def update():
        with folder.alone():
            (staged / "ready.json").write_text('["old"]')
            begun.set()
            time.sleep(0.3)
            moved.append(sorted(path.name for path in tmp_path.iterdir()))
            folder.put_in_place([tmp_path / "old"])

    begun = threading.Event()
    thread = threading.Thread(target=update)
    thread.start()
    begun.wait()
    ResultFolder(tmp_path).complete_update()
    assert (tmp_path / "new").exists()
    thread.join()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new"]
    assert moved == [[".lock", ".update", "old"]]


def test_whoever_holds_a_result_has_its_update_completed(tmp_path):
    staged = tmp_path / UPDATE
    staged.mkdir()
    (staged / "new").write_text("new")
    (staged / "ready.json").write_text("[]")
    folder = ResultFolder(tmp_path)
    with folder.alone():
        assert (tmp_path / "new").exists()
        folder.complete_update()  # does not wait for itself


def test_an_update_that_was_killed_while_it_moved_is_completed(tmp_path):
    staged = tmp_path / UPDATE
    staged.mkdir()
    (staged / "new").write_text("new")
    (staged / "ready.json").write_text("[]")
    ResultFolder(tmp_path).complete_update()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new"]
