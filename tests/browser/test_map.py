"""The map: zoom, pan, pointing, the lasso."""

from __future__ import annotations

import numpy as np
import pytest
from tests.report.test_contents import column, contents

pytestmark = pytest.mark.slow  # each page takes Chromium a second or two

MARGIN = 18


@pytest.fixture
def chart(visit, reports):
    """The page at the map, and where each image is drawn on the screen."""
    page = visit()
    box = page.locator("#chart")
    page.locator(".map-tools").scroll_into_view_if_needed()
    page.evaluate("() => document.querySelector('.map-tools').scrollIntoView()")
    page.wait_for_timeout(600)
    found = contents(reports("digits")[0])
    frame = box.bounding_box()
    unit = column(found, "place") / 65534
    inside = np.array([frame["width"], frame["height"]]) - 2 * MARGIN
    return page, found.values["ids"], unit * inside + MARGIN + [frame["x"], frame["y"]]


def zoom(page):
    return float(page.locator("#chart").get_attribute("data-zoom"))


# A copy is read, so that the browser has no advice to give about the page's own canvas.
PIXELS = """const copy = Object.assign(document.createElement('canvas'), { width: c.width, height: c.height });
    const pen = copy.getContext('2d', { willReadFrequently: true });
    pen.drawImage(c, 0, 0);
    const d = pen.getImageData(0, 0, c.width, c.height).data;"""


def ink(page):
    """How many pixels are drawn, and a sum that changes when they move."""
    read = """(c) => { PIXELS let [n, s] = [0, 0];
        for (let i = 3; i < d.length; i += 4) if (d[i]) { n += 1; s = (s + i * d[i]) % 1e9; } return [n, s]; }"""
    page.wait_for_timeout(150)
    return page.locator("#chart").evaluate(read.replace("PIXELS", PIXELS))


def test_dots_are_drawn_in_the_colours_of_their_clusters(chart):
    page, _, _ = chart
    assert ink(page)[0] > 5000
    colours = """(c) => { PIXELS const s = new Set();
        for (let i = 0; i < d.length; i += 4) if (d[i + 3] === 255) s.add(d.slice(i, i + 3).join());
        return s.size; }"""
    assert page.locator("#chart").evaluate(colours.replace("PIXELS", PIXELS)) >= 10


def test_buttons_wheel_and_keys_zoom_and_move(chart, shoot):
    page, _, places = chart
    start = ink(page)
    page.get_by_role("button", name="Zoom in").click()
    assert zoom(page) == 1.5
    assert ink(page) != start
    page.get_by_role("button", name="Fit the whole map").click()
    assert zoom(page) == 1
    assert ink(page) == start
    x, y = places.mean(axis=0)
    page.mouse.move(x, y)
    before = page.evaluate("scrollY")
    page.mouse.wheel(0, -10)
    assert zoom(page) == 1, "without focus the wheel is the page's"
    page.evaluate("(y) => scrollTo({ top: y, behavior: 'instant' })", before)
    page.locator("#chart").focus()
    page.mouse.wheel(0, -400)
    page.wait_for_timeout(100)
    assert zoom(page) == pytest.approx(np.exp(0.8), abs=0.01)
    page.keyboard.press("+")
    page.keyboard.press("+")
    assert zoom(page) == pytest.approx(np.exp(0.8) * 2.25, abs=0.05)
    moved = ink(page)
    page.keyboard.press("ArrowRight")
    assert ink(page) != moved
    page.keyboard.press("ArrowLeft")
    assert ink(page) == moved
    page.mouse.down()
    page.mouse.move(x + 80, y + 40, steps=3)
    page.mouse.up()
    assert ink(page) != moved
    shoot(page, "map-zoomed")
    page.keyboard.press("0")
    assert ink(page) == start


def test_two_fingers_pinch(visit):
    page = visit(width=390, height=800, has_touch=True, is_mobile=True)
    page.locator("#chart").scroll_into_view_if_needed()
    page.wait_for_timeout(300)
    frame = page.locator("#chart").bounding_box()
    x, y = frame["x"] + 150, frame["y"] + 150
    session = page.context.new_cdp_session(page)

    def touch(kind, *gap):
        points = [{"x": x - gap[0], "y": y, "id": 0}, {"x": x + gap[0], "y": y, "id": 1}] if gap else []
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    touch("touchStart", 30)
    for gap in (40, 60, 90):
        touch("touchMove", gap)
    touch("touchEnd")
    page.wait_for_timeout(100)
    assert zoom(page) == pytest.approx(3, rel=0.15)


