"""The page of ``shoal review``: decisions by pointer and keyboard, two tabs, a server that dies."""

from __future__ import annotations

import csv
import json
from itertools import pairwise

import pytest
from tests.browser.reviewing import *  # noqa: F403 - fixtures
from tests.browser.reviewing import EACH, EVIL
from tests.browser.test_accessible import check
from tests.results.conftest import photograph

from shoal.cli.main import main
from shoal.results.result import Result

N = 4 * EACH + 1
FITS = "() => document.documentElement.scrollWidth <= innerWidth"


def go(page, view):
    page.evaluate(f"location.hash = '#/{view}'")
    section = {"images": "gallery", "cluster": "gallery"}.get(view.partition("/")[0], view)
    page.wait_for_selector(f"#{section}:not([hidden])")


def said(page):
    return page.locator("body > .said").inner_text()


def wait_for(page, text):
    page.wait_for_function("(text) => document.querySelector('body > .said').textContent.includes(text)", arg=text)


def saved(page):
    page.wait_for_function("() => document.querySelector('#saving').textContent === 'All saved'")


def rename(page, cluster, name):
    page.locator(f"#cluster-{cluster} .name").click()
    page.keyboard.type(name)
    page.keyboard.press("Enter")


def tiles(page):
    return page.locator(".tile:not([hidden])")


def decisions(folder):
    """All of them; a line that is not complete would not be JSON."""
    return [json.loads(line) for line in (folder / "decisions.jsonl").read_text().splitlines()]


def test_a_name_is_given_in_place_and_taken_back(review, reviewed):
    page = review()
    rename(page, 0, "<b>Rötlich</b>")
    wait_for(page, "is now called")
    assert page.locator("#cluster-0 .name").inner_text() == "<b>Rötlich</b>"
    assert page.evaluate("document.activeElement.className") == "name"
    assert Result.load(reviewed).names == {0: "<b>Rötlich</b>"}
    page.keyboard.press("Control+z")
    wait_for(page, "undone")
    assert page.locator("#cluster-0 .name").inner_text() == "Cluster 0"
    page.locator("#cluster-0 .name").click()
    page.keyboard.type("not this")
    page.keyboard.press("Escape")
    assert page.locator("#cluster-0 .name").inner_text() == "Cluster 0"
    assert Result.load(reviewed).names == {}


@pytest.mark.slow
def test_several_clusters_are_merged_and_renamed_at_once(review, reviewed):
    page = review()
    for cluster in (1, 2, 3):
        page.locator(f"[data-chooses='{cluster}']").check()
    page.click("#merge-chosen")
    page.select_option("#merge-goal", "2")
    page.click("#merger [type=submit]")
    wait_for(page, "3 clusters were merged into")
    assert page.locator(".card").count() == 2
    page.click("#rename-chosen")
    page.fill("#name-0", "few")
    page.fill("#name-2", "many")
    page.click("#renamer [type=submit]")
    wait_for(page, "2 clusters were renamed")
    assert Result.load(reviewed).names == {0: "few", 2: "many"}


@pytest.mark.slow
def test_images_are_selected_and_moved_by_keys_alone(review, reviewed):
    page = review()
    before = Result.load(reviewed).assignments.labels
    own = page.evaluate("(text) => Number(text.match(/\\d+/)[0])", page.locator("#cluster-0 .facts").inner_text())
    go(page, "cluster/0")
    tiles(page).first.focus()
    page.keyboard.press("Space")
    page.keyboard.press("Shift+ArrowRight")
    page.keyboard.press("Shift+ArrowRight")
    assert page.locator("#n-picked").inner_text() == "3 selected"
    assert page.locator(".tile[aria-selected=true]:not([hidden])").count() == 3
    page.keyboard.press("m")
    page.keyboard.type("cluster 1")
    page.keyboard.press("Enter")
    wait_for(page, "3 images moved to Cluster 1")
    assert page.locator("#gallery-facts").inner_text() == f"{own - 3} images"
    after = Result.load(reviewed).assignments.labels
    assert int((after != before).sum()) == 3
    page.keyboard.press("Control+a")
    page.keyboard.press("w")
    wait_for(page, "moved to Nowhere")
    assert int((Result.load(reviewed).assignments.labels == -1).sum()) == own - 3
    page.keyboard.press("u")
    wait_for(page, "undone")
    assert int((Result.load(reviewed).assignments.labels == -1).sum()) == 0


