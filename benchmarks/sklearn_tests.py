"""scikit-learn's own tests of k-means and Gaussian mixtures, with shoal's estimators in place of its own.

    python benchmarks/sklearn_tests.py
    python benchmarks/sklearn_tests.py k_means -k verbose -x

The files come from the installed wheel. Each is read, its imports of the estimators are replaced, and pytest runs it;
options go to pytest. What fails is listed by kind; the exit code is 1 if anything fails that is not expected to.
"""

from __future__ import annotations

import importlib.util
import re
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest

FILES = {
    "sklearn.cluster.tests.test_k_means": ("KMeans", "MiniBatchKMeans"),
    "sklearn.mixture.tests.test_gaussian_mixture": ("GaussianMixture",),
}

EXPECTED = {
    "sparse input, which shoal refuses by name": r"dense data is required|Sparse data was passed",
    "private attributes and functions": r"has no attribute '_\w+'|mock\.call_count",
    "a message that has the largest and the smallest weight the wrong way round": r"the range \[0, 1\], but goes from",
}
"""Kinds of failure that are meant, and what their error says."""


@dataclass
class Outcomes:
    """A pytest plugin that keeps the outcome of each test."""

    passed: int = 0
    skipped: int = 0
    failed: dict[str, str] = field(default_factory=dict)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Called by pytest after each phase of a test."""
        if report.failed:
            self.failed[report.nodeid.split("::")[-1]] = report.longreprtext
        elif report.skipped:
            self.skipped += 1
        elif report.when == "call":
            self.passed += 1


def with_ours(module: str, names: tuple[str, ...], folder: Path) -> Path:
    """A copy of a module of tests that uses shoal's estimators."""
    found = importlib.util.find_spec(module)
    assert found is not None
    assert found.origin is not None
    text = Path(found.origin).read_text()
    last = max(match.end() for match in re.finditer(r"^(?:from|import) [^\n(]*(?:\([^)]*\))?\n", text, re.MULTILINE))
    ours = f"from shoal.clustering import {', '.join(names)}\n"
    copy = folder / f"{module.rsplit('.', 1)[-1]}.py"
    copy.write_text(text[:last] + ours + text[last:])
    return copy


def kind_of(message: str) -> str:
    """The kind of a failure: one that is expected, or the first line of its error."""
    for kind, pattern in EXPECTED.items():
        if re.search(pattern, message):
            return kind
    errors = [line for line in message.splitlines() if line.startswith("E ")]
    return errors[-1][2:].strip()[:150] if errors else message[-150:]


def run(module: str, names: tuple[str, ...], options: list[str]) -> int:
    """Run one file; returns how many tests fail that are not expected to."""
    outcomes = Outcomes()
    with tempfile.TemporaryDirectory() as scratch:
        copy = with_ours(module, names, Path(scratch))
        plugins = ["-p", "sklearn.conftest", "-p", "no:cacheprovider"]
        how = [f"--rootdir={scratch}", "--quiet", "--tb=short", "--no-header", *plugins, *options]
        pytest.main([str(copy), *how], [outcomes])
    kinds = Counter(kind_of(message) for message in outcomes.failed.values())
    print(f"\n{module}: {outcomes.passed} passed, {len(outcomes.failed)} failed, {outcomes.skipped} skipped")
    for kind, n in kinds.most_common():
        print(f"{n:5}  {kind}")
        if kind not in EXPECTED:
            names_of = [name for name, message in outcomes.failed.items() if kind_of(message) == kind]
            print("".join(f"         {name}\n" for name in names_of), end="")
    return sum(n for kind, n in kinds.items() if kind not in EXPECTED) + (not outcomes.passed)


def main() -> int:
    """Run the files, or those whose names hold the first word."""
    options = sys.argv[1:]
    wanted = options.pop(0) if options and not options[0].startswith("-") else ""
    return int(sum(run(module, names, options) for module, names in FILES.items() if wanted in module) > 0)


if __name__ == "__main__":
    sys.exit(main())
