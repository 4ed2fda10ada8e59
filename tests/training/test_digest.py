"""What tells images from others."""

from __future__ import annotations

import dataclasses
import os

import pytest
import torch
from tests.runs import tiny_images

from shoal.data.images import digest

IMAGES = tiny_images(2500)
"""More than two blocks."""


def test_it_is_the_same_on_any_number_of_threads(monkeypatch):
    found = []
    for threads in (1, 7):
        monkeypatch.setattr(os, "cpu_count", lambda n=threads: n)
        found.append(digest(IMAGES))
    assert found[0] == found[1]


@pytest.mark.parametrize("row", [0, 1023, 1024, 2499])
def test_a_single_value_changes_it(row):
    pixels = IMAGES.pixels.clone()
    pixels[row, 2, 7, 7] ^= 1
    assert digest(dataclasses.replace(IMAGES, pixels=pixels)) != digest(IMAGES)


def test_order_and_names_change_it():
    order = torch.arange(2500)
    order[:2048] = order[:2048].roll(1024)  # two blocks in each other's place
    assert digest(dataclasses.replace(IMAGES, pixels=IMAGES.pixels[order])) != digest(IMAGES)
    assert digest(dataclasses.replace(IMAGES, ids=["other", *IMAGES.ids[1:]])) != digest(IMAGES)


def test_strides_do_not_matter():
    turned = IMAGES.pixels.contiguous(memory_format=torch.channels_last)
    assert digest(dataclasses.replace(IMAGES, pixels=turned)) == digest(IMAGES)
