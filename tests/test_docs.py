"""The pages keep to the code: links, names, commands, flags, recipes, quoted lines and defaults."""

import ast
import dataclasses
import re
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest

import shoal.clustering
from shoal.cli.main import VERBS
from shoal.clustering import umap as manifold
from shoal.config import RunConfig, fields_of, recipe_names
from shoal.evaluation import Evaluation, baselines
from shoal.folder import ResultFolder
from shoal.methods import METHODS
from shoal.results.tables import SCHEMA

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
METHOD_PAGES = [page for page in PAGES if page.stem in METHODS]
every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
every_method_page = pytest.mark.parametrize("page", METHOD_PAGES, ids=lambda page: page.name)

ELSEWHERE = {"DistributedDataParallel", "DataLoader", "check_estimator", "TruncatedSVD", "tf_efficientnet_lite0"}
ELSEWHERE |= {"shoal.crop_mode", "shoal.ranges", "shoal.augmentations", "shoal.sources"}
ELSEWHERE |= {"Normalize", "ToTensor", "set_transform", "GridSearchCV"}
"""Names that pages quote and others define: libraries, the metadata of an ONNX graph, entry points."""

OF_PLUGINS = {"vicreg.py", "erase.py", "bars.py", "--method.alike", "vicreg-digits"}
"""Files, flags and recipes that docs/extending.md defines itself; tests/test_extending.py runs them."""


def command_of(verb):
    """The dataclass behind a command."""
    module, _, name = VERBS[verb].partition(".")
    return getattr(import_module(f"shoal.cli.{module}"), name)


def train_flags(method):
    """The dataclass field behind each flag of ``shoal train`` with this method."""
    fields = fields_of(command_of("train"), {"config": RunConfig, "method": METHODS[method].config_class})
    return {f"--{path.removeprefix('config.').replace('_', '-')}": field for path, field in fields}


@cache
def flags():
    """Every option of every command, and the parts of settings, such as --augment, that a page may name as a whole."""
    known = {"--help", "--version"}.union(*map(train_flags, METHODS))
    for verb in VERBS:
        if verb != "train":
            known |= {f"--{path.replace('_', '-')}" for path, _ in fields_of(command_of(verb), {})}
    return known | {flag.partition(".")[0] for flag in known}


@cache
def source_names():
    """Every name in the package: functions, classes, fields, attributes, words; and the golden files."""
    names = {path.stem for path in (ROOT / "tests" / "golden").glob("*.npz")}
    for path in (ROOT / "src").rglob("*.py"):
        names.add(path.stem)
        for node in ast.walk(ast.parse(path.read_text())):
            names |= {getattr(node, field, None) for field in ("name", "id", "attr", "arg")}
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.isidentifier():
                names.add(node.value)
    return names


