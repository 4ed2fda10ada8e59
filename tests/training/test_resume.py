"""A run that was stopped anywhere and resumed is the unbroken run, bit for bit."""

import dataclasses
import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.ranks import PROCESSES
from tests.runs import StopAfter, beside, new_run, reopened, same_files, tiny_config, tiny_images, tiny_recipe

import shoal.training.run
from shoal.cli.main import main
from shoal.config import load_recipe, to_yaml
from shoal.errors import UserError
from shoal.folder import ResultFolder
from shoal.methods import CCConfig, MoCoConfig, ProPosConfig, build
from shoal.progress import Progress
from shoal.results import train as workflow
from shoal.training import fit
from shoal.training.loop import e_step
from shoal.training.run import Interrupted, Watcher


@pytest.fixture(scope="module")
def wholes(tmp_path_factory):
    """Unbroken runs, by whether they resample."""
    folders = {resample: tmp_path_factory.mktemp("whole") / "run" for resample in (False, True)}
    for resample, folder in folders.items():
        fit(new_run(folder, tiny_config(resample=resample)), Progress())
    return folders


@pytest.mark.parametrize("resample", [False, True])
@pytest.mark.parametrize("steps", [1, 2, 3, 5])
def test_a_run_stopped_after_any_step_resumes_as_if_unbroken(wholes, tmp_path, steps, resample):
    run = new_run(tmp_path / "broken", tiny_config(resample=resample))
    with pytest.raises(Interrupted) as stop:
        fit(run, Progress(), [StopAfter(steps)])
    assert stop.value.signum == signal.SIGTERM
    assert run.steps_done == steps
    fit(reopened(tmp_path / "broken"), Progress())
    same_files(wholes[resample], tmp_path / "broken")


def test_a_run_stopped_in_an_e_step_resumes_as_if_unbroken(wholes, tmp_path):
    class StopInSecondEStep(Progress):
        n = 0

        def update(self, job, done, total, rate="", *, within=False) -> None:
            self.n += job == "clustering"
            if self.n == 2:
                run.stop_signal = signal.SIGINT

    run = new_run(tmp_path / "broken")
    with pytest.raises(Interrupted):
        fit(run, StopInSecondEStep())
    assert run.steps_done == 4  # no E-step precedes the first epoch, whose losses want no clusters
    fit(reopened(tmp_path / "broken"), Progress())
    same_files(wholes[False], tmp_path / "broken")


@pytest.mark.parametrize(
    ("method", "resample"),
    [
        (ProPosConfig(hidden=16, dim=8, queue=50), True),
        pytest.param(MoCoConfig(dim=8, queue=50), False, marks=pytest.mark.slow),
    ],
)
def test_a_run_with_images_beside_the_clustered_ones_goes_on_as_well(tmp_path, method, resample):
    images = beside(tiny_images(), 17)
    config = tiny_config(method=method, resample=resample)
    config = dataclasses.replace(config, optim=dataclasses.replace(config.optim, batch_size=9, accumulate=2))
    fit(new_run(tmp_path / "whole", config, images), Progress())
    run = new_run(tmp_path / "broken", config, images)
    with pytest.raises(Interrupted):
        fit(run, Progress(), [StopAfter(4)])
    fit(reopened(tmp_path / "broken", images), Progress())
    same_files(tmp_path / "whole", tmp_path / "broken")


def test_loss_terms_are_added_up_in_the_order_they_were_counted_in(tmp_path):
    config = tiny_config(method=CCConfig(dim=8))  # its terms are not in the order of the alphabet
    fit(new_run(tmp_path / "whole", config), Progress())
    run = new_run(tmp_path / "broken", config)
    with pytest.raises(Interrupted):
        fit(run, Progress(), [StopAfter(3)])
    run = reopened(tmp_path / "broken")
    assert list(run.state.totals) == ["instance", "cluster", "entropy"]
    fit(run, Progress())
    same_files(tmp_path / "whole", tmp_path / "broken")
    whole, broken = ([list(row) for row in ResultFolder(tmp_path / x).read_metrics()] for x in ("whole", "broken"))
    assert whole == broken


def test_a_backbone_with_dropout_resumes_as_well(tmp_path):
    config = tiny_config()
    # timm's smallest MobileNet ends in dropout-free pooling; its drop path draws from torch's default generator.
    backbone = dataclasses.replace(config.backbone, name="test_efficientnet")
    config = dataclasses.replace(config, backbone=backbone, epochs=2)
    fit(new_run(tmp_path / "whole", config), Progress())
    with pytest.raises(Interrupted):
        fit(new_run(tmp_path / "broken", config), Progress(), [StopAfter(3)])
    fit(reopened(tmp_path / "broken"), Progress())
    same_files(tmp_path / "whole", tmp_path / "broken")


def train_in_child(args: list[str], output: str) -> None:
    """The command in a process of its own, saving at every chance it has."""
    handle = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os.environ["SHOAL_CACHE"] = f"{output}.cache"
    torch.set_num_threads(1)
    shoal.training.run.SAVE_SECONDS = 0.0
    shoal.training.run.SAVE_PATIENCE = 0
    os._exit(main(["train", *args]))


