"""Kinds of files, container × mode × depth × tag, as libvips shows them; the table is benchmarks/decoders.py's."""

import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pyvips")
pytest.importorskip("tifffile")
sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
decoders = __import__("decoders")
sys.path.pop(0)

KNOWN = {"tiff pillow YCbCr None": "libvips shows the luma and chroma of an uncompressed YCbCr as red, green and blue"}


@pytest.fixture(scope="module")
def verdicts():
    return {kind.name: decoders.compare(kind) for kind in decoders.kinds()}


def test_the_table_has_kinds_that_are_seldom_right(verdicts):
    assert len(verdicts) >= 300
    for words in ("miniswhite", "separate", "int8", "assocalpha", "colour map uint16", "tRNS", "orientation 6", "cmyk"):
        assert any(words in name for name in verdicts)


def test_what_both_read_agrees(verdicts):
    both = {name: found for name, found in verdicts.items() if found[0].startswith(("agrees", "differs"))}
    differing = {name: found for name, found in both.items() if found[0] != "agrees"}
    assert len(both) >= 290
    assert len(differing) <= 0.01 * len(both)
    assert set(differing) <= set(KNOWN), differing


def test_nothing_that_libvips_reads_is_refused(verdicts):
    assert not [name for name, (verdict, _) in verdicts.items() if verdict.startswith("refused")]


def test_the_comparison_tells_a_turned_picture():
    turned = next(kind for kind in decoders.kinds() if kind.name == "jpeg RGB orientation 3")
    upright = next(kind for kind in decoders.kinds() if kind.name == "jpeg RGB orientation 1")
    shown = decoders.by_libvips(turned)
    assert np.abs(shown - decoders.by_libvips(upright)).mean() > 10 * decoders.AGREES
