"""The public names, and what importing costs."""

import ast
import subprocess
import sys
import time
from pathlib import Path

import pytest

import shoal

SOURCE = Path(shoal.__file__).parent
LAYERS = [
    {"errors", "files", "lazily", "types", "distributed", "hardware"},
    {"losses", "lars", "models", "clustering", "data"},
    {"methods"},
    {"config"},
    {"training", "evaluation", "report"},
    {"assignments", "embedding"},
    {"outputs"},
    {"workflow", "dryrun", "frozen"},
    {"estimators", "cli", "cli_outputs", "cli_train", "commandline", "terminal"},
]


def test_all_is_sorted_and_complete():
    assert sorted(set(shoal.__all__)) == sorted(shoal.__all__)  # ruff keeps them in its own order
    assert set(shoal.__all__) == set(dir(shoal))
    for name in shoal.__all__:
        assert getattr(shoal, name).__name__ == name
    with pytest.raises(AttributeError):
        _ = shoal.Propos


def imports(path: Path) -> set[str]:
    """First-level parts of shoal that a file imports, wherever in the file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "shoal":
            parts = node.module.split(".")
            found |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
    return found


def test_imports_point_one_way():
    level = {name: i for i, names in enumerate(LAYERS) for name in names}
    for path in SOURCE.rglob("*.py"):
        own = path.relative_to(SOURCE).parts[0].removesuffix(".py")
        if own in ("__init__", "__main__"):
            continue
        for other in imports(path) - {own}:
            assert level[other] <= level[own], f"{path.relative_to(SOURCE)} imports shoal.{other}"


def test_labels_are_read_by_evaluation_and_report_alone():
    readers = set()
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Attribute)
                and node.attr == "labels"
                and isinstance(node.value, ast.Name)
                and node.value.id == "images"
            ):
                readers.add(path.relative_to(SOURCE).parts[0])
    assert readers <= {"evaluation", "report", "assignments.py", "data"}


@pytest.mark.parametrize("args", [["-c", "import shoal"], ["-m", "shoal", "--help"], ["-m", "shoal", "trian"]])
def test_light_things_do_not_import_torch(args):
    code = "import sys, runpy; sys.argv = ['shoal'] + {rest}; runpy.run_module('shoal', run_name='__main__')"
    script = args[1] if args[0] == "-c" else code.format(rest=args[2:])
    check = f"""
import atexit, sys
atexit.register(lambda: print("torch" in sys.modules, file=sys.stderr))
{script}
"""
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, timeout=60)
    assert done.stderr.strip().endswith("False"), done.stderr
    assert time.monotonic() - start < 5
