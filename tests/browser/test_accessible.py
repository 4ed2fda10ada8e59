"""Names, headings, contrast, keyboard, themes and widths."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow  # each page takes Chromium a second or two

STATES = ("page", "cluster", "image")

CHECKS = (Path(__file__).parent / "checks.js").read_text()


def check(page, name):
    return page.evaluate(f"({CHECKS}).{name}()")


def bring(page, state):
    if state == "cluster":
        page.locator("#cluster-1 .open").click()
    if state == "image":
        page.locator("#cluster-1 .thumb").first.click()


def test_everything_has_a_name_and_headings_skip_no_level(visit):
    page = visit()
    page.fill("#query", "digit-01")
    page.wait_for_timeout(250)
    page.locator("#results .select").click()
    for state in STATES:
        bring(page, state)
        assert check(page, "unnamed") == []
        ids = page.evaluate("() => [...document.querySelectorAll('[id]')].map((e) => e.id)")
        assert len(ids) == len(set(ids))
        for levels in check(page, "headings"):
            assert levels[0] in (1, 2)
            assert all(after <= before + 1 for before, after in pairwise(levels))
        tree = page.locator("dialog[open]" if state != "page" else "body").aria_snapshot()
        assert '- button "' in tree
        assert "- button\n" not in tree
        page.keyboard.press("Escape")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out(visit, scheme):
    page = visit(color_scheme=scheme)
    page.fill("#query", "digit-01")
    page.wait_for_timeout(250)
    page.locator("#results .select").click()
    for state in STATES:
        bring(page, state)
        assert check(page, "contrast") == {}
        page.keyboard.press("Escape")


@pytest.mark.parametrize(
    ("width", "scheme"),
    [
        (360, "light"),
        (360, "dark"),
        (768, "light"),
        (768, "dark"),
        (1440, "light"),
        (1440, "dark"),
    ],
)
def test_nothing_is_wider_than_the_screen(visit, shoot, width, scheme):
    page = visit("evil" if scheme == "dark" else "digits", width=width, color_scheme=scheme)
    fits = "() => document.documentElement.scrollWidth <= innerWidth"
    assert page.evaluate(fits)
    shoot(page, f"top-{width}-{scheme}")
    page.fill("#query", "1")
    page.wait_for_timeout(250)
    page.locator("#results .select").click()
    assert page.evaluate(fits)
    # At once: a screenshot on the way there would show a blank, and so would a screen.
    assert 0 <= page.locator("#selection-title").evaluate("(e) => e.getBoundingClientRect().top") < 900
    shoot(page, f"selection-{width}-{scheme}")
    for state in ("cluster", "image"):
        bring(page, state)
        dialog = page.locator("dialog[open]").last
        assert dialog.evaluate("(d) => d.scrollWidth <= d.clientWidth")
        shoot(page, f"{state}-{width}-{scheme}")
        page.keyboard.press("Escape")


def test_page_and_map_follow_a_change_of_theme(visit):
    def brightness():
        return sum(map(int, page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g)"))) / 765

    page = visit(color_scheme="light")
    page.locator("#chart").scroll_into_view_if_needed()
    page.wait_for_timeout(300)
    read = "(c) => c.toDataURL().length + c.toDataURL().slice(-3000)"
    light = page.locator("#chart").evaluate(read)
    assert brightness() > 0.9
    page.emulate_media(color_scheme="dark")
    page.wait_for_timeout(300)
    assert brightness() < 0.15
    assert page.locator("#chart").evaluate(read) != light


def test_less_motion_moves_nothing(visit):
    page = visit(reduced_motion="reduce")
    assert page.locator(".thumb").first.evaluate("(e) => getComputedStyle(e).transitionDuration") == "0s"
    assert page.evaluate("getComputedStyle(document.documentElement).scrollBehavior") == "auto"


def test_the_keyboard_alone_gets_everywhere(visit):
    page = visit()
    active = "() => { const e = document.activeElement; return e.id || e.className || e.tagName; }"
    page.keyboard.press("Tab")
    assert page.evaluate(active) == "skip"
    visible = "() => getComputedStyle(document.activeElement).outlineStyle"
    seen = []
    for _ in range(40):
        page.keyboard.press("Tab")
        seen.append(page.evaluate(active))
        assert page.evaluate(visible) != "none", seen[-1]
    assert {"query", "undo", "csv", "open"} <= set(seen)
    assert seen.count("open") > 5, "a grid is one stop, so cards are passed in a few"
    thumb = page.locator("#cluster-0 .thumb").first
    thumb.focus()
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.ariaLabel") == page.locator("#cluster-0 .thumb").nth(1).get_attribute(
        "aria-label"
    )
    page.keyboard.press("Enter")
    assert page.locator("#detail-view").is_visible()
    page.keyboard.press("Escape")
    page.wait_for_timeout(100)
    assert page.evaluate("document.activeElement.closest('.card').id") == "cluster-0"
    page.locator("#cluster-0 .open").focus()
    page.keyboard.press("Enter")
    for _ in range(12):
        page.keyboard.press("Tab")
        assert page.evaluate(
            "Boolean(document.activeElement.closest('dialog')) || document.activeElement === document.body"
        )
    page.locator("#cluster-name").focus()
    page.keyboard.type("by hand")
    page.keyboard.press("Enter")
    page.keyboard.press("Escape")
    page.wait_for_timeout(100)
    assert page.locator("#cluster-0 h3").inner_text() == "by hand"
    assert page.evaluate("document.activeElement.className") == "open"
