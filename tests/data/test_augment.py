"""Same parameters, same pixels: every operation against torchvision's, image by image."""

import dataclasses
from itertools import permutations

import pytest
import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from shoal.data import ViewConfig, apply_view, apply_views, draw_view
from shoal.data.augment import Draw
from shoal.data.colour import as_blends

COLOUR = {"atol": 1e-5, "rtol": 0}
PLACES = {
    "atol": 1e-4,
    "rtol": 0,
}  # float32 places within 40 pixels, of images with steps of up to 1 per pixel


def noise(n, height=24, width=40, seed=0):
    return torch.randint(
        0, 256, (n, 3, height, width), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8
    )


def smooth(n, height=24, width=40):
    y, x = torch.meshgrid(torch.linspace(0, 3, height), torch.linspace(0, 5, width), indexing="ij")
    phase = torch.arange(3 * n).view(n, 3, 1, 1)
    return ((torch.sin(x + phase) * torch.cos(y - phase) / 2 + 0.5) * 255).to(torch.uint8)


def one_by_one(function, pixels, *parameters):
    rows = zip(pixels.float() / 255, *(p.tolist() for p in parameters), strict=True)
    return torch.stack([function(image, *values) for image, *values in rows])


def jitter_draw(factors, order):
    blends, place = as_blends(factors, order)
    return Draw(blends=blends, place=place, turn=factors[:, 3])


def sequential_jitter(image, factors, order):
    steps = (tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation, tv.adjust_hue)
    for step in order:
        image = steps[step](image, factors[step])
    return image


def cropped(image, box, side=None):
    size = list(image.shape[1:]) if side is None else [side, side]
    return tv.resized_crop(image, *(int(v) for v in box), size, antialias=False)


def moved(image, row):
    angle, right, down, scale, shear = row
    return tv.affine(image, angle, [right, down], scale, [shear, 0.0], interpolation=InterpolationMode.BILINEAR)


BOXES = torch.tensor([[0, 0, 24, 40], [3, 5, 10, 12], [23, 39, 1, 1], [0, 39, 24, 1], [7, 0, 2, 40.0]])
AFFINES = torch.tensor(
    [[30.0, 0, 0, 1, 0], [0, 4, -3, 1, 0], [0, 0, 0, 0.8, 0], [0, 0, 0, 1, 20], [-75, -2, 5, 1.3, -12]]
)
FLIPS = torch.tensor([False, True, True, False, True])


def test_crop_and_flip_equal_torchvision():
    pixels = noise(5)
    expected = one_by_one(
        lambda image, box, flip: tv.horizontal_flip(cropped(image, box)) if flip else cropped(image, box),
        pixels,
        BOXES,
        FLIPS,
    )
    torch.testing.assert_close(apply_view(pixels, Draw(crop=BOXES, flip=FLIPS)), expected, **PLACES)


@pytest.mark.parametrize("side", [1, 8, 60])
def test_views_of_another_size_equal_torchvision(side):
    pixels = noise(5)
    expected = one_by_one(
        lambda image, box, flip: tv.horizontal_flip(cropped(image, box, side)) if flip else cropped(image, box, side),
        pixels,
        BOXES,
        FLIPS,
    )
    (views,) = apply_views(pixels, [Draw(crop=BOXES, flip=FLIPS)], side)
    torch.testing.assert_close(views, expected, **PLACES)


@pytest.mark.parametrize("draw", [Draw(), Draw(affine=AFFINES)], ids=["nothing", "affine"])
def test_a_size_alone_takes_the_whole_image(draw):
    whole = torch.tensor([[0, 0, 24, 40.0]]).expand(5, 4)
    found = apply_views(noise(5), [draw], 16)
    assert found[0].shape == (5, 3, 16, 16)
    torch.testing.assert_close(found, apply_views(noise(5), [dataclasses.replace(draw, crop=whole)], 16))


