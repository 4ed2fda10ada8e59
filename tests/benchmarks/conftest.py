"""Scripts in benchmarks/ import each other by name, as they do when one of them is run."""

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _scripts(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
