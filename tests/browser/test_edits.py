"""Names, mergers and moves: undone, kept, and exported."""

from __future__ import annotations

import csv
import json

import pytest
from tests.browser.conftest import EVIL, K, N

from shoal.results.tables import as_utf8

pytestmark = pytest.mark.slow  # each page takes Chromium a second or two


def rename(page, cluster, name):
    page.locator(f"#cluster-{cluster} .open").click()
    page.fill("#cluster-name", name)
    page.press("#cluster-name", "Enter")


def merge(page, cluster, into):
    page.locator(f"#cluster-{cluster} .open").click()
    page.select_option("#merge-into", str(into))
    page.click("#merge button")


def close(page):
    page.keyboard.press("Escape")
    page.wait_for_timeout(100)


def exported(page, kind, folder):
    with page.expect_download() as download:
        page.get_by_role("button", name=f"Export as {kind}").click()
    assert download.value.suggested_filename == f"assignments.{kind.lower()}"
    path = folder / download.value.suggested_filename
    download.value.save_as(path)
    if kind == "JSON":
        return json.loads(path.read_text())
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_a_name_is_seen_everywhere(visit, shoot):
    page = visit()
    rename(page, 2, "Zéros")
    assert page.locator("#cluster-view h2").inner_text() == "Zéros"
    assert "now called Zéros" in page.locator("#cluster-view .said").inner_text()
    shoot(page, "renamed")
    close(page)
    assert page.evaluate("document.activeElement.closest('.card').id") == "cluster-2"
    assert page.locator("#cluster-2 h3").inner_text() == "Zéros"
    assert "Zéros" in page.locator(".legend").inner_text()
    assert "1 edit, kept in this browser" in page.locator("#edits").inner_text()


def test_merging_brings_images_together(visit, members):
    page = visit()
    both = sorted(members(2) + members(5))
    merge(page, 2, 5)
    assert "was merged into" in page.locator("#cluster-view .said").inner_text()
    page.locator("#cluster-view .select").click()
    assert sorted(page.locator("#selected-ids").input_value().split("\n")) == both
    assert page.locator(".card").count() == K - 1
    assert page.locator("#cluster-5 > i#cluster-2").count() == 1, "links to the merged cluster still lead somewhere"
    facts = page.locator("#cluster-5 .facts").inner_text()
    assert f"{len(both)} images" in facts
    assert "includes cluster 2" in facts


def test_undo_and_reset(visit):
    page = visit()
    start = page.locator("#clusters").inner_text()
    undo, reset = (page.locator(f"#tools .{name}") for name in ("undo", "reset"))
    assert undo.get_attribute("aria-disabled") == "true"
    rename(page, 0, "one")
    close(page)
    merge(page, 1, 0)
    close(page)
    edited = page.locator("#clusters").inner_text()
    undo.click()
    assert page.locator(".card").count() == K
    assert page.locator("#cluster-0 h3").inner_text() == "one"
    undo.click()
    assert page.locator("#clusters").inner_text() == start
    rename(page, 0, "one")
    close(page)
    merge(page, 1, 0)
    close(page)
    reset.click()
    assert page.locator("#clusters").inner_text() == start
    undo.click()
    assert page.locator("#clusters").inner_text() == edited


def test_edits_outlive_the_page(visit):
    page = visit()
    rename(page, 3, "kept")
    page.reload()
    assert page.locator("#cluster-3 h3").inner_text() == "kept"
    page.locator("#tools .undo").click()
    page.reload()
    assert page.locator("#cluster-3 h3").inner_text() != "kept"


def test_without_a_store_edits_last_as_long_as_the_page(visit):
    deny = "Object.defineProperty(window, 'localStorage', { get() { throw new DOMException('no', 'SecurityError') } })"
    page = visit(script=deny)
    rename(page, 3, "brief")
    close(page)
    assert page.locator("#cluster-3 h3").inner_text() == "brief"
    assert "until the page is closed" in page.locator("#edits").inner_text()


def test_a_damaged_store_is_left_aside(visit):
    for store in ("{", '[{"kind": "rename", "cluster": 99, "name": "x"}]', "null"):
        text = json.dumps(store)
        page = visit(script=f"Storage.prototype.getItem = () => {text}")
        assert page.locator(".card").count() == K
        assert page.locator("#edits").inner_text() == "No edits"


def test_the_export_is_the_edited_assignment(visit, reports, tmp_path):
    page = visit()
    data = reports("digits")[0]
    original = dict(zip(data.images.ids, data.clustering.labels.tolist(), strict=True))
    table = exported(page, "CSV", tmp_path)
    assert {row["id"]: int(row["cluster"]) for row in table} == original
    assert {row["name"] for row in table} == {""}
    name = 'quoted "name", with\ta comma'
    rename(page, 7, name)
    close(page)
    merge(page, 2, 7)
    close(page)
    page.fill("#query", "digit-123")
    page.press("#query", "Enter")
    goal = next(k for k in (4, 9) if k != original["scans/digit-123.png"])
    page.select_option("#move-to", str(goal))
    page.click("#move button")
    assert "Moved to" in page.locator("#detail-view .said").inner_text()
    close(page)
    expected = {i: 7 if cluster == 2 else cluster for i, cluster in original.items()} | {"scans/digit-123.png": goal}
    table, whole = exported(page, "CSV", tmp_path), exported(page, "JSON", tmp_path)
    assert {row["id"]: int(row["cluster"]) for row in table} == expected
    assert {row["id"]: row["cluster"] for row in whole["images"]} == expected
    assert {row["name"] for row in table if row["cluster"] == "7"} == {name}
    assert whole["clusters"] == [
        {"old": old, "cluster": 7 if old == 2 else old, "name": name if old in (2, 7) else ""} for old in range(K)
    ]
    assert (whole["sample"], whole["n_images"]) == (False, N)


def test_a_sample_says_so_in_the_export(visit, tmp_path):
    whole = exported(visit("sample"), "JSON", tmp_path)
    assert (whole["sample"], whole["n_images"], len(whole["images"])) == (True, 7200, N)


def test_a_selection_moves_as_one(visit, members, tmp_path):
    page = visit()
    moved = members(6)
    page.locator("#cluster-6 .open").click()
    page.locator("#cluster-view .select").click()
    page.select_option("#move-all-to", "0")
    page.locator("#move-all button").click()
    assert "This cluster is empty" in page.locator("#cluster-6").inner_text()
    found = {row["id"] for row in exported(page, "CSV", tmp_path) if row["cluster"] == "0"}
    assert found == {*moved, *members(0)}


def test_hostile_names_come_back_from_the_export(visit, reports, tmp_path):
    page = visit("evil")
    rename(page, 0, EVIL[1])
    close(page)
    ids = sorted(as_utf8(name) for name in reports("evil")[0].images.ids)
    assert sorted(row["id"] for row in exported(page, "JSON", tmp_path)["images"]) == ids
    assert sorted(row["id"] for row in exported(page, "CSV", tmp_path)) == ids
