"""Every recipe does what it says: one real step on synthetic images of its size, and its dry run."""

import dataclasses

import numpy as np
import pytest
import torch

from shoal.cli.main import main
from shoal.config import RunConfig, load_recipe, recipe_names, to_yaml
from shoal.data import DATA_SETS, DataConfig
from shoal.errors import UserError
from shoal.evaluation import clustering_scores
from shoal.folder import ResultFolder
from shoal.methods import METHODS, build
from shoal.progress import Progress
from shoal.training import Run, fit
from shoal.training.dry_run import Extent, _activations, _saved, forecast
from shoal.types import Images

PUBLISHED = [
    *(f"{m}-{d}" for m in METHODS if m != "emp" for d in ("cifar10", "cifar20", "digits", "mnist", "folder")),
    "emp-cifar10-small",
    "emp-folder",
    *(f"{m}-{d}-resnet34" for m in ("propos", "byol") for d in ("cifar10", "cifar20")),
    "propos-cifar10-boost",
    "byol-digits-boost",
    "byol-mnist-boost",
    "propos-mnist-boost",
    *(
        f"{m}-{d}"
        for m in ("propos", "byol")
        for d in ("stl10", "imagenet10", "imagenetdogs", "tinyimagenet", "imagenet")
    ),
]


def test_no_recipe_is_missing():
    assert set(PUBLISHED) == set(recipe_names())


def side_of(config: RunConfig) -> int:
    return config.data.size or DATA_SETS[config.data.path].size


def synthetic(config: RunConfig, n: int, n_others: int) -> Images:
    """Random images of the recipe's size, the last of them not clustered."""
    side = side_of(config)
    pixels = torch.randint(0, 256, (n, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    clustered = torch.arange(n) < n - n_others
    labels = (torch.arange(n) % 2).where(clustered, -1)
    return Images(pixels, labels, clustered, ("a", "b"), [str(i) for i in range(n)])


def shrunk(config: RunConfig) -> RunConfig:
    """The recipe with few images a step, and as few clusters; network, losses, views and optimiser are its own."""
    large = side_of(config) > 64
    parts = getattr(config.method, "bn_splits", 1)
    batch = max(4 if large else 8, 2 * parts)
    method = config.method
    if hasattr(method, "granularities"):
        method = dataclasses.replace(method, granularities=(3, 4))
    if getattr(method, "boost_from", None) is not None:  # its one step is one of the last stage
        method = dataclasses.replace(method, boost_from=0.0)
    augment = dataclasses.replace(config.augment, neighbours=min(2, config.augment.neighbours))
    optim = dataclasses.replace(config.optim, batch_size=batch, accumulate=min(2, config.optim.accumulate))
    changed = {"n_clusters": 3, "cluster_from": 0, "max_steps": 1}
    return dataclasses.replace(config, augment=augment, method=method, optim=optim, **changed)


def distinct() -> list[str]:
    """A recipe of each distinct shrunk config and size of images."""
    found = {}
    for name in recipe_names():
        config = shrunk(load_recipe(name))
        same = dataclasses.replace(config, data=DataConfig(), epochs=1, seed=0, n_clusters=3, cluster_every=1)
        optim = dataclasses.replace(config.optim, lr=0.1, warmup_epochs=0, weight_decay=0.0)
        found.setdefault((side_of(config), to_yaml(dataclasses.replace(same, optim=optim))), name)
    return list(found.values())


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "name", [name if name.endswith("-digits") else pytest.param(name, marks=pytest.mark.slow) for name in distinct()]
)
def test_a_recipe_takes_a_real_step(name, tmp_path):
    config = shrunk(load_recipe(name))
    known = DATA_SETS.get(config.data.path)
    others = 4 if known and known.n_clustered < known.n_images else 0
    run = Run(config, synthetic(config, config.optim.batch_size + others, others), ResultFolder(tmp_path))
    before = {key: value.clone() for key, value in run.method.state_dict().items()}
    fit(run, Progress())
    assert run.steps_done == 1
    row = ResultFolder(tmp_path).read_metrics()[0]
    assert torch.isfinite(torch.tensor(row["loss"]))
    after = run.method.state_dict()
    assert any(not torch.equal(before[key], after[key]) for key in before)
    assert clustering_scores(run.images.targets, run.clusterings[0].labels)["acc"] > 0
    assert (run.clusterings[0].labels[~run.images.clustered] == -1).all()


@pytest.mark.parametrize("name", ["propos-stl10", "simclr-cifar20", "byol-digits"])
def test_a_dry_run_prints_what_it_would_take_and_writes_nothing(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["train", name, "--dry-run"]) == 0
    printed = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert {"images", "epoch", "run", "rate", "parameters", "memory", "pixels"} <= printed.keys()
    assert not list(tmp_path.iterdir())
    if name == "propos-stl10":
        assert printed["images"] == "113 000 of 96 × 96 px, 13 000 of them clustered"
        assert printed["epoch"] == "390 steps of 512 images: 199 680 images"
        assert printed["run"] == "1 000 epochs: 390 000 steps"
        assert printed["rate"].startswith("0.05 ")


@pytest.mark.parametrize("n", [2, 3])
def test_a_dry_run_of_a_handful_of_images(n, tmp_path, capsys):
    np.save(tmp_path / "few.npy", np.zeros((n, 8, 8), dtype=np.uint8))
    path = str(tmp_path / "few.npy")
    assert main(["train", "propos-digits", "--dry-run", "--data.path", path, "--n-clusters", "2"]) == 0
    assert f"1 steps of {n} images" in capsys.readouterr().out


@pytest.mark.parametrize(("steps", "cut"), [(7, ", of which 7 are taken"), (1260, ""), (None, "")])
def test_a_dry_run_knows_where_the_run_stops(steps, cut):
    config = dataclasses.replace(load_recipe("propos-digits"), max_steps=steps)
    assert forecast(config)["run"] == f"90 epochs: 1 260 steps{cut}"


def test_the_memory_of_activations_grows_in_a_straight_line():
    config = dataclasses.replace(load_recipe("simclr-cifar10"), precision="float32")
    config = dataclasses.replace(config, backbone=dataclasses.replace(config.backbone, name="small", stem="native"))
    extent = Extent(60_000, 60_000, (32, 32))
    method = build(config.method, config.backbone, 10, torch.Generator())
    total, _ = _activations(config, method, extent, 64)
    assert total == pytest.approx(sum(_saved(config, method, extent, 64, ())), rel=0.02)


def test_parameters_are_those_of_the_networks():
    config = load_recipe("byol-digits")
    method = build(config.method, config.backbone, config.n_clusters, torch.Generator())
    learned = sum(p.numel() for p in method.online.parameters()) + sum(p.numel() for p in method.predictor.parameters())
    assert forecast(config)["parameters"].replace(" ", "").startswith(f"{learned}tolearn")


def test_an_image_size_that_nobody_knows_is_asked_for():
    config = load_recipe("propos-imagenet10")
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, size=None))
    with pytest.raises(UserError, match=r"give --data\.size"):
        forecast(config)