def test_flip_alone_moves_no_pixel():
    pixels = noise(5)
    expected = one_by_one(lambda image, flip: image.flip(-1) if flip else image, pixels, FLIPS)
    torch.testing.assert_close(apply_view(pixels, Draw(flip=FLIPS)), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("pixels", [noise(5), noise(5, 8, 8)], ids=["24x40", "8x8"])
def test_affine_equals_torchvision(pixels):
    expected = one_by_one(moved, pixels, AFFINES)
    torch.testing.assert_close(apply_view(pixels, Draw(affine=AFFINES)), expected, **PLACES)


def test_affine_crop_and_flip_in_one_look_up_equal_the_three_in_a_row():
    pixels = smooth(5)
    affines = AFFINES * torch.tensor([0.2, 0.5, 0.5, 0, 0.2]) + torch.tensor([0, 0, 0, 1.5, 0])
    boxes = torch.tensor([[6, 10, 12, 20.0]]).expand(5, 4)  # far from the border, which each way blackens by itself
    flips = torch.ones(5, dtype=torch.bool)
    expected = one_by_one(
        lambda image, row, box: tv.horizontal_flip(cropped(moved(image, row), box)), pixels, affines, boxes
    )
    result = apply_view(pixels, Draw(affine=affines, crop=boxes, flip=flips))
    torch.testing.assert_close(result, expected, atol=0.02, rtol=0)  # the second look-up smooths a little


def test_jitter_in_every_order_equals_torchvision():
    order = torch.tensor(list(permutations(range(4)))).repeat(3, 1)
    pixels = noise(len(order))
    generator = torch.Generator().manual_seed(1)
    factors = 2 * torch.rand(len(order), 4, generator=generator)
    factors[:, 3] = factors[:, 3] / 2 - 0.5
    expected = one_by_one(sequential_jitter, pixels, factors, order)
    torch.testing.assert_close(apply_view(pixels, jitter_draw(factors, order)), expected, **COLOUR)


def test_jitter_leaves_those_alone_whose_place_says_so():
    pixels, order = noise(4), torch.tensor([[3, 0, 1, 2], [0, 1, 2, 3], [0, 3, 1, 2], [2, 1, 0, 3]])
    blends, place = as_blends(torch.tensor([[0.5, 0.6, 0.7, 0.2]]).repeat(4, 1), order)
    everyone = apply_view(pixels, Draw(blends=blends, place=place, turn=torch.full((4,), 0.2)))
    place[1:3] = -1
    some = apply_view(pixels, Draw(blends=blends, place=place, turn=torch.full((4,), 0.2)))
    assert torch.equal(some[1:3], pixels[1:3].float() / 255)
    torch.testing.assert_close(some[::3], everyone[::3], **COLOUR)


@pytest.mark.parametrize("operation", range(4))
def test_one_operation_of_the_jitter_equals_torchvision(operation):
    pixels = torch.cat([noise(3), noise(1)[:, :1].expand(-1, 3, -1, -1), torch.zeros(1, 3, 24, 40).byte()])
    factors = torch.tensor([[1.0, 1, 1, 0]]).repeat(5, 1)
    factors[:, operation] = torch.tensor([-0.5, -0.1, 0.3, 0.2, 0.5]) + (operation < 3)
    order = torch.arange(4).repeat(5, 1)
    expected = one_by_one(sequential_jitter, pixels, factors, order)
    torch.testing.assert_close(apply_view(pixels, jitter_draw(factors, order)), expected, **COLOUR)


def test_every_colour_turns_as_in_torchvision():
    levels = torch.arange(0, 256, 15)
    colours = torch.cartesian_prod(levels, levels, levels).T.reshape(1, 3, 18, -1).to(torch.uint8)
    turns = torch.tensor([-0.5, -0.37, -1 / 3, 0.1, 1 / 6, 0.5])
    factors = torch.ones(6, 4).index_copy_(1, torch.tensor([3]), turns[:, None])
    pixels = colours.expand(6, -1, -1, -1)
    expected = one_by_one(tv.adjust_hue, pixels, turns)
    order = torch.arange(4).repeat(6, 1)
    torch.testing.assert_close(apply_view(pixels, jitter_draw(factors, order)), expected, **COLOUR)


def test_grey_and_solarise_reach_only_the_chosen():
    pixels, chosen = noise(5), torch.tensor([True, False, True, False, False])
    grey = one_by_one(lambda x, on: tv.rgb_to_grayscale(x, 3) if on else x, pixels, chosen)
    torch.testing.assert_close(apply_view(pixels, Draw(grey=chosen)), grey, **COLOUR)
    solarised = one_by_one(lambda x, on: tv.solarize(x, 0.5) if on else x, pixels, chosen)
    torch.testing.assert_close(apply_view(pixels, Draw(solarise=chosen)), solarised, **COLOUR)


@pytest.mark.parametrize(("side", "kernel"), [(8, 3), (32, 3), (96, 9), (224, 23)])
def test_blur_equals_torchvision_with_a_kernel_of_a_tenth_of_the_side(side, kernel):
    pixels = noise(4, side, side + 3)
    chosen = torch.tensor([True, False, True, True])
    sigma = torch.tensor([0.1, 1.0, 0.7, 2.0])
    expected = one_by_one(
        lambda x, s, on: tv.gaussian_blur(x, [kernel, kernel], [s, s]) if on else x, pixels, sigma, chosen
    )
    torch.testing.assert_close(apply_view(pixels, Draw(blur=chosen, sigma=sigma)), expected, **COLOUR)


def test_the_operations_come_in_simclr_order():
    pixels, n = noise(8), 8
    config = ViewConfig(jitter_p=1.0, grey_p=0.5, blur_p=(0.5, 0.5), solarise_p=(0.5, 0.5), degrees=10.0)
    draw = draw_view(n, (24, 40), config, torch.Generator().manual_seed(2))
    views = (pixels / 255 * 255).round().byte()
    parts = [
        Draw(affine=draw.affine, crop=draw.crop, flip=draw.flip),
        Draw(blends=draw.blends, place=draw.place, turn=draw.turn),
        Draw(grey=draw.grey),
        Draw(blur=draw.blur, sigma=draw.sigma),
        Draw(solarise=draw.solarise),
    ]
    for part in parts:  # rounded to whole values in between, and so only near
        views = (apply_view(views, part) * 255).round().byte()
    far = (apply_view(pixels, draw) - views / 255).abs() > 0.03
    assert far.float().mean() < 0.03  # a value near a half can be solarised one way and not the other
