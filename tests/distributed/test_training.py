"""A run over ranks is the run of one process, and goes on over any number of them."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.contract.examples import SMALL
from tests.ranks import on_ranks, on_two_ranks
from tests.runs import StopAfter, beside, new_run, reopened, tiny_config, tiny_images

from shoal import distributed
from shoal.config import RunConfig
from shoal.errors import UserError
from shoal.progress import Progress
from shoal.results import train as workflow
from shoal.training import Run, fit
from shoal.training.folder import RunFolder
from shoal.training.run import Interrupted


def config_of(name: str, *, accumulate: int = 1) -> RunConfig:
    """A config whose batch-norm statistics are those of the global batch."""
    config = tiny_config(method=SMALL[name], sync_batch_norm=True)
    return dataclasses.replace(config, optim=dataclasses.replace(config.optim, lr=0.02, accumulate=accumulate))


def to_the_end(run: Run) -> None:
    """What the command does: the first rank writes what was found."""
    (workflow.train if distributed.is_first() else fit)(run, Progress())


def every_method(folder: Path) -> None:
    """A finished run of each."""
    for name in SMALL:
        to_the_end(new_run(folder / name, config_of(name)))
    images = beside(tiny_images(), 9)
    to_the_end(new_run(folder / "beside", config_of("propos", accumulate=2), images))


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> tuple[Path, Path]:
    """All runs by one process, and by two."""
    alone, ranks = tmp_path_factory.mktemp("alone"), tmp_path_factory.mktemp("ranks")
    every_method(alone)
    on_two_ranks(functools.partial(every_method, ranks))
    return alone, ranks


@pytest.mark.parametrize("name", [*SMALL, "beside"])
def test_two_ranks_train_as_one_process(folders, name):
    one, two = (RunFolder(folder / name) for folder in folders)
    assert one.read_metrics()[0]["loss"] > 0 or name.startswith(("simsiam", "cc"))
    for mine, other in zip(one.read_metrics(), two.read_metrics(), strict=True):
        for key in mine.keys() - {"seconds", "images_per_second", "e_step_seconds"}:
            assert mine[key] == pytest.approx(other[key], rel=2e-3, abs=2e-3), key
    weights = [load_file(each.model) for each in (one, two)]
    assert weights[0].keys() == weights[1].keys()
    for key, value in weights[0].items():
        torch.testing.assert_close(weights[1][key].float(), value.float(), rtol=5e-3, atol=5e-3, msg=key)
    assert one.assignments.exists()
    assert two.assignments.exists()
    assert two.report.exists()


def stopped(folder: Path) -> None:
    """A run that is asked to stop on its second rank alone, and stops on both."""
    run = new_run(folder, config_of("propos"))
    with pytest.raises(Interrupted):
        fit(run, Progress(), [StopAfter(3)] if distributed.rank() == 1 else [])
    assert run.steps_done == 3


def gone_on(folder: Path) -> list[int]:
    """The same run to its end, by however many ranks there are now."""
    run = reopened(folder)
    before = run.steps_done
    to_the_end(run)
    return [before, run.steps_done]


@pytest.mark.parametrize("n", [1, 2, 4])
def test_a_run_of_two_ranks_goes_on_over_any_number(folders, tmp_path, n):
    folder = tmp_path / "run"
    on_two_ranks(functools.partial(stopped, folder))
    found = [gone_on(folder)] if n == 1 else on_ranks(n, functools.partial(gone_on, folder))
    assert found == [[3, 6]] * n
    whole = load_file(folders[0] / "propos" / "model.safetensors")
    for key, value in load_file(folder / "model.safetensors").items():
        torch.testing.assert_close(value.float(), whole[key].float(), rtol=5e-3, atol=5e-3, msg=key)


def refused(folder: Path) -> str:
    """What three ranks say to a run whose batch they cannot share."""
    with pytest.raises(UserError) as error:
        reopened(folder)
    return str(error.value)


def test_a_batch_that_ranks_cannot_share_is_refused(tmp_path):
    on_two_ranks(functools.partial(stopped, tmp_path / "run"))
    for text in on_ranks(3, functools.partial(refused, tmp_path / "run")):
        assert "takes 16 images a step, which 3 processes cannot share equally" in text


def draws(folder: Path) -> list[list[float]]:
    """What torch's default generator gives at the start of a run, and after it was saved and read again."""
    run = new_run(folder)
    found = []
    for each in (run, None):
        current = each or reopened(folder)
        with torch.random.fork_rng():
            torch.set_rng_state(current.default_rng["cpu"])
            found.append(torch.rand(3).tolist())
            torch.set_rng_state(current.default_rng["cpu"])
            current.save()
    return found


def test_what_ranks_drop_out_differs_and_is_kept(tmp_path):
    first, second = on_two_ranks(functools.partial(draws, tmp_path / "run"))
    assert first[0] != second[0]
    assert first[0] == first[1]
    assert second[0] == second[1]