@pytest.mark.parametrize(
    ("recipe", "flags", "sentence"),
    [
        ("moco-digits", ["--method.queue", "100"], "a queue of 100 is shorter than the"),
        ("pcl-digits", ["--method.queue", "20"], "a queue of 20 is shorter than the"),
        ("propos-digits", ["--method.queue", "64"], "a queue of 64 is shorter than the 256 keys of one step"),
        ("pcl-digits", ["--method.granularities", "20", "2000"], "2000 prototypes need at least as many images"),
        ("moco-digits", ["--method.bn-splits", "100"], "cannot be cut into 100 equal parts"),
        ("byol-digits", ["--optim.accumulate", "100"], "too few for 100 parts"),
        ("byol-digits", ["--optim.accumulate", "200"], "128 images a step are too few for 200 parts"),
        ("propos-digits", ["--data.size", "2"], "the backbone small cannot take images of 2 × 2 px"),
        ("byol-digits", ["--augment.views", "3"], "byol takes two views of an image, not 3"),
        ("byol-digits", ["--augment.side", "2"], "images of 8 × 8 px or views of 2 px"),
        ("cc-digits", ["--backbone.name", "vit_tiny_patch16_224"], "cannot take images of 8 × 8 px"),
    ],
)
def test_settings_that_do_not_fit_are_told_in_a_sentence(recipe, flags, sentence, tmp_path, capsys):
    out = tmp_path / "run"
    for dry in ([], ["--dry-run"]):
        assert main(["train", recipe, *flags, *dry, *([] if dry else ["--out", str(out)])]) == 2
        message = capsys.readouterr().err.strip()
        assert sentence in message
        assert len(message.splitlines()) == 1
    assert not out.exists()
