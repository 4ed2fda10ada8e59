"""The page of speeds: a table takes the place of the last one of its name, and no other."""

import pytest


@pytest.fixture
def script():
    import run_all

    return run_all


def test_a_table_takes_the_place_of_its_last(script):
    page = script.put(script.put("# Results\n\nProse.\n", "step", "one\n"), "start", "two\n")
    assert page.startswith("# Results\n\nProse.\n\n<!-- step -->\none\n")
    assert script.put(page, "step", "three\n") == page.replace("one", "three")


def test_every_script_is_there(script):
    for name, *_ in script.TABLES.values():
        assert (script.HERE / name).exists(), name


@pytest.mark.slow
def test_a_script_that_fails_says_why(script, monkeypatch):
    monkeypatch.setitem(script.TABLES, "step", ["step.py", "--batch", "many"])
    table = script.measured("step")
    assert "failed:" in table
    assert "invalid int value: 'many'" in table
