"""The page about k against the numbers it shows."""

import math
from itertools import pairwise

import pytest

from shoal.clustering.suggest.suggest import Candidate, Suggestion
from shoal.report.curves import BOTTOM, HEIGHT, TOP
from shoal.report.suggestion import axis, curve, write_suggestion


def suggestion(best=8, interval=(4, 8), clear=True):
    others = [Candidate(k, 0.1 * k - 2, 16 / k, 0.9, k / 20) for k in (2, 4, 16)]
    note = "" if clear else "There is no clear structure."
    return Suggestion((Candidate(best, 0.75, 2.0, 0.93, None), *others), interval, clear, 12345, "cosine", (note,))


def test_equal_factors_are_equally_wide():
    across = axis(suggestion())
    marks = curve(suggestion(), "Score", "", lambda c: c.score).marks
    assert [mark.text.partition(":")[0] for mark in marks] == ["k = 2", "k = 4", "k = 8", "k = 16"]
    steps = [b.x - a.x for a, b in pairwise(marks)]
    assert steps == pytest.approx([steps[0]] * 3, abs=0.11)
    assert across.best == marks[2].x
    assert (across.left, across.left + across.width) == pytest.approx((marks[1].x - 4, marks[2].x + 4), abs=0.11)
    assert [tick.text for tick in across.x_ticks] == ["2", "5", "10"]
    five = marks[0].x + steps[0] * math.log2(5 / 2)
    assert across.x_ticks[1].at == pytest.approx(five, abs=0.2)


def test_heights_are_the_figures():
    found = curve(suggestion(), "Depth", "", lambda c: c.depth)
    assert found.value == "2.00"
    zero, eight = (next(tick.at for tick in found.y_ticks if tick.text == text) for text in ("0", "8"))
    assert (zero, eight) == (HEIGHT - BOTTOM, TOP)
    assert [mark.y for mark in found.marks] == pytest.approx(
        [zero + v * (eight - zero) / 8 for v in (8, 4, 2, 1)], abs=0.1
    )
    assert [mark.best for mark in found.marks] == [False, False, True, False]


def test_only_what_was_measured_is_drawn():
    found = curve(suggestion(), "Stability", "", lambda c: c.stability)
    assert found.value == "–"
    assert [mark.text for mark in found.marks] == ["k = 2: 0.10", "k = 4: 0.20", "k = 16: 0.80"]


def test_the_page_says_it_all(tmp_path):
    write_suggestion(suggestion(clear=False), "a <b> & c", tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    for text in ("a &lt;b&gt; &amp; c", "4 to 8", "12\u202f345", "There is no clear structure.", "<dd>unclear</dd>"):
        assert text in page
    assert page.count('class="plausible"') == 2
    assert page.index('<th scope="row">8</th>') < page.index('<th scope="row">2</th>')
    assert "−1.8" in page


def test_a_single_candidate_is_drawn(tmp_path):
    alone = Suggestion((Candidate(3, 0.0, 0.5, 1.0, 1.0),), (3, 3), True, 50, "euclidean", ())
    write_suggestion(alone, "one", tmp_path / "page.html")
    assert axis(alone).x_ticks[0].text == "3"


def test_a_single_cluster_has_no_curves(tmp_path):
    alone = Suggestion((Candidate(1, 4.0, None, 0.0, None),), (1, 1), False, 12, "cosine", ("None.",))
    write_suggestion(alone, "one", tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "<svg" not in page.partition("<main>")[2]
    assert "no valleys separate groups" in page