@pytest.mark.slow
def test_a_frame_selects_and_more_like_these_become_a_cluster(review, reviewed):
    page = review()
    go(page, "images")
    first, sixth = tiles(page).first.bounding_box(), tiles(page).nth(5).bounding_box()
    page.mouse.move(first["x"] + 5, first["y"] + 5)
    page.mouse.down()
    page.mouse.move(sixth["x"] + 20, sixth["y"] + 20, steps=5)
    page.mouse.up()
    assert page.locator("#n-picked").inner_text() == "6 selected"
    page.keyboard.press("l")
    page.wait_for_function(f"() => document.querySelector('.tile:not([hidden])').ariaSetSize === '{N - 6}'")
    assert page.locator("#gallery-title").inner_text() == "More like the 6 images selected"
    assert page.locator(".tile[aria-selected=true]:not([hidden])").count() == 0, "those are others"
    tiles(page).nth(1).click()
    tiles(page).nth(3).click(modifiers=["Shift"])
    assert page.locator("#n-picked").inner_text() == "9 selected"
    page.keyboard.press("n")
    page.keyboard.type("mine")
    page.keyboard.press("Enter")
    wait_for(page, "was made of 9 images")
    result = Result.load(reviewed)
    (cluster,) = [number for number, name in result.names.items() if name == "mine"]
    assert int((result.assignments.labels == cluster).sum()) == 9


@pytest.mark.slow
def test_filters_and_orders(review, reviewed):
    page = review()
    go(page, "images")
    folder = page.locator("#filters [name=folder]")
    folder.select_option("b")
    page.wait_for_function(f"() => document.querySelector('#gallery-facts').textContent.startsWith('{EACH} ')")
    page.fill("#filters [name=text]", "-1")
    page.wait_for_function("() => document.querySelector('#gallery-facts').textContent.startsWith('6 ')")  # 1, 10 … 14
    folder.select_option("")
    page.fill("#filters [name=text]", "")
    page.wait_for_function(f"() => document.querySelector('#gallery-facts').textContent.startsWith('{N} ')")
    result = Result.load(reviewed)
    order = result.assignments.confidence.argsort(stable=True).tolist()
    for kind, expected in (("doubtful", order[0]), ("central", order[-1])):
        page.click(f"[data-sort={kind}]")
        at = page.locator(".tile[data-place='0']:not([hidden]) canvas")
        row = int(at.get_attribute("data-shows"))
        assert result.assignments.confidence[row] == result.assignments.confidence[expected]
    page.fill("#filters [name=from]", "2999-01-01")
    page.wait_for_function("() => !document.querySelector('#gallery .none').hidden")


@pytest.mark.slow
def test_a_cluster_is_split_as_shown(review, reviewed):
    page = review()
    go(page, "cluster/0")
    page.keyboard.press("s")
    page.wait_for_selector(".part:nth-child(2)")
    page.locator("#n-parts").focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_selector(".part:nth-child(3)")
    page.wait_for_selector("#do-split[aria-disabled=false]")
    sizes = [int(text.split()[0]) for text in page.locator(".part .facts").all_inner_texts()]
    page.click("#do-split")
    wait_for(page, "was split")
    labels = Result.load(reviewed).assignments.labels
    assert [int((labels == number).sum()) for number in (0, 4, 5)] == sizes
    assert page.locator(".card").count() == 6


@pytest.mark.slow
@pytest.mark.parametrize("view", ["cluster/99", "nothing"])
def test_what_is_not_there_leads_to_the_clusters(review, view):
    page = review()
    page.evaluate("(view) => { location.hash = `#/${view}`; }", view)
    page.wait_for_selector("#clusters:not([hidden])")
    assert page.locator("#gallery").is_hidden()


@pytest.mark.slow
def test_names_of_images_are_text(review):
    page = review()
    go(page, "images")
    page.fill("#filters [name=text]", "onerror")
    page.wait_for_function("() => document.querySelector('#gallery-facts').textContent.startsWith('1 ')")
    tile = tiles(page).first
    page.wait_for_function(
        "() => [...document.querySelectorAll('.tile')].some((tile) => tile.title.includes('onerror'))"
    )
    assert tile.get_attribute("aria-label") == f"{EVIL}.png"
    tile.press("Enter")
    page.wait_for_function("() => document.querySelector('#image-title').textContent.includes('onerror')")
    assert page.locator("#image-large img").evaluate("(image) => image.decode().then(() => image.naturalWidth)") == 40
    page.wait_for_selector("#image-nearest button")
    page.keyboard.press("Escape")
    go(page, "duplicates")
    page.wait_for_selector(".copies .keep")
    page.click("#pick-copies")
    assert page.locator("#n-picked").inner_text() == "1 selected"
    assert page.evaluate("window.broken") is None
    assert "onerror" not in page.evaluate("[...document.querySelectorAll('img')].map((e) => e.src).join()")


