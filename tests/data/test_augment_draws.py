"""The random numbers: torchvision's distributions, a draw for each image, the same from the same state."""

from dataclasses import fields

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from scipy.stats import chisquare, ks_2samp, kstest
from torchvision.transforms import v2

from shoal.data import ViewConfig, apply_view, apply_views, draw_view
from shoal.data.augment import _CHUNK
from shoal.data.colour import draw_factors, draw_order
from shoal.data.geometry import draw_affine, draw_crop
from shoal.errors import UserError

N = 3000
ALL = ViewConfig(blur_p=(0.5, 0.5), solarise_p=(0.2, 0.2), degrees=10.0, translate=0.1, scale=(0.9, 1.1), shear=5.0)
OFF = ViewConfig(crop_scale=(1.0, 1.0), flip_p=0.0, jitter_p=0.0, grey_p=0.0)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def pixels(n, side=32):
    return torch.randint(0, 256, (n, 3, side, side), generator=generator(9), dtype=torch.uint8)


def torchvision_draws(transform, keys, height, width):
    torch.manual_seed(0)
    image = torch.zeros(3, height, width)
    drawn = [transform.make_params([image]) for _ in range(N)]
    return torch.tensor([[float(value) for key in keys for value in _flat(params[key])] for params in drawn])


def _flat(value):
    return value if isinstance(value, list | tuple) else [value]


def assert_same_distributions(ours, theirs):
    for column in range(theirs.shape[1]):
        result = ks_2samp(ours[:, column].numpy(), theirs[:, column].numpy(), method="asymp")
        assert result.pvalue > 0.001, (column, result)


@pytest.mark.parametrize(
    ("size", "scale", "ratio"),
    [
        ((32, 32), (0.08, 1.0), (3 / 4, 4 / 3)),
        ((24, 48), (0.08, 1.0), (3 / 4, 4 / 3)),
        ((8, 8), (0.5, 1.0), (3 / 4, 4 / 3)),
        ((10, 60), (0.9, 1.0), (3 / 4, 4 / 3)),  # never fits: always the fallback
        ((61, 10), (0.6, 1.0), (0.2, 0.4)),
        ((32, 32), (0.9, 1.0), (0.5, 2.0)),  # rarely fits: both ways out
    ],
)
def test_crops_are_drawn_as_torchvision_draws_them(size, scale, ratio):
    transform = v2.RandomResizedCrop(size, scale, ratio)
    theirs = torchvision_draws(transform, ("top", "left", "height", "width"), *size)
    ours = draw_crop(N, size, scale, ratio, generator())
    assert_same_distributions(ours, theirs)
    share = [(box[:, 2] * box[:, 3]).unsqueeze(1) for box in (ours, theirs)]
    aspect = [(box[:, 3] / box[:, 2]).unsqueeze(1) for box in (ours, theirs)]
    assert_same_distributions(share[0], share[1])
    assert_same_distributions(aspect[0], aspect[1])
    assert (ours[:, :2] >= 0).all()
    assert (ours[:, :2] + ours[:, 2:] <= torch.tensor(size)).all()


def test_affine_maps_are_drawn_as_torchvision_draws_them():
    transform = v2.RandomAffine(25, translate=(0.1, 0.1), scale=(0.8, 1.3), shear=15)
    theirs = torchvision_draws(transform, ("angle", "translate", "scale", "shear"), 40, 100)
    assert (theirs[:, 5] == 0).all()
    ours = draw_affine(N, (40, 100), 25.0, 0.1, (0.8, 1.3), 15.0, generator())
    assert_same_distributions(ours, theirs[:, :5])


def test_jitter_is_drawn_as_torchvision_draws_it():
    transform = v2.ColorJitter(0.4, 0.3, 1.5, 0.1)
    keys = ("brightness_factor", "contrast_factor", "saturation_factor", "hue_factor")
    theirs = torchvision_draws(transform, keys, 8, 8)
    assert_same_distributions(draw_factors(N, (0.4, 0.3, 1.5, 0.1), generator()), theirs)
    order = draw_order(N, generator())
    assert (order.sort(1).values == torch.arange(4)).all()
    counts = (order @ torch.tensor([64, 16, 4, 1])).unique(return_counts=True)[1]
    assert len(counts) == 24
    assert chisquare(counts.numpy()).pvalue > 0.001


def test_each_operation_comes_with_its_probability_and_blurs_with_its_sigma():
    config = ViewConfig(flip_p=0.5, jitter_p=0.8, grey_p=0.2, blur_p=(0.3, 0.3), solarise_p=(0.1, 0.1))
    draw = draw_view(N, (32, 32), config, generator())
    shares = [draw.flip, draw.place >= 0, draw.grey, draw.blur, draw.solarise]
    for share, p in zip(shares, (0.5, 0.8, 0.2, 0.3, 0.1), strict=True):
        assert abs(share.float().mean() - p) < 4 * (p * (1 - p) / N) ** 0.5
    assert kstest(draw.sigma.numpy(), "uniform", (0.1, 1.9)).pvalue > 0.001


