"""Curves against a straight reading of their numbers."""

from __future__ import annotations

import pytest
from tests.report.examples import ROWS

from shoal.report.curves import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, panels


def test_a_panel_for_the_loss_each_term_and_each_score_with_a_course():
    titles = {panel.title: [line.name for line in panel.lines] for panel in panels(ROWS)}
    assert titles == {
        "Loss": ["loss"],
        "Loss: psa": ["psa"],
        "Loss: psl": ["psl"],
        "Agreement with the labels": ["acc", "nmi"],
        "Learning rate": ["lr"],
    }


def test_a_single_term_is_the_loss():
    rows = [{"epoch": e, "loss": 1.0 / (e + 1), "psa": 1.0 / (e + 1)} for e in range(3)]
    assert [panel.title for panel in panels(rows)] == ["Loss: psa"]


def test_points_lie_between_the_ticks_as_their_values_do():
    [panel] = panels([{"epoch": e, "lr": v} for e, v in enumerate((0.0, 0.3, 1.0))])
    points = [tuple(map(float, point.split(","))) for point in panel.lines[0].points.split()]
    bottom, top = HEIGHT - BOTTOM, TOP
    assert points == [
        (LEFT, bottom),
        (pytest.approx((LEFT + WIDTH - RIGHT) / 2), pytest.approx(bottom + 0.3 * (top - bottom), abs=0.1)),
        (WIDTH - RIGHT, top),
    ]
    at = {tick.text: tick.at for tick in panel.y_ticks}
    assert at["0"] == bottom
    assert at["1"] == top


@pytest.mark.parametrize(("low", "high"), [(0.0801, 0.0802), (-3.0, 12345.0), (1e-9, 3e-6), (2.0, 2.0), (-1.0, 0.0)])
def test_ticks_are_few_and_distinct_and_span_the_values(low, high):
    [panel] = panels([{"epoch": 0, "lr": low}, {"epoch": 900, "lr": high}])
    texts = [tick.text for tick in panel.y_ticks]
    assert len(texts) == len(set(texts))
    assert len(texts) <= 7
    assert min(map(float, texts)) <= low
    assert max(map(float, texts)) >= high
    assert [tick.text for tick in panel.x_ticks] == ["0", "500"]


def test_the_later_row_of_an_epoch_counts_and_values_that_are_none_do_not():
    rows = [
        {"epoch": 0, "lr": 9.0},
        {"epoch": 0, "lr": 1.0},
        {"epoch": 1, "lr": None},
        {"epoch": 2, "lr": float("nan")},
    ]
    [panel] = panels([*rows, {"epoch": 3, "lr": 0.123456}])
    assert panel.lines[0].values == [(0, 1), (3, 0.1235)]
