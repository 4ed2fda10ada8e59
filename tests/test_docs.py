"""The pages keep to the code: links, flags, recipes, quoted lines and defaults."""

import dataclasses
import inspect
import re
from pathlib import Path

import pytest

from shoal.cli.flags import ClusterCommand, TrainCommand
from shoal.cli.main import VERBS
from shoal.clustering import umap as manifold
from shoal.config import RunConfig, fields_of, recipe_names
from shoal.evaluation import Evaluation, baselines
from shoal.methods import METHODS

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
METHOD_PAGES = [page for page in PAGES if page.stem in METHODS]
every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
every_method_page = pytest.mark.parametrize("page", METHOD_PAGES, ids=lambda page: page.name)


def train_flags(method):
    """The dataclass field behind each flag of ``shoal train`` with this method."""
    fields = fields_of(TrainCommand, {"config": RunConfig, "method": METHODS[method]})
    return {f"--{path.removeprefix('config.').replace('_', '-')}": field for path, field in fields}


def flags():
    """Every option of every verb, and the parts of settings, such as --augment, that a page may name as a whole."""
    known = {"--help", "--version"}.union(*map(train_flags, METHODS))
    known |= {f"--{path.replace('_', '-')}" for path, _ in fields_of(ClusterCommand, {})}
    for verb in set(VERBS.values()) - {VERBS["train"], VERBS["cluster"]}:
        arguments = inspect.signature(verb).parameters.values()
        known |= {f"--{a.name.replace('_', '-')}" for a in arguments if a.kind is not a.POSITIONAL_ONLY}
    return known | {flag.partition(".")[0] for flag in known}


def slug(heading):
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@every_page
def test_relative_links_lead_somewhere(page):
    for link in re.findall(r"\]\((?!https?:|mailto:)([^)\s]+)\)", page.read_text()):
        path, _, anchor = link.partition("#")
        target = (page.parent / path) if path else page
        assert target.exists(), link
        if anchor:
            assert anchor in map(slug, re.findall(r"^#+ (.+)$", target.read_text(), re.M)), link


@every_page
def test_flags_exist(page):
    # The flags of scripts and of other programs are their own.
    others = r"`python benchmarks/[^`]*`|^(?:embedding-atlas|tensorboard|#SBATCH) .*$|torchrun [^`]*?-m shoal "
    text = re.sub(others, "", page.read_text(), flags=re.M)
    named = {flag.rstrip(".") for flag in re.findall(r"(?<![\w-])--[a-z][\w.-]*", text)}
    assert named <= flags()


@every_page
def test_recipes_exist(page):
    text = page.read_text()
    named = re.findall(rf"\b(?:{'|'.join(METHODS)})-[a-z0-9]+\b", text)
    named += re.findall(r"shoal (?:train|recipes) ([a-z][\w-]*)(?![\w./-])", text)
    assert set(named) <= set(recipe_names())


@every_method_page
def test_quoted_lines_are_the_codes(page):
    code = {line.strip() for file in (ROOT / "src").rglob("*.py") for line in file.read_text().splitlines()}
    quoted = "\n".join(re.findall(r"^```python\n(.*?)^```", page.read_text(), re.M | re.S)).splitlines()
    assert quoted
    assert [line for line in quoted if line.strip() not in code] == []


@every_method_page
def test_defaults_are_the_codes(page):
    rows = re.findall(r"^\| `(--[\w.-]+)` \| (\S+) \|", page.read_text(), re.M)
    assert rows
    fields = train_flags(page.stem)
    assert [(flag, str(fields[flag].default)) for flag, _ in rows] == rows


def test_every_figure_of_an_evaluation_is_explained():
    text = (ROOT / "docs" / "evaluation.md").read_text()
    named = {name for row in re.findall(r"^\| (`.+?`) \|", text, re.M) for name in re.findall(r"`(\w+)`", row)}
    assert {field.name for field in dataclasses.fields(Evaluation)} <= named


def test_limits_of_the_baselines_are_the_codes():
    text = (ROOT / "docs" / "evaluation.md").read_text()
    assert f"{baselines.MAX_ROWS:,}".replace(",", " ") in text
    assert f"{baselines.MAX_SIDE} × {baselines.MAX_SIDE} px" in text
    assert f"{manifold.N_NEIGHBORS} neighbours, {manifold.N_COMPONENTS} dimensions" in text


def test_every_setting_of_a_method_is_explained():
    for method in METHODS:
        text = (ROOT / "docs" / f"{method}.md").read_text()
        assert [flag for flag in train_flags(method) if flag.startswith("--method.") and f"`{flag}`" not in text] == []