def test_pointing_shows_the_image_and_a_click_opens_it(chart, shoot):
    page, ids, places = chart
    # The dot farthest from all others is pointed at without doubt.
    far = np.linalg.norm(places[:, None] - places, axis=2) + np.eye(len(places)) * 1e9
    inside = (places[:, 1] > 5) & (places[:, 1] < 880)
    i = int(np.where(inside, far.min(axis=1), 0).argmax())
    page.mouse.move(*places[i])
    assert ids[i] in page.locator(".loupe").inner_text()
    shoot(page, "map-loupe")
    page.mouse.click(*places[i])
    assert page.locator("#detail-view h2").inner_text() == ids[i]
    page.keyboard.press("Escape")
    page.mouse.move(5, 5)
    assert not page.locator(".loupe").is_visible()


def test_keys_go_from_dot_to_dot(chart):
    page, ids, _ = chart
    page.locator("#chart").focus()
    seen = []
    for key in ("ArrowRight", "ArrowRight", "ArrowDown"):
        page.keyboard.press(f"Shift+{key}")
        seen.append(page.locator(".loupe span").inner_text().partition(" · ")[0])
    assert len(set(seen)) == 3
    assert set(seen) <= set(ids)
    page.keyboard.press("Enter")
    assert page.locator("#detail-view h2").inner_text() == seen[-1]
    page.keyboard.press("Escape")
    page.wait_for_timeout(100)
    assert page.evaluate("document.activeElement.id") == "chart"


def test_the_lasso_selects_what_is_inside(chart, shoot, tmp_path):
    page, ids, places = chart
    centre = np.median(places, axis=0)
    page.get_by_role("button", name="Lasso").click()
    corners = centre + np.array([[-150, -110], [150, -110], [150, 110], [-150, 110]])
    page.mouse.move(*corners[0])
    page.mouse.down()
    for corner in corners[1:]:
        page.mouse.move(*corner, steps=3)
    shoot(page, "lasso")
    page.mouse.up()
    offsets = np.abs(places - centre)
    expected = {name for name, (dx, dy) in zip(ids, offsets, strict=True) if dx < 150 and dy < 110}
    edge = {name for name, (dx, dy) in zip(ids, offsets, strict=True) if abs(dx - 150) < 1 or abs(dy - 110) < 1}
    listed = set(page.locator("#selected-ids").input_value().split("\n"))
    assert listed ^ expected <= edge
    assert 10 < len(listed) < 400
    assert page.locator("#selection h2").inner_text() == f"{len(listed)} images selected"
    with page.expect_download() as download:
        page.get_by_role("button", name="Download list").click()
    download.value.save_as(tmp_path / "list.txt")
    assert set((tmp_path / "list.txt").read_text().splitlines()) == listed
    page.locator("#selection").get_by_role("button", name="Clear").click()
    assert not page.locator("#selection").is_visible()


def test_ids_are_copied_or_else_marked(visit, members):
    page = visit(permissions=["clipboard-read", "clipboard-write"])
    page.locator("#cluster-4 .open").click()
    page.locator("#cluster-view .select").click()
    page.get_by_role("button", name="Copy ids").click()
    page.wait_for_timeout(200)
    copied = page.evaluate("navigator.clipboard.readText()")
    assert sorted(copied.split("\n")) == sorted(members(4))
    denied = visit(script="Object.defineProperty(navigator, 'clipboard', { value: undefined })")
    denied.locator("#cluster-4 .open").click()
    denied.locator("#cluster-view .select").click()
    denied.get_by_role("button", name="Copy ids").click()
    assert denied.get_by_role("button", name="Selected: press Ctrl+C").is_visible()
    marked = denied.evaluate("getSelection().toString() || document.activeElement.value")
    assert sorted(marked.split("\n")) == sorted(members(4))


def test_the_legend_lights_a_cluster(chart):
    page, _, _ = chart
    start = ink(page)
    button = page.locator(".legend button").nth(2)
    button.click()
    assert button.get_attribute("aria-pressed") == "true"
    assert ink(page) != start
    button.click()
    page.mouse.move(5, 5)
    assert ink(page) == start