def quoted(page):
    """What a page has between backticks, outside of its blocks of code."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"^(```|~~~).*?^\1", "", page.read_text(), flags=re.M | re.S))


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
def test_links_to_code_are_called_by_their_file(page):
    links = re.findall(r"\[`?([\w/.]+\.py)`?\]\(([^)]+)\)", page.read_text())
    assert [link for link in links if not f"/{link[1]}".endswith(f"/{link[0]}")] == []


@every_page
def test_commands_exist(page):
    text = page.read_text()
    code = re.findall(r"^```[a-z]*\n(.*?)^```", text, re.M | re.S)
    said = {
        verb
        for block in [*code, *quoted(page)]
        for verb in re.findall(r"(?:^|(?<!from)[\s;&$(])shoal ([a-z]+)\b", block)
    }
    assert said <= set(VERBS)


@every_page
def test_modules_and_files_exist(page):
    text = page.read_text()
    for path in re.findall(r"(?<![\w./])((?:src|tests|benchmarks|notebooks|docs)/[\w./-]*\w)", text):
        assert (ROOT / path).exists(), path
    modules = {each for each in quoted(page) if re.fullmatch(r"\w+(?:/\w+)*\.py", each)} - OF_PLUGINS
    places = (ROOT, ROOT / "src" / "shoal")
    assert [each for each in modules if not any((place / each).exists() for place in places)] == []
    dotted = set(re.findall(r"(?<![/\"\w])shoal(?:\.[A-Za-z_]\w*)+", text)) - ELSEWHERE
    assert [name for name in dotted if not resolves(name)] == []


def resolves(dotted):
    """Whether a dotted name leads to a module or to something in one."""
    parts = dotted.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            found = import_module(".".join(parts[:cut]))
        except ImportError:
            continue
        for part in parts[cut:]:
            if not hasattr(found, part):
                return part in getattr(found, "__dataclass_fields__", ())
            found = getattr(found, part)
        return True
    return False


@every_page
def test_names_exist(page):
    # Classes such as `KMeans`, names with an underscore such as `labels_`, and calls such as `fit(images)`.
    shape = re.compile(r"([A-Z][a-z]\w*[A-Z]\w*|[a-z]\w*_\w*|\w+(?=\())(?:\(.*\))?")
    named = {found[1] for each in quoted(page) if (found := shape.fullmatch(each))}
    assert named - source_names() - ELSEWHERE == set()


@every_page
def test_flags_exist(page):
    # The flags of scripts and of other programs are their own.
    others = "|".join((
        r"`(?:python (?:benchmarks/|-m tests)|pytest |mkdocs )[^`]*`",
        r"^(?:embedding-atlas|tensorboard|pytest|mkdocs|ruff|#SBATCH) .*$",
        r"torchrun [^`]*?-m shoal ",
        r"--(?:nproc-per-node|max-restarts)\b",
    ))  # fmt: skip
    text = re.sub(others, "", page.read_text(), flags=re.M)
    named = {flag.rstrip(".") for flag in re.findall(r"(?<![\w-])--[a-z][\w.-]*", text)}
    assert named - OF_PLUGINS <= flags()


@every_page
def test_recipes_exist(page):
    text = page.read_text()
    named = re.findall(rf"\b(?:{'|'.join(METHODS)})-[a-z0-9]+\b", text)
    named += re.findall(r"shoal (?:train|recipes) ([a-z][\w-]*)(?![\w./-])", text)
    starts = tuple(f"{name}-" for name in recipe_names())  # of emp-cifar10-small the pattern finds emp-cifar10
    unknown = {name for name in named if not any(start.startswith(f"{name}-") for start in starts)}
    assert unknown - OF_PLUGINS == set()


@every_method_page
def test_quoted_lines_are_the_codes(page):
    code = {line.strip() for file in (ROOT / "src").rglob("*.py") for line in file.read_text().splitlines()}
    lines = "\n".join(re.findall(r"^```python\n(.*?)^```", page.read_text(), re.M | re.S)).splitlines()
    assert lines
    assert [line for line in lines if line.strip() not in code] == []


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


def test_every_file_of_a_result_is_explained():
    text = (ROOT / "docs" / "results-folder.md").read_text()
    files = {value.name for value in vars(ResultFolder(Path("x"))).values() if isinstance(value, Path)} - {"x"}
    assert {name for name in files if f"`{name}" not in text} == set()


def test_every_column_of_the_assignments_is_explained():
    text = (ROOT / "docs" / "results-folder.md").read_text()
    assert {name for name in SCHEMA.names if not re.search(rf"^\|.*`{name}`.*\|", text, re.M)} == set()


def test_every_public_name_is_in_the_reference():
    text = "\n".join(page.read_text() for page in (ROOT / "docs" / "api").glob("*.md"))
    public = {*shoal.__all__, *shoal.clustering.__all__} - {"ClusteringMethod", "UserError"}  # a Literal, an exception
    assert {name for name in public if not re.search(rf"\b{name}\b", text)} == set()


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text().split()) <= 650
