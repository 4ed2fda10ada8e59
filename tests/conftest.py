"""Shapes are checked in every test: jaxtyping's hook wraps the package's functions with beartype."""

import pytest
import torch.nn.functional as F
from jaxtyping import install_import_hook

install_import_hook("shoal", "beartype.beartype")


@pytest.fixture
def no_umap(monkeypatch):
    """Three columns in place of UMAP, which takes half a minute to import and compile itself."""

    def three_columns(features, **_settings):
        return F.pad(features.float()[:, :3], (0, max(0, 3 - features.shape[1])))

    for user in ("evaluation.baselines", "clustering.suggest"):
        monkeypatch.setattr(f"shoal.{user}.umap_embedding", three_columns)
