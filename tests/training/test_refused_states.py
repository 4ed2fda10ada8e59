"""What a run refuses to go on from, and what it never saves."""

import dataclasses
import shutil

import pytest
import torch
from tests.runs import new_run, reopened, tiny_images

import shoal.tensors
from shoal.config import load_recipe, to_yaml
from shoal.errors import UserError
from shoal.folder import ResultFolder
from shoal.progress import Progress
from shoal.results import train as workflow


@pytest.mark.parametrize("keep", [0, 7, 100, -1])
def test_a_truncated_state_is_refused_in_a_sentence(tmp_path, keep):
    run = new_run(tmp_path / "run")
    run.save()
    run.folder.state.write_bytes(run.folder.state.read_bytes()[:keep])
    with pytest.raises(UserError, match=r"state\.safetensors is damaged .*bring it back from a copy"):
        reopened(tmp_path / "run")


def test_a_run_of_a_newer_version_is_refused(tmp_path, monkeypatch):
    run = new_run(tmp_path / "run")
    monkeypatch.setattr(shoal.tensors, "FORMAT", shoal.tensors.FORMAT + 1)
    run.save()
    monkeypatch.undo()
    with pytest.raises(UserError, match="newer version of shoal"):
        reopened(tmp_path / "run")


def test_half_a_line_of_metrics_is_forgotten(tmp_path):
    run = new_run(tmp_path / "run")
    run.folder.append_metrics({"epoch": 0})
    with run.folder.metrics.open("a") as file:
        file.write('{"epoch": 1, "lo')
    assert ResultFolder(run.folder.path).read_metrics() == [{"epoch": 0}]


def test_changed_images_are_noticed(tmp_path):
    run = new_run(tmp_path / "run")
    run.save()
    for images in (tiny_images(39), dataclasses.replace(tiny_images(), pixels=tiny_images().pixels + 1)):
        with pytest.raises(UserError, match="have changed since it was saved"):
            reopened(tmp_path / "run", images)


def test_weights_that_are_not_finite_are_never_saved(tmp_path):
    run = new_run(tmp_path / "run")
    run.save()
    before = run.folder.state.read_bytes()
    with torch.no_grad():
        next(run.method.parameters())[0] = torch.inf
    with pytest.raises(UserError, match=r"method\.\S+ is not finite"):
        run.save()
    assert run.folder.state.read_bytes() == before


@pytest.mark.parametrize("change", [{"n_clusters": 3}, {"epochs": 6}, {"seed": 1}])
def test_a_changed_config_is_not_resumed(tmp_path, change):
    new_run(tmp_path / "run").save()
    path = tmp_path / "run" / "config.yaml"
    path.write_text(to_yaml(dataclasses.replace(load_recipe(str(path)), **change)))
    with pytest.raises(UserError, match=r"has changed since the run began.*shoal train .*config\.yaml --out"):
        reopened(tmp_path / "run")


def test_a_file_of_another_kind_is_damaged(tmp_path):
    workflow.train(new_run(tmp_path / "run"), Progress())
    folder = ResultFolder(tmp_path / "run")
    shutil.copy(folder.model, folder.state)
    with pytest.raises(UserError, match=r"config\.yaml has changed|is damaged|images of .* have changed"):
        reopened(tmp_path / "run")


def test_garbage_metrics_are_refused_in_a_sentence(tmp_path):
    run = new_run(tmp_path / "run")
    run.save()
    run.folder.metrics.write_bytes(b"\xff\xfe\n{]\n")
    with pytest.raises(UserError, match=r"^\S*metrics\.jsonl is damaged"):
        reopened(tmp_path / "run")


def test_images_too_small_for_the_backbone_are_refused_before_anything_is_written(tmp_path):
    images = dataclasses.replace(tiny_images(), pixels=tiny_images().pixels[:, :, :2, :2])
    with pytest.raises(UserError, match=r"backbone small cannot take images of 2 × 2 px .*--data\.size"):
        new_run(tmp_path / "run", images=images)
    assert not (tmp_path / "run").exists()
