"""The public names, and what importing costs."""

import ast
import subprocess
import sys
import time
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import shoal

SOURCE = Path(shoal.__file__).parent
LAYERS = [
    {
        "types",
        "errors",
        "files",
        "folder",
        "tensors",
        "device",
        "distributed",
        "heartbeat",
        "job",
        "cores",
        "launched",
        "progress",
        "noise",
        "mapped",
        "plugins",
        "rendezvous",
    },
    {"losses", "models", "data", "clustering", "decisions"},
    {"learning"},
    {"methods"},
    {"config"},
    {"testing"},
    {"evaluation"},
    {"report"},
    {"training"},
    {"features"},
    {"results"},
    {"sort", "export", "review", "sweeps", "estimators"},
    {"cli"},
]
"""What a module may import: its own layer, and those above it in this list."""

MAY_READ_TARGETS = ("types.py", "data/", "evaluation/", "report/", "features/store.py", "review/facts.py")
"""Who makes, keeps, reads or shows true classes."""

TAKES_TARGETS = {"write_assignments", "concatenate", "clustering_scores", "as_images", "Truth"}
"""Whom a result may hand true classes to: the label column, the kept features, evaluation and report."""


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


def modules() -> dict[str, Path]:
    """All modules by their dotted name within the package."""
    paths = (path for path in SOURCE.rglob("*.py"))
    return {".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__"): path for path in paths}


def test_no_module_imports_itself_in_a_circle():
    known = modules()
    graph: dict[str, set[str]] = {}
    for name, path in known.items():
        graph[name] = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "shoal":
                package = ".".join(node.module.split(".")[1:])
                for alias in node.names:
                    inner = f"{package}.{alias.name}".lstrip(".")
                    graph[name].add(inner if inner in known else package)
    list(TopologicalSorter(graph).static_order())  # a CycleError names the circle


def test_true_classes_are_read_by_evaluation_and_report_alone():
    for path in SOURCE.rglob("*.py"):
        name = path.relative_to(SOURCE).as_posix()
        if name.startswith(MAY_READ_TARGETS):
            continue
        tree = ast.parse(path.read_text())
        parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and node.attr == "targets":
                assert name.startswith("results/"), f"{name}:{node.lineno} reads true classes"
                assert handed_on(node, parents), f"{name}:{node.lineno} does something with true classes"


def handed_on(node: ast.AST, parents: dict[ast.AST, ast.AST]) -> bool:
    """Whether true classes are only passed to those that may have them, or named."""
    while node in parents:
        node = parents[node]
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in TAKES_TARGETS:
                return True
            if name not in ("tolist", "cpu", "numpy"):
                return False
        elif isinstance(node, ast.FunctionDef):
            return node.name == "targets"  # a property that passes them through
        elif isinstance(node, ast.Assign):
            return isinstance(node.targets[0], ast.Tuple | ast.Name)
    return False


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


@pytest.mark.slow
def test_beartype_takes_every_signature():
    """So that SHOAL_CHECK_SHAPES=all pytest, which CONTRIBUTING names, can import everything."""
    script = """
import importlib, pkgutil
from jaxtyping import install_import_hook
install_import_hook("shoal", "beartype.beartype")
import shoal
for module in pkgutil.walk_packages(shoal.__path__, "shoal."):
    if module.name != "shoal.__main__":
        importlib.import_module(module.name)
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
