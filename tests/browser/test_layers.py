"""The page of ``shoal review`` changes between the layers of a density."""

from __future__ import annotations

import numpy as np
import pytest
from tests.browser.reviewing import open_page, reviewing  # noqa: F401 - a fixture
from tests.browser.test_accessible import check
from tests.browser.test_review import FITS, rename, saved, wait_for
from tests.clustering.test_density import nested

from shoal.cli.main import main
from shoal.results.result import Result

OPENED = "(name) => document.title.includes(name) && document.querySelector('main:not([aria-busy])')"


@pytest.fixture
def address(tmp_path, monkeypatch, no_umap):  # noqa: ARG001
    """A review of nine clusters that are three of three."""
    monkeypatch.chdir(tmp_path)
    np.save("rows.npy", nested(n=30)[0].numpy())
    assert main(["cluster", "rows.npy", "--method", "density", "--quiet"]) == 0
    with reviewing(tmp_path / "clusters/rows") as found:
        yield found


@pytest.mark.slow
def test_layers_are_changed_on_the_page(address, open_page, tmp_path):  # noqa: F811
    page = open_page(address)
    other = open_page(address, beside=page)
    rename(page, 0, "one of nine")
    wait_for(page, "is now called")
    saved(page)
    page.locator("#layers button", has_text="3 clusters").click()
    for each in (page, other):  # what another tab shows would be decided about clusters that it does not show
        each.wait_for_function(OPENED, arg="rows-3")
        assert each.locator(".card").count() == 3
    rename(other, 2, "one of three")
    wait_for(other, "is now called")
    saved(other)
    for width in (360, 1440):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate(FITS)
        assert check(page, "unnamed") == []
        assert check(page, "contrast") == {}
    page.locator("#layers button", has_text="9 clusters").click()
    page.wait_for_function("() => document.querySelector('#cluster-0 .name')?.textContent === 'one of nine'")
    assert page.locator(".card").count() == 9
    assert Result.load(tmp_path / "clusters/rows").names == {0: "one of nine"}
    assert Result.load(tmp_path / "clusters/rows-3").names == {2: "one of three"}
