"""Views of neighbours: the nearest images by pixels, drawn as often as asked, and the same after a resume."""

import dataclasses

import pytest
import torch
from sklearn.neighbors import NearestNeighbors
from tests.runs import StopAfter, new_run, reopened, same_files, tiny_config

from shoal.data.augment import ViewConfig
from shoal.errors import UserError
from shoal.progress import Progress
from shoal.training import fit
from shoal.training.loop import pixels_to_come
from shoal.training.partners import drawn_partners, pixel_neighbours
from shoal.training.run import Interrupted
from shoal.training.settings import check_fits


def config(**changes):
    return tiny_config(augment=ViewConfig(neighbours=3, neighbour_p=0.5, **changes))


@pytest.mark.parametrize("side", [8, 32])
def test_neighbours_are_scikit_learns(side):
    pixels = torch.randint(0, 256, (60, 3, side, side), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    small = pixels.double() if side == 8 else pixels.double().view(60, 3, 16, 2, 16, 2).mean((3, 5))
    expected = NearestNeighbors(n_neighbors=4).fit(small.flatten(1)).kneighbors(small.flatten(1))[1][:, 1:]
    assert pixel_neighbours(pixels, 3).tolist() == expected.tolist()


def test_partners_are_neighbours_as_often_as_asked():
    neighbours = torch.stack([torch.arange(10_000) + 10_000 * i for i in (1, 2)], dim=1)
    partners = drawn_partners(neighbours, ViewConfig(neighbours=2, neighbour_p=0.3), torch.Generator().manual_seed(0))
    assert torch.equal(partners % 10_000, torch.arange(10_000))
    shares = (torch.bincount(partners // 10_000) / 10_000).tolist()
    assert shares == pytest.approx([0.7, 0.15, 0.15], abs=0.02)


def test_other_views_show_the_partners(tmp_path):
    run = new_run(tmp_path / "run", config())
    with pytest.raises(Interrupted):
        fit(run, Progress(), [StopAfter(1)])
    state, images = run.state, run.images.pixels
    index = state.order[16:32]
    own, partners = next(pixels_to_come(run)).chunk(2)
    assert torch.equal(own, images[index])
    assert torch.equal(partners, images[state.partners[index]])
    assert (state.partners != torch.arange(40)).any()
    near = torch.cat((torch.arange(40)[:, None], state.neighbours), dim=1)
    assert (near == state.partners[:, None]).any(1).all()


def test_a_stopped_run_resumes_as_if_unbroken(tmp_path):
    fit(new_run(tmp_path / "whole", config()), Progress())
    with pytest.raises(Interrupted):
        fit(new_run(tmp_path / "broken", config()), Progress(), [StopAfter(3)])
    fit(reopened(tmp_path / "broken"), Progress())
    same_files(tmp_path / "whole", tmp_path / "broken")


def test_at_probability_zero_everyone_is_its_own_partner(tmp_path):
    never = dataclasses.replace(config(), augment=ViewConfig(neighbours=3, neighbour_p=0.0))
    run = new_run(tmp_path / "run", never)
    with pytest.raises(Interrupted):
        fit(run, Progress(), [StopAfter(1)])
    assert torch.equal(run.state.partners, torch.arange(40))


def test_mistakes():
    with pytest.raises(UserError, match="40 of each image need more than 40 images"):
        check_fits(tiny_config(augment=ViewConfig(neighbours=40)), 40, 40)
    with pytest.raises(UserError, match="feasible for 200,000 and not for 1,000,000"):
        check_fits(tiny_config(augment=ViewConfig(neighbours=2)), 1_000_000, 1_000_000)
