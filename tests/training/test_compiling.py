"""Whether networks are compiled, and that a compiled run is a run like others."""

from __future__ import annotations

import json
from dataclasses import replace

import jaxtyping
import pytest
import torch
from safetensors.torch import load_file
from tests.runs import StopAfter, new_run, reopened, same_files, tiny_config

from shoal.models import Backbone, BackboneConfig, backbone, build_backbone
from shoal.progress import Progress
from shoal.results import train as workflow
from shoal.training import compiling, fit
from shoal.training.compiling import Measured
from shoal.training.run import Interrupted


class Notes(Progress):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """What one test measures is not there for another; graphs are traced, and not translated to C++."""
    monkeypatch.setenv("SHOAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(backbone, "COMPILER", "aot_eager")
    jaxtyping.config.update("jaxtyping_disable", True)  # checks of shapes cannot be traced
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
    torch.compiler.reset()


def kept(tmp_path) -> dict:
    return json.loads((tmp_path / "cache" / "compiling.json").read_text())


def test_a_short_run_is_not_asked_about(tmp_path, monkeypatch):
    monkeypatch.setattr(compiling, "_measure", lambda _run: pytest.fail("measured"))
    log = Notes()
    run = new_run(tmp_path / "run")
    fit(run, progress)
    assert not run.compiled
    assert log.notes == []


@pytest.mark.parametrize(("eager", "word"), [(1.0, "compiled: 2.00 times"), (0.5, "not compiled: 1.00 times")])
def test_a_long_run_is_told_in_a_line_and_the_next_one_knows(tmp_path, monkeypatch, eager, word):
    monkeypatch.setattr(compiling, "LONG", 0.0)
    measured = []
    monkeypatch.setattr(compiling, "_measure", lambda run: measured.append(run.epoch) or Measured(eager, 0.5, 1e-5))
    for seed in (3, 4):
        log = Notes()
        run = new_run(tmp_path / str(seed), replace(tiny_config(), seed=seed))
        fit(run, progress)
        assert run.compiled == (eager == 1.0)
        (line,) = log.notes
        assert line.startswith(f"networks are {word}")
        assert "over 4 steps that " in line
    assert measured == [1]
    assert len(kept(tmp_path)) == 1


def test_the_answer_is_given_again_after_a_stop_before_it(tmp_path, monkeypatch):
    monkeypatch.setattr(compiling, "LONG", 0.0)
    monkeypatch.setattr(compiling, "_measure", lambda _run: Measured(1.0, 0.5, 1e-5))
    fit(new_run(tmp_path / "whole"), Progress())
    with pytest.raises(Interrupted):
        fit(new_run(tmp_path / "halves"), StopAfter(2))  # with the last step of the first epoch
    run = reopened(tmp_path / "halves")
    assert not run.compiled
    fit(run, Progress())
    assert run.compiled
    assert reopened(tmp_path / "halves").compiled
    whole, halves = (load_file(tmp_path / name / "state.safetensors") for name in ("whole", "halves"))
    assert torch.equal(whole["method.predictor.0.weight"], halves["method.predictor.0.weight"])


def test_a_measurement_is_of_both_and_leaves_the_run_alone(tmp_path):
    run = new_run(tmp_path / "run")
    before = {name: value.clone() for name, value in run.method.state_dict().items()}
    state = torch.get_rng_state()
    measured = compiling._measure(run)
    assert torch.equal(torch.get_rng_state(), state)
    assert measured.compiling > measured.compiled > 0
    assert measured.eager > 0
    assert not any(part._compiled for part in run.method.modules() if isinstance(part, Backbone))
    for name, value in run.method.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_a_compiler_that_fails_leaves_networks_as_they_are(tmp_path, monkeypatch):
    monkeypatch.setattr(compiling, "LONG", 0.0)
    monkeypatch.setattr(backbone, "COMPILER", "there is no such compiler")
    progress, run = Notes(), new_run(tmp_path / "run")
    fit(run, progress)
    assert not run.compiled
    assert log.notes[0].startswith("networks are not compiled: ")


@pytest.mark.parametrize("text", ["[1", "[1]", ""])
def test_what_is_kept_may_be_damaged(tmp_path, monkeypatch, text):
    monkeypatch.setattr(compiling, "LONG", 0.0)
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "compiling.json").write_text(text)
    monkeypatch.setattr(compiling, "_measure", lambda _run: Measured(1.0, 0.5, 1e-5))
    run = new_run(tmp_path / "run")
    fit(run, Progress())
    assert run.compiled
    assert len(kept(tmp_path)) == 1


def test_a_compiled_run_trains_alike_and_goes_on_compiled(tmp_path):
    config = tiny_config(compile="on")
    workflow.train(new_run(tmp_path / "plain", replace(config, compile="off")), Progress())
    workflow.train(new_run(tmp_path / "whole", config), Progress())
    with pytest.raises(Interrupted):
        fit(new_run(tmp_path / "halves", config), StopAfter(3))
    run = reopened(tmp_path / "halves")
    assert run.compiled
    workflow.train(run, Progress())
    same_files(tmp_path / "whole", tmp_path / "halves")
    plain, compiled = (load_file(tmp_path / name / "model.safetensors") for name in ("plain", "whole"))
    assert plain.keys() == compiled.keys()
    for name, value in plain.items():
        torch.testing.assert_close(compiled[name], value, rtol=1e-3, atol=1e-3, msg=name)


def test_only_training_is_compiled():
    network = build_backbone(BackboneConfig(name="small", width=4))
    images = torch.rand(4, 3, 8, 8)
    network.compile_training()
    calls = []
    network._compiled = lambda images: calls.append("compiled") or network._features(images)
    network(images)
    network.eval()(images)
    assert calls == ["compiled"]