@pytest.mark.slow
def test_names_are_suggested_and_images_found_by_meaning(review, reviewed):
    page = review(
        answers={
            "names": {"0": [["tabby <i>cat</i>", 0.9]], "1": [["school bus", 0.8], ["bus", 0.1]]},
            "find": {"rows": [7, 3], "similarity": [0.4, 0.3]},
        }
    )
    page.wait_for_selector("#cluster-0 .suggested")
    assert page.locator("#cluster-0 .suggested i").inner_text() == "tabby <i>cat</i>"
    assert page.locator(".suggested").count() == 2
    assert Result.load(reviewed).names == {}, "a suggestion is not a name"
    page.locator("#cluster-0 .suggested button").click()
    wait_for(page, "is now called tabby")
    page.click("#accept-names")
    wait_for(page, "1 cluster was renamed")
    assert Result.load(reviewed).names == {0: "tabby <i>cat</i>", 1: "school bus"}
    page.wait_for_function("() => !document.querySelector('.suggested')")
    page.keyboard.press("i")
    page.locator("#filters [name=by]").select_option("meaning")
    page.fill("#filters [name=text]", "a red car")
    page.press("#filters [name=text]", "Enter")
    page.wait_for_function("() => document.querySelector('#gallery-title').textContent === 'Like “a red car”'")
    page.wait_for_timeout(400)
    shown = tiles(page).evaluate_all("(tiles) => tiles.map((tile) => tile.firstChild.dataset.shows)")
    assert shown == ["7", "3"], "in this order too for who does not see them"


@pytest.mark.slow
def test_another_tab_hears_of_it_and_loses_nothing(review):
    page = review()
    other = review(beside=page)
    other.locator("#cluster-1 .name").click()
    other.keyboard.type("half a na")
    rename(page, 0, "from the first")
    wait_for(page, "is now called")
    other.wait_for_timeout(600)
    assert other.locator(".name-field").input_value() == "half a na", "what is being written stays"
    other.keyboard.type("me")
    other.keyboard.press("Enter")
    for each in (page, other):
        each.wait_for_function("() => document.querySelector('#cluster-0 .name')?.textContent === 'from the first'")
        each.wait_for_function("() => document.querySelector('#cluster-1 .name')?.textContent === 'half a name'")


@pytest.mark.slow
def test_the_lasso_of_the_map_selects(review):
    page = review()
    go(page, "map")
    page.click("[data-mode=lasso]")
    box = page.locator("#chart").bounding_box()
    page.mouse.move(box["x"] + 12, box["y"] + 12)
    page.mouse.down()
    for x, y in ((-12, 12), (-12, -12), (12, -12)):
        page.mouse.move(box["x"] + x % box["width"], box["y"] + y % box["height"], steps=4)
    page.mouse.up()
    assert page.locator("#n-picked").inner_text() == f"{N} selected"
    page.keyboard.press("Escape")
    assert page.locator("#picked").is_hidden()


VIEWS = ("clusters", "images", "cluster/1", "map", "questions", "duplicates")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("width", "scheme"),
    [
        (360, "dark"),
        (360, "light"),
        (1440, "light"),
        (1440, "dark"),
    ],
)
def test_views_are_accessible_and_fit(review, shoot, width, scheme):
    page = review(width=width, color_scheme=scheme)

    def inspect(name):
        page.wait_for_timeout(150)
        assert page.evaluate(FITS), name
        assert check(page, "unnamed") == [], name
        assert check(page, "contrast") == {}, name
        for levels in check(page, "headings"):
            assert levels[0] in (1, 2)
            assert all(after <= before + 1 for before, after in pairwise(levels)), name
        ids = page.evaluate("() => [...document.querySelectorAll('[id]')].map((e) => e.id)")
        assert len(ids) == len(set(ids))
        shoot(page, f"review-{name.replace('/', '-')}-{width}-{scheme}")

    for view in VIEWS:
        go(page, view)
        if view == "questions":
            page.wait_for_selector("#question:not([hidden])")
        inspect(view)
    go(page, "images")
    tiles(page).first.click()
    inspect("selection")
    tiles(page).nth(1).press("Enter")
    page.wait_for_selector("#image-nearest button")
    inspect("image")
    page.keyboard.press("Escape")
    for key, dialog in (("?", "#help"), ("m", "#picker"), ("n", "#namer")):
        page.keyboard.press(key)
        assert page.locator(dialog).is_visible()
        inspect(dialog[1:])
        page.keyboard.press("Escape")


