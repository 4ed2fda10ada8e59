"""Cards, galleries of a cluster, one image, and search."""

from __future__ import annotations

import pytest
from tests.browser.conftest import EVIL, K

pytestmark = pytest.mark.slow  # each page takes Chromium a second or two


def names(grid):
    return [
        label.partition(" · ")[0] for label in grid.locator(".thumb").evaluate_all("(a) => a.map((b) => b.ariaLabel)")
    ]


def open_largest(page, reports):
    """The dialog of the largest cluster, and its number."""
    data = reports("digits")[0]
    cluster = int(data.clustering.labels.bincount().argmax())
    page.locator(f"#cluster-{cluster} .open").click()
    return page.locator("#cluster-view"), cluster


def test_cards_show_the_most_central_and_the_most_doubtful(visit, members, reports, shoot):
    page = visit()
    data = reports("digits")[0]
    confidence = dict(zip(data.images.ids, data.confidences.tolist(), strict=True))
    assert page.locator(".card").count() == K
    for cluster in range(K):
        grids, own = page.locator(f"#cluster-{cluster} .grid"), members(cluster)
        assert names(grids.nth(0)) == own[:15]
        if len(own) > 15:
            assert names(grids.nth(1)) == sorted(own[15:], key=confidence.get)[:6]
    shoot(page, "cards")


def test_pictures_are_the_images(visit, members, reports):
    page = visit()
    data = reports("digits")[0]
    canvas = page.locator("#cluster-0 canvas").first
    page.wait_for_timeout(300)
    read = "(c) => [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data].filter((_, i) => i % 4 === 0)"
    expected = data.images.pixels[data.images.ids.index(members(0)[0])][0].flatten().tolist()
    assert canvas.evaluate(read) == expected


def test_a_cluster_opens_and_turns_its_pages(visit, members, reports, shoot):
    page = visit()
    page.fill("#query", "digit")  # all 500: nine pages
    results = page.locator("#results")
    results.get_by_role("button", name="Next").click()
    assert results.locator("input[type=number]").input_value() == "2"
    assert "61 to 120 of 500" in results.locator(".range").inner_text()
    results.locator("input[type=number]").fill("9")
    results.locator("input[type=number]").press("Enter")
    assert results.locator(".thumb").count() == 20
    assert results.get_by_role("button", name="Next").get_attribute("aria-disabled") == "true"
    results.get_by_role("button", name="Previous").click()
    assert "421 to 480" in results.locator(".range").inner_text()
    page.keyboard.press("Escape")
    dialog, cluster = open_largest(page, reports)
    assert names(dialog) == members(cluster)[:60]
    shoot(page, "cluster")


def test_the_order_turns_to_doubt_and_back(visit, members, reports):
    page = visit()
    data = reports("digits")[0]
    confidence = dict(zip(data.images.ids, data.confidences.tolist(), strict=True))
    dialog, cluster = open_largest(page, reports)
    dialog.get_by_role("button", name="Most doubtful").click()
    assert names(dialog) == sorted(members(cluster), key=confidence.get)[:60]
    assert dialog.get_by_role("button", name="Most doubtful").get_attribute("aria-pressed") == "true"
    assert "doubtful" in dialog.locator(".said").inner_text()
    dialog.get_by_role("button", name="Most central").click()
    assert names(dialog) == members(cluster)[:60]


def test_from_an_image_to_its_neighbours_and_back(visit, reports, shoot):
    page = visit()
    data = reports("digits")[0]
    far = (data.features[:, None] - data.features).norm(dim=2).fill_diagonal_(float("inf"))
    ids = data.images.ids

    def check(i):
        assert detail.locator("h2").inner_text() == ids[i]
        assert f"cluster {int(data.clustering.labels[i])}" in detail.locator(".about").inner_text().lower()
        near = [ids.index(name) for name in names(detail)]
        assert far[i][near].tolist() == pytest.approx(far[i].topk(8, largest=False).values.tolist(), rel=1e-4)
        return near

    page.locator("#cluster-3 .thumb").first.click()
    detail = page.locator("#detail-view")
    first = ids.index(detail.locator("h2").inner_text())
    second = check(first)[0]
    shoot(page, "image")
    detail.locator(".thumb").first.click()
    third = check(second)[1]
    detail.locator(".thumb").nth(1).click()
    check(third)
    detail.get_by_role("button", name="Back").click()
    check(second)
    detail.locator(".link").click()
    assert not detail.is_visible()
    assert page.locator("#cluster-view").is_visible()