def test_every_image_has_a_draw_of_its_own():
    same = pixels(1).expand(64, -1, -1, -1)
    views = apply_view(same, draw_view(64, (32, 32), ViewConfig(), generator()))
    assert len(views.flatten(1).unique(dim=0)) == 64


def test_the_same_state_gives_the_same_views_and_the_next_state_others():
    state, images = generator(), pixels(16)
    first, second = (apply_view(images, draw_view(16, (32, 32), ALL, state)) for _ in range(2))
    again = apply_view(images, draw_view(16, (32, 32), ALL, generator()))
    assert torch.equal(first, again)
    assert not torch.equal(first, second)


def test_a_rank_computes_its_slice_of_the_world_batch():
    images, draw = pixels(24), draw_view(24, (32, 32), ALL, generator())
    assert all(getattr(draw, field.name) is not None for field in fields(draw))
    ranks = [apply_view(images[part], draw[part]) for part in (slice(0, 12), slice(12, 24))]
    torch.testing.assert_close(torch.cat(ranks), apply_view(images, draw), atol=1e-6, rtol=0)


@pytest.mark.parametrize("config", [ViewConfig(), OFF, ViewConfig(blur_p=(0.0, 0.5), solarise_p=(0.3, 0.0))])
@pytest.mark.parametrize("n", [0, 1, 24, 400])
def test_views_in_one_pass_are_the_same_views(config, n):
    images, state = pixels(n), generator()
    draws = [draw_view(n, (32, 32), config, state, view) for view in range(3)]
    for view, draw in zip(apply_views(images, draws), draws, strict=True):
        torch.testing.assert_close(view, apply_view(images, draw), atol=1e-6, rtol=0)


def test_two_views_with_other_operations_are_refused():
    off, on = (draw_view(4, (32, 32), config, generator()) for config in (OFF, ViewConfig()))
    with pytest.raises(ValueError, match="only some of the views have crop"):
        apply_views(pixels(4), [off, on])


def test_chunks_do_not_show():
    side = 128
    n = _CHUNK // (3 * side * side) * 2 + 1
    images, draw = pixels(n, side), draw_view(n, (side, side), ViewConfig(), generator())
    alone = torch.cat([apply_view(images[i : i + 1], draw[i : i + 1]) for i in range(n)])
    torch.testing.assert_close(apply_view(images, draw), alone, atol=1e-6, rtol=0)


@pytest.mark.parametrize("config", [ViewConfig(), ALL, OFF], ids=["simclr", "all", "off"])
@pytest.mark.parametrize("n", [0, 1, 33])
def test_views_are_finite_floats_between_0_and_1(config, n):
    images = pixels(n)
    before = images.clone()
    views = apply_view(images, draw_view(n, (32, 32), config, generator()))
    assert views.shape == images.shape
    assert views.dtype == torch.float32
    assert not views.requires_grad
    assert torch.isfinite(views).all()
    assert ((views >= 0) & (views <= 1)).all()
    assert torch.equal(images, before)


def test_everything_off_leaves_the_image():
    images = pixels(4)
    draw = draw_view(4, (32, 32), OFF, generator())
    assert not any(getattr(draw, field.name) for field in fields(draw))
    torch.testing.assert_close(apply_view(images, draw), images / 255)


def test_a_range_the_wrong_way_round_is_named():
    with pytest.raises(UserError, match=r"crop_scale is a range from 1\.0 to 0\.2: give the smaller"):
        ViewConfig(crop_scale=(1.0, 0.2))


@pytest.mark.parametrize("wrong", [{"hue": 0.6}, {"flip_p": 1.1}, {"scale": (0.0, 1.0)}, {"blur_sigma": (0.0, 1.0)}])
def test_a_value_out_of_its_range_is_refused_on_loading(wrong):
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        TypeAdapter(ViewConfig).validate_python(wrong)


def test_the_two_views_have_their_own_blur_and_solarising():
    """BYOL's recipe: view 1 always blurred, view 2 seldom; only view 2 solarised."""
    config = ViewConfig(blur_p=(1.0, 0.1), solarise_p=(0.0, 0.2))
    first, second = (draw_view(4000, (8, 8), config, torch.Generator().manual_seed(0), view) for view in (0, 1))
    assert first.blur.all()
    assert first.solarise is None
    assert second.blur.float().mean().item() == pytest.approx(0.1, abs=0.02)
    assert second.solarise.float().mean().item() == pytest.approx(0.2, abs=0.02)