@pytest.mark.slow
def test_kill_9_at_random_moments_changes_nothing(tmp_path):
    recipe = str(tiny_recipe(tmp_path))
    output = str(tmp_path / "output.txt")

    def start(args: list[str]):
        child = PROCESSES.Process(target=train_in_child, args=(args, output))
        child.start()
        return child

    whole = start([recipe, "--out", str(tmp_path / "whole")])
    whole.join()
    assert whole.exitcode == 0, Path(output).read_text()

    broken, moments = tmp_path / "broken", random.Random(0)
    args, kills = [recipe, "--out", str(broken)], 0
    while not (broken / "model.safetensors").exists():
        child = start(args)
        wait_for_saves(broken / "state.safetensors", moments.randint(1, 6), child)
        time.sleep(moments.uniform(0, 0.1))  # anywhere in a step, a save or an E-step
        child.kill()
        child.join()
        kills += 1
        assert kills < 30, Path(output).read_text()
        args = ["--resume", str(broken)]
    assert kills >= 3
    finishing = start(["--resume", str(broken)])
    finishing.join()
    assert finishing.exitcode == 0, Path(output).read_text()
    same_files(tmp_path / "whole", broken)


def wait_for_saves(state: Path, n: int, child) -> None:
    """Return when the state has been replaced ``n`` times, or the child has ended."""
    seen = {state.stat().st_mtime_ns} if state.exists() else set()
    n += len(seen)
    while len(seen) < n and child.is_alive():
        if state.exists():
            seen.add(state.stat().st_mtime_ns)
        time.sleep(0.001)


@pytest.mark.parametrize(
    ("signum", "status"), [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)]
)
def test_signals_save_and_say_how_to_go_on(tmp_path, signum, status):
    output, out = tmp_path / "output.txt", tmp_path / "run"
    args = [str(tiny_recipe(tmp_path)), "--epochs", "1000", "--out", str(out)]
    child = PROCESSES.Process(target=train_in_child, args=(args, str(output)))
    child.start()
    while not (out / "metrics.jsonl").exists():
        assert child.is_alive(), output.read_text()
        time.sleep(0.01)
    os.kill(child.pid, signum)
    child.join(30)
    assert child.exitcode == status
    assert f"shoal train --resume {out}" in output.read_text()
    assert "Traceback" not in output.read_text()
    assert (out / "state.safetensors").exists()


def test_the_last_good_state_survives_a_full_disk(tmp_path):
    """A file size limit stands in for a full disk: writes fail half way through a file in the same manner."""
    import resource

    run = new_run(tmp_path / "run")
    run.save()
    before = run.folder.state.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, hard))
    try:
        with pytest.raises(UserError, match=r"cannot write .*state\.safetensors: File too large.*is intact"):
            run.save()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert run.folder.state.read_bytes() == before
    assert not list(run.folder.path.glob(".*"))
    reopened(tmp_path / "run")


def test_a_diverged_run_keeps_its_last_good_state(tmp_path):
    class Poison(Watcher):
        def step(self, run) -> None:
            run.state.totals["psa"] += torch.nan

    run = new_run(tmp_path / "run")
    run.save()
    before = run.folder.state.read_bytes()
    with pytest.raises(
        UserError,
        match=r"totals.psa is not finite.*lower --optim.lr.*keeps the last good",
    ):
        fit(run, Progress(), [Poison()])
    assert run.folder.state.read_bytes() == before


def test_features_that_are_not_finite_say_that_training_diverged(tmp_path):
    run = new_run(tmp_path / "run")
    run.method.embed = lambda images: torch.full((len(images), 4), torch.nan)
    run.state.epoch = run.state.step = 1
    with pytest.raises(UserError, match=r"training diverged in epoch 1: features are not finite.*lower --optim.lr"):
        e_step(run, Progress())


def test_buffers_that_are_infinite_from_the_start_are_no_divergence(tmp_path, monkeypatch):
    """As in Gemma's vision tower, whose layers clip to ranges without an end."""
    monkeypatch.setattr(shoal.training.run, "build", lambda *args: with_ranges(build(*args)))
    run = new_run(tmp_path / "run")
    run.save()
    with torch.no_grad():
        run.method.get_buffer("range").fill_(torch.nan)
    with pytest.raises(UserError, match=r"method\.range is not finite"):
        run.save()


def with_ranges(method):
    method.register_buffer("range", torch.tensor([-torch.inf, torch.inf]))
    return method


def test_a_finished_run_resumes_to_itself(tmp_path):
    workflow.train(new_run(tmp_path / "run"), Progress())
    before = load_file(tmp_path / "run" / "model.safetensors")
    rows = ResultFolder(tmp_path / "run").read_metrics()
    workflow.train(reopened(tmp_path / "run"), Progress())
    after = load_file(tmp_path / "run" / "model.safetensors")
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert ResultFolder(tmp_path / "run").read_metrics() == rows


def test_a_stop_at_the_very_last_step_loses_no_row(tmp_path):
    config = tiny_config(max_steps=3)
    fit(new_run(tmp_path / "whole", config), Progress())
    with pytest.raises(Interrupted):
        fit(new_run(tmp_path / "broken", config), Progress(), [StopAfter(3)])
    fit(reopened(tmp_path / "broken"), Progress())
    same_files(tmp_path / "whole", tmp_path / "broken")


def test_images_may_move(tmp_path):
    new_run(tmp_path / "run").save()
    path = tmp_path / "run" / "config.yaml"
    config = load_recipe(str(path))
    path.write_text(to_yaml(dataclasses.replace(config, data=dataclasses.replace(config.data, path="elsewhere"))))
    reopened(tmp_path / "run")
