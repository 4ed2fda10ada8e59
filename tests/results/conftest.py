"""A folder of photos of four kinds, and a small network with weights on the disk."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

BACKBONE = "test_resnet"
COLOURS = {"red": (200, 40, 40), "green": (40, 180, 60), "blue": (40, 60, 210), "grey": (128, 128, 128)}
EACH = 8


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    """Weights of ``BACKBONE``: random ones, which tell colours apart."""
    path = tmp_path_factory.mktemp("weights") / "net.safetensors"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_file(timm.create_model(BACKBONE, num_classes=0).state_dict(), path)
    return path


def photograph(folder, name, seed):
    """A noisy square of one colour."""
    noise = np.random.default_rng(seed).normal(0, 12, (40, 40, 3))
    pixels = np.clip(np.array(COLOURS[name]) + noise, 0, 255).astype(np.uint8)
    path = folder / f"{name}-{seed}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """32 photos in the working folder's photos/, none of them labelled by a subfolder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SHOAL_CACHE", str(tmp_path / "cache"))
    for colour in COLOURS:
        for seed in range(EACH):
            photograph(tmp_path / "photos", colour, seed)
    return tmp_path / "photos"


def flags_of(weights):
    return ["--backbone.name", BACKBONE, "--backbone.weights", str(weights)]


@pytest.fixture
def network(weights):
    """The flags that name the tiny network."""
    return flags_of(weights)


@pytest.fixture(scope="session")
def template(tmp_path_factory, weights):
    """The photos and their clusters, to be copied."""
    from shoal.cli.main import main

    folder = tmp_path_factory.mktemp("clusters")
    for colour in COLOURS:
        for seed in range(EACH):
            photograph(folder / "photos", colour, seed)
    network = flags_of(weights)
    assert (
        main(["cluster", str(folder / "photos"), "-k", "4", "--out", str(folder / "clusters"), "--quiet", *network])
        == 0
    )
    return folder


@pytest.fixture
def clusters(template, photos, tmp_path):
    """Clusters of the photos as if they had just been made, in clusters/photos."""
    from shoal.data import find_source
    from shoal.data.file_stats import stat_files
    from shoal.results.result import Result

    folder = tmp_path / "clusters/photos"
    shutil.copytree(template / "clusters", folder)
    replace(Result.load(folder), source=str(photos)).save()
    stat_files(find_source(photos).listing().files).tofile(folder / "features/looks.i64")
    return folder
