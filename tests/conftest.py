"""What all tests share.

Shapes in signatures are checked by jaxtyping's hook, which wraps functions with beartype: those of the losses, methods
and augmentation, or of the whole package with SHOAL_CHECK_SHAPES=all, where an import takes five times as long.
"""

import os

if "PYTEST_XDIST_WORKER" in os.environ:  # each worker has a core to itself; read when torch is imported
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch.nn.functional as F
from jaxtyping import install_import_hook

CHECKED = ["shoal.losses", "shoal.methods", "shoal.data.augment"]
install_import_hook("shoal" if os.environ.get("SHOAL_CHECK_SHAPES") == "all" else CHECKED, "beartype.beartype")


def pytest_xdist_auto_num_workers(config):
    """One process for a GPU; None: as many as there are cores."""
    return 0 if "gpu" in config.option.markexpr and "not gpu" not in config.option.markexpr else None


@pytest.fixture
def no_umap(monkeypatch):
    """The first columns in place of UMAP, which takes half a minute to import and compile itself."""

    def first_columns(features, **_settings):
        centred = (features - features.mean(0)).float()
        return F.pad(centred[:, :3], (0, max(0, 3 - features.shape[1])))

    for user in ("evaluation.baselines", "clustering.umap", "clustering.density"):
        monkeypatch.setattr(f"shoal.{user}.umap_embedding", first_columns)


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    """Decoded images of this test alone."""
    monkeypatch.setenv("SHOAL_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """The folder of a finished run, beside the pictures it was trained on."""
    from shoal.cli.main import main
    from tests.runs import tiny_recipe

    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SHOAL_CACHE", str(folder / "cache"))
        assert main(["train", str(tiny_recipe(folder)), "--quiet", "--out", str(folder / "run")]) == 0
    return folder / "run"
