import re
from pathlib import Path

import pytest

from tests.golden.parity import CHECKS, LOSS_BOUND, PAGE, STATE_BOUND


@pytest.mark.parametrize("name", CHECKS)
def test_what_the_published_code_computes_is_what_we_compute(name):
    found = CHECKS[name]()
    assert found.loss is not None or found.state is not None
    assert found.loss is None or found.loss <= LOSS_BOUND
    assert found.state is None or found.state <= STATE_BOUND


def test_every_golden_file_is_compared():
    assert {path.stem for path in Path(__file__).parent.glob("*.npz")} == set(CHECKS)


def test_the_page_has_a_row_for_each_within_the_bounds():
    rows = re.findall(r"^\| `([\w.]+)` \| (\S*) ?\| (\S*) ?\|", PAGE.read_text(), re.M)
    assert [name for name, *_ in rows] == list(CHECKS)
    for _, loss, state in rows:
        assert float(loss or 0) <= LOSS_BOUND
        assert float(state or 0) <= STATE_BOUND
