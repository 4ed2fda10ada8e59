"""A run over ranks is the run of one process, and goes on over any number of them."""

from __future__ import annotations

import dataclasses
import functools
import shutil
from collections.abc import Callable
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
from shoal.folder import ResultFolder
from shoal.progress import Progress
from shoal.results import train as workflow
from shoal.training import fit
from shoal.training.run import Interrupted


def config_of(name: str, *, accumulate: int = 1) -> RunConfig:
    """A config whose batch-norm statistics are those of the global batch."""
    config = tiny_config(method=SMALL[name], sync_batch_norm=True)
    return dataclasses.replace(config, optim=dataclasses.replace(config.optim, lr=0.02, accumulate=accumulate))


def with_results(folder: Path) -> None:
    """Finished runs of ProPos; of one of them the first rank writes the results, as the command does."""
    fit(new_run(folder / "propos", config_of("propos")), Progress())
    run = new_run(folder / "beside", config_of("propos", accumulate=2), beside(tiny_images(), 9))
    (workflow.train if distributed.is_first() else fit)(run, Progress())


def other_methods(folder: Path) -> None:
    """A finished run of each."""
    for name in SMALL.keys() - {"propos"}:
        fit(new_run(folder / name, config_of(name)), Progress())


def both(make: Callable[[Path], None], factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Runs by one process, and by two."""
    alone, ranks = factory.mktemp("alone"), factory.mktemp("ranks")
    make(alone)
    on_two_ranks(functools.partial(make, ranks))
    return alone, ranks


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> tuple[Path, Path]:
    return both(with_results, tmp_path_factory)


@pytest.fixture(scope="module")
def other_folders(tmp_path_factory) -> tuple[Path, Path]:
    return both(other_methods, tmp_path_factory)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["propos", "beside"])
def test_two_ranks_train_as_one_process(folders, name):
    trained_alike(*(ResultFolder(folder / name) for folder in folders))


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(SMALL.keys() - {"propos"}))
def test_two_ranks_train_any_method_as_one_process(other_folders, name):
    trained_alike(*(ResultFolder(folder / name) for folder in other_folders))


def trained_alike(one: ResultFolder, two: ResultFolder) -> None:
    name = one.path.name
    assert one.read_metrics()[0]["loss"] > 0 or name.startswith(("simsiam", "cc", "emp"))
    for mine, other in zip(one.read_metrics(), two.read_metrics(), strict=True):
        for key in mine.keys() - {"seconds", "images_per_second", "e_step_seconds"}:
            assert mine[key] == pytest.approx(other[key], rel=2e-3, abs=2e-3), key
    weights = [load_file(each.state) for each in (one, two)]
    assert weights[0].keys() == weights[1].keys()
    for key in (key for key in weights[0] if key.startswith("method.")):
        mine, other = weights[0][key].float(), weights[1][key].float()
        torch.testing.assert_close(mine, other, rtol=5e-3, atol=5e-3, msg=key)


@pytest.mark.slow
def test_the_first_rank_writes_what_one_process_does(folders):
    names = [sorted(path.name for path in (folder / "beside").iterdir()) for folder in folders]
    assert names[0] == names[1]
    assert "report.html" in names[0]


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
    fit(run, Progress())
    return [before, run.steps_done]


@pytest.fixture(scope="module")
def stopped_folder(tmp_path_factory) -> Path:
    """A run of two ranks that was stopped."""
    folder = tmp_path_factory.mktemp("stopped") / "run"
    on_two_ranks(functools.partial(stopped, folder))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("n", [1, 2, 4])
def test_a_run_of_two_ranks_resumes_on_any_number(folders, stopped_folder, tmp_path, n):
    folder = tmp_path / "run"
    shutil.copytree(stopped_folder, folder)
    found = [gone_on(folder)] if n == 1 else on_ranks(n, functools.partial(gone_on, folder))
    assert found == [[3, 6]] * n
    whole = load_file(folders[0] / "propos" / "state.safetensors")
    resumed = load_file(folder / "state.safetensors")
    for key in (key for key in whole if key.startswith("method.")):
        torch.testing.assert_close(resumed[key].float(), whole[key].float(), rtol=5e-3, atol=5e-3, msg=key)


def refused(folder: Path) -> str:
    """What three ranks say to a run whose batch they cannot share."""
    with pytest.raises(UserError) as error:
        reopened(folder)
    return str(error.value)


@pytest.mark.slow
def test_a_batch_that_ranks_cannot_share_is_refused(stopped_folder):
    for text in on_ranks(3, functools.partial(refused, stopped_folder)):
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


@pytest.mark.slow
def test_what_ranks_drop_out_differs_and_is_kept(tmp_path):
    first, second = on_two_ranks(functools.partial(draws, tmp_path / "run"))
    assert first[0] != second[0]
    assert first[0] == first[1]
    assert second[0] == second[1]
