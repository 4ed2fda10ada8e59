"""The memory of a process."""

import os
import subprocess
import sys

import pytest

from shoal.cli.main import HUGE_PAGES, main

HELD = """\
import sys
from shoal.device import process_memory, return_large_blocks
if sys.argv[1] == "returned":
    return_large_blocks()
big = bytes(30 * 2**20)  # the largest that glibc keeps once it was freed
del big
before = process_memory()
kept = []
for _ in range(40):
    block, small = b"x" * (3 * 2**20), b"y" * 60_000
    kept.append(small)
    del block
blocks = [(b"x" * (3 * 2**20), b"y" * 60_000) for _ in range(40)]
smalls = [small for _, small in blocks]
del blocks
print((process_memory() - before) / 2**20)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="it is glibc's")
def test_large_blocks_go_back_to_the_system():
    def held(how):
        words = [sys.executable, "-c", HELD, how]
        return float(subprocess.run(words, capture_output=True, text=True, check=True).stdout)

    assert held("returned") < 20
    assert held("kept") > 80


def test_torch_is_asked_for_large_pages_unless_the_user_says_otherwise(monkeypatch, capsys):
    monkeypatch.delenv(HUGE_PAGES, raising=False)
    assert main(["--version"]) == 0
    assert os.environ[HUGE_PAGES] == "1"
    monkeypatch.setenv(HUGE_PAGES, "0")
    assert main(["--version"]) == 0
    assert os.environ[HUGE_PAGES] == "0"
    capsys.readouterr()
