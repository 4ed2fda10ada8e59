"""Shapes are checked in every test: jaxtyping's hook wraps the package's functions with beartype."""

import pytest
import torch.nn.functional as F
from jaxtyping import install_import_hook

install_import_hook("shoal", "beartype.beartype")


@pytest.fixture
def no_umap(monkeypatch):
    """The first columns in place of UMAP, which takes half a minute to import and compile itself."""

    def first_columns(features, **_settings):
        return F.pad(features.float()[:, :3], (0, max(0, 3 - features.shape[1])))

    for user in ("evaluation.baselines", "clustering.suggest.suggest", "clustering.umap"):
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
