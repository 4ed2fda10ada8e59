"""Plugin files for tests, and what they were given to, as it was before."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from shoal import plugins

ROOT = Path(__file__).parents[1]


@pytest.fixture
def unplugged(monkeypatch):
    """Forget the plugins of a test after it."""
    for registry in plugins._REGISTRIES:
        monkeypatch.setattr(registry, "_known", dict(registry._known))
        monkeypatch.setattr(registry, "_packages", dict(registry._packages))
    monkeypatch.setattr(plugins, "_FILES", {})
    monkeypatch.setattr(plugins, "_EXECUTED", set())


def files_of_page() -> dict[str, str]:
    """The Python files of docs/extending.md as they stand there, by name."""
    text = (ROOT / "docs" / "extending.md").read_text()
    blocks = re.findall(r"^```python\n(# (\w+\.py)\n.*?)^```", text, re.M | re.S)
    return {name: block for block, name in blocks}


def commands_of_page() -> list[str]:
    """The commands of docs/extending.md in their order."""
    text = (ROOT / "docs" / "extending.md").read_text()
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", text, re.M | re.S)
    return [line for language, block in blocks if not language for line in block.splitlines()]


VICREG = files_of_page()["vicreg.py"]


def changed(old: str, new: str, text: str = VICREG) -> str:
    """A plugin with one passage changed."""
    assert text.count(old) == 1, old
    return text.replace(old, new)
