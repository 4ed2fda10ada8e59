"""When networks are compiled, and that a compiled run is a run like others."""

from __future__ import annotations

from dataclasses import replace

import jaxtyping
import pytest
import torch
from safetensors.torch import load_file
from tests.runs import StopAfter, new_run, reopened, same_files, tiny_config

from shoal.models import BackboneConfig, backbone, build_backbone
from shoal.progress import Progress
from shoal.training import fit, run, settings
from shoal.training.run import Interrupted
from shoal.training.settings import LONG_STEPS, compiles

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def _traced(monkeypatch):
    """Graphs are traced, and not translated to C++."""
    monkeypatch.setattr(backbone, "COMPILER", "aot_eager")
    jaxtyping.config.update("jaxtyping_disable", True)  # checks of shapes cannot be traced
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
    torch.compiler.reset()


def test_long_runs_on_a_gpu_are_compiled_and_others_on_demand(monkeypatch):
    monkeypatch.setattr(settings, "compiler_error", lambda _device: "")
    config = tiny_config()
    assert compiles(config, LONG_STEPS, GPU)
    assert not compiles(config, LONG_STEPS - 1, GPU)
    assert not compiles(config, LONG_STEPS, CPU)
    assert not compiles(replace(config, compile="off"), LONG_STEPS, GPU)
    assert compiles(replace(config, compile="on"), 1, CPU)


def test_a_compiler_that_does_not_work_is_told_and_left_out(monkeypatch, caplog):
    monkeypatch.setattr(settings, "compiler_error", lambda _device: "no C compiler")
    assert not compiles(tiny_config(), LONG_STEPS, GPU)
    assert caplog.messages == ["training without torch.compile, which does not work here: no C compiler"]


@pytest.mark.usefixtures("_traced")
def test_what_a_compiler_complains_of_is_known(monkeypatch):
    assert backbone.compiler_error(CPU) == ""
    monkeypatch.setattr(backbone, "COMPILER", "there is no such compiler")
    assert "there is no such compiler" in backbone.compiler_error(CPU)


@pytest.mark.slow
@pytest.mark.usefixtures("_traced")
def test_a_compiled_run_trains_alike_and_resumes_compiled(tmp_path):
    config = tiny_config(compile="on")
    fit(new_run(tmp_path / "plain", replace(config, compile="off")), Progress())
    fit(new_run(tmp_path / "whole", config), Progress())
    with pytest.raises(Interrupted):
        fit(new_run(tmp_path / "halves", config), Progress(), [StopAfter(3)])
    resumed = reopened(tmp_path / "halves")
    assert resumed.compiled
    fit(resumed, Progress())
    same_files(tmp_path / "whole", tmp_path / "halves")
    plain, compiled = (load_file(tmp_path / name / "state.safetensors") for name in ("plain", "whole"))
    assert plain.keys() == compiled.keys()
    for name in (name for name in plain if name.startswith("method.")):
        torch.testing.assert_close(compiled[name], plain[name], rtol=1e-3, atol=1e-3, msg=name)


def test_a_run_resumes_as_it_began_whatever_this_version_would_choose(tmp_path, monkeypatch):
    new_run(tmp_path / "run").save()
    monkeypatch.setattr(run, "compiles", lambda *_: True)
    assert new_run(tmp_path / "another").compiled
    assert not reopened(tmp_path / "run").compiled


def test_only_training_is_compiled():
    network = build_backbone(BackboneConfig(name="small", width=4))
    images = torch.rand(4, 3, 8, 8)
    network.compile_training()
    calls = []
    network._compiled = lambda images: calls.append("compiled") or network._features(images)
    network(images)
    network.eval()(images)
    assert calls == ["compiled"]