@pytest.mark.slow
def test_a_wall_is_one_tab_stop_and_less_motion_is_heeded(review):
    page = review(reduced_motion="reduce")
    go(page, "images")
    page.locator("[data-sort=central]").focus()
    stops = []
    for _ in range(6):
        page.keyboard.press("Tab")
        stops.append(page.evaluate("document.activeElement.className"))
    assert stops.count("tile") == 1
    assert page.evaluate("getComputedStyle(document.querySelector('.tile')).transitionDuration") == "0s"
    assert page.evaluate("getComputedStyle(document.documentElement).scrollBehavior") == "auto"


@pytest.mark.slow
def test_a_whole_session(serve, reviewed, open_page, tmp_path):
    """Rename, split, merge, 20 answers, learn, undo, reload in mid-edit, a server killed, then sort and predict."""
    address = serve.start()
    page = open_page(address)
    rename(page, 0, "first")
    wait_for(page, "is now called first")
    go(page, "cluster/0")
    page.keyboard.press("s")
    page.wait_for_selector("#do-split[aria-disabled=false]")
    page.click("#do-split")
    wait_for(page, "was split")
    page.locator("[data-chooses='0']").check()
    page.locator("[data-chooses='4']").check()
    page.keyboard.press("j")
    page.select_option("#merge-goal", "0")
    page.click("#merger [type=submit]")
    wait_for(page, "2 clusters were merged into first")
    assert page.locator(".card").count() == 4

    page.keyboard.press("q")
    for nth in range(20):
        page.wait_for_function("(n) => document.querySelector('#tally').textContent.startsWith(`${n} answer`)", arg=nth)
        page.wait_for_selector("#question:not([hidden]) [data-key='1']")
        page.keyboard.press("1")
    page.wait_for_function(
        "() => document.querySelector('#tally').textContent.startsWith('20 answers so far, 20 of them')"
    )
    saved(page)
    assert sum(step["do"] == "answer" for step in decisions(reviewed)) == 20
    page.keyboard.press("u")
    page.wait_for_function("() => document.querySelector('#tally').textContent.startsWith('19 answers')")
    page.keyboard.press("1")
    page.wait_for_function("() => document.querySelector('#tally').textContent.startsWith('20 answers')")
    page.keyboard.press("l")
    page.wait_for_selector("#proposal[open]")
    if page.locator("#accept").is_visible():
        page.click("#accept")
        wait_for(page, "follow the answers now")
        assert decisions(reviewed)[-1]["do"] == "learn"
        go(page, "clusters")
        page.keyboard.press("u")
        wait_for(page, "undone")
    else:
        page.keyboard.press("Escape")

    # Reloaded while a change is on its way: it arrives all the same, once.
    go(page, "clusters")
    page.route("**/api/decide", lambda route: route.abort())
    rename(page, 1, "second")
    page.wait_for_selector("#banner:not([hidden])")
    assert "One change waits" in page.locator("#banner").inner_text()
    page.unroute("**/api/decide")
    page.reload()
    page.wait_for_function("() => document.querySelector('#cluster-1 .name')?.textContent === 'second'")
    saved(page)

    # The server dies: what was decided is kept, and what could not be sent waits for it.
    serve.kill()
    rename(page, 2, "third")
    page.wait_for_selector("#banner:not([hidden])")
    address = serve.start()
    page.wait_for_function("() => document.querySelector('#banner').textContent.includes('open the address')")
    page.goto(address)
    page.wait_for_function("() => document.querySelector('#cluster-2 .name')?.textContent === 'third'")
    saved(page)
    renames = [step["name"] for step in decisions(reviewed) if step["do"] == "rename"]
    assert renames == ["first", "second", "third"]
    serve.end()

    photograph(tmp_path / "new", "red", 99)
    out = tmp_path / "new.csv"
    assert main(["predict", str(reviewed), str(tmp_path / "new"), "--out", str(out)]) == 0
    with out.open(encoding="utf-8", newline="") as file:
        (row,) = csv.DictReader(file)
    result = Result.load(reviewed)
    reds = [
        cluster
        for name, cluster in zip(result.table_ids, result.assignments.labels.tolist(), strict=True)
        if "red-" in name
    ]
    assert int(row["cluster"]) == max(set(reds), key=reds.count)
    assert main(["sort", str(reviewed), "--copy", str(tmp_path / "sorted"), "--yes"]) == 0
    folders = {path.name for path in (tmp_path / "sorted").iterdir() if path.is_dir()}
    assert all(any(name in folder for folder in folders) for name in ("first", "second", "third"))
    assert len(list((tmp_path / "sorted").rglob("*.png"))) == N