def test_a_sample_of_a_larger_set_with_names(visit):
    page = visit("sample")
    assert "7\u202f200" in page.locator("dl.figures").inner_text()
    assert "50 images" in page.locator("#cluster-0 .facts").inner_text()
    assert "shown" in page.locator("#cluster-11 .facts").inner_text()
    assert page.locator("#cluster-3 h3").inner_text() == "mostly threes"
    assert page.locator("#edits").inner_text() == "No edits"
    page.fill("#query", "digit-499")
    page.press("#query", "Enter")
    assert "100.0\u202f%" in page.locator("#detail-view .about").inner_text()
    assert "Class" not in page.locator("#detail-view .about").inner_text()


def test_search_finds_parts_of_ids(visit, shoot):
    page = visit()
    page.fill("#query", "DIGIT-04")
    page.wait_for_selector("#results:visible")
    assert page.locator("#results h2").inner_text() == "10 images found"
    assert sorted(names(page.locator("#results"))) == [f"scans/digit-{i:03}.png" for i in range(40, 50)]
    shoot(page, "search")
    page.press("#query", "Enter")
    assert page.locator("#detail-view h2").inner_text() == names(page.locator("#results"))[0]
    page.keyboard.press("Escape")
    page.fill("#query", "zzz")
    page.wait_for_timeout(250)
    assert page.locator("#results h2").inner_text() == "Nothing found"
    page.press("#query", "Escape")
    assert not page.locator("#results").is_visible()


def test_a_link_leads_to_a_cluster(visit):
    page = visit(fragment="#cluster-11")
    page.wait_for_timeout(200)
    top = page.locator("#cluster-11").evaluate("(e) => e.getBoundingClientRect().top")
    assert 0 <= top < 900
    page.locator("#confusion").get_by_role("link", name="2", exact=True).click()
    page.wait_for_timeout(1500)
    assert 0 <= page.locator("#cluster-2").evaluate("(e) => e.getBoundingClientRect().top") < 900


def test_duplicates_and_outliers_are_listed(visit):
    page = visit()
    section = page.locator("#duplicates")
    assert section.locator(".listing").count() == 12
    assert section.locator(".listing").first.locator("li").all_inner_texts() == [
        "scans/digit-001.png\nkeep\n640 × 480",
        "scans/digit-002.png\n320 × 240, same file",
        "not/shown.png\nlink",
    ]
    section.get_by_role("button", name="Next").click()
    assert section.locator(".listing").count() == 2
    page.locator("#outliers .thumb").click()
    assert page.locator("#detail-view h2").inner_text() == "scans/digit-003.png"


def test_hostile_names_stay_text(visit, reports):
    page = visit("evil")
    data = reports("evil")[0]
    assert page.title().startswith("</script><script>")
    page.fill("#query", "onerror")
    page.press("#query", "Enter")
    assert page.locator("#detail-view h2").text_content().startswith(EVIL[1])
    page.keyboard.press("Escape")
    page.locator("#cluster-0 .open").click()
    page.fill("#cluster-name", EVIL[1])
    page.click("#rename button")
    assert page.locator("#cluster-view h2").inner_text() == EVIL[1]
    page.locator("#cluster-view .select").click()
    assert page.locator("#selected-ids").input_value().count("\n") == int((data.clustering.labels == 0).sum()) - 1
    assert page.locator("img").count() == 0
    assert page.evaluate("window.broken") is None
