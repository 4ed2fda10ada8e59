"""Methods of one's own: what makes them known, what a run says of them, and what is said of those that are broken."""

from __future__ import annotations

import dataclasses
import pickle
import re
from importlib.metadata import EntryPoint

import numpy as np
import pytest
import yaml

import shoal
from shoal import plugins
from shoal.cli.main import main
from shoal.config import RunConfig, load_recipe, parse_config, recipe_names, recipe_text, to_dict
from shoal.data import AUGMENTATIONS, ViewConfig
from shoal.errors import UserError
from shoal.methods import METHODS, BYOLConfig, Method
from shoal.plugins import load_plugin
from shoal.testing import check_augmentation, check_method
from shoal.training.trained import Trained
from tests.plugging import VICREG, changed, files_of_page, unplugged  # noqa: F401 - a fixture
from tests.runs import new_run, reopened, tiny_config

pytestmark = pytest.mark.usefixtures("unplugged")


@pytest.fixture
def vicreg(tmp_path):
    """The plugin of the page as a file."""
    path = tmp_path / "vicreg.py"
    path.write_text(VICREG)
    return path


def complaint(args, capsys):
    """The one sentence of a command that fails."""
    assert main(list(map(str, args))) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    return lines[0]


def at(sentence, text):
    """A sentence with the numbers of the lines that it names by what stands in them, as in §x = 1§."""
    return re.sub("§(.*?)§", lambda code: str(text[: text.index(code[1])].count("\n") + 1), sentence)


def test_shipped_methods_are_known_by_the_same_registry():
    assert set(METHODS.ours()) == {"byol", "cc", "emp", "moco", "pcl", "propos", "simclr", "simsiam"}
    assert METHODS["byol"].config_class is BYOLConfig
    assert METHODS.origin("byol") == ""
    assert "plugins" not in to_dict(RunConfig())


def test_a_file_makes_its_method_known_once(vicreg):
    (found,) = load_plugin(vicreg)
    assert issubclass(found, Method)
    assert METHODS["vicreg"] is found
    assert METHODS.origin("vicreg") == str(vicreg)
    assert load_plugin(vicreg) == (found,)
    vicreg.write_text(changed("alike: Annotated[float, Ge(0)] = 25.0", "alike: Annotated[float, Ge(0)] = 5.0"))
    (again,) = load_plugin(vicreg)  # the file has changed: it is executed again, and takes the place of the old one
    assert again is not found
    assert METHODS["vicreg"].config_class().alike == 5.0
    assert not list(vicreg.parent.glob("__pycache__"))


def test_recipes_are_simclrs_and_those_beside_the_plugin(vicreg):
    (vicreg.parent / "vicreg-leaves.yaml").write_text("# Leaves\nmethod: {name: vicreg, dim: 8}\nepochs: 3\n")
    load_plugin(vicreg)
    assert {"vicreg-digits", "vicreg-folder", "vicreg-leaves"} <= set(recipe_names())
    simclr, ours = load_recipe("simclr-digits"), load_recipe("vicreg-digits")
    assert ours.method == METHODS["vicreg"].config_class()
    assert dataclasses.replace(ours, method=simclr.method) == simclr
    assert load_recipe("vicreg-leaves").epochs == 3
    assert recipe_text("vicreg-digits").startswith("# vicreg")
    with pytest.raises(UserError, match="did you mean 'vicreg-digits'"):
        recipe_text("vicreg-digit")


def test_a_run_names_its_plugin_but_executes_nothing(vicreg, monkeypatch):
    load_plugin(vicreg)
    config = dataclasses.replace(tiny_config(), method=METHODS["vicreg"].config_class(dim=8))
    raw = to_dict(config)
    assert raw["plugins"] == {"vicreg": str(vicreg)}
    assert parse_config(raw, "it") == config
    for registry in plugins._REGISTRIES:
        monkeypatch.setattr(registry, "_known", {k: v for k, v in registry._known.items() if not registry.origin(k)})
    vicreg.write_text("raise SystemExit('executed')")
    with pytest.raises(UserError) as error:
        parse_config(raw, "it")
    assert str(error.value) == (
        f"it: the method 'vicreg' is one of a plugin: give it, if you trust it, with --plugin {vicreg} "
        "(shoal.load_plugin in Python)."
    )
    with pytest.raises(UserError, match=r"install my-package 1\.0, which has it"):
        parse_config(raw | {"plugins": {"vicreg": "my-package 1.0"}}, "it")
    with pytest.raises(UserError, match="there is no method named 'vicreg'"):
        parse_config(raw | {"plugins": ["vicreg"]}, "it")


def test_a_run_resumes_also_where_its_plugin_has_moved_and_says_that_it_changed(vicreg, tmp_path, monkeypatch, caplog):
    load_plugin(vicreg)
    config = dataclasses.replace(tiny_config(), method=METHODS["vicreg"].config_class(dim=8))
    new_run(tmp_path / "run", config).save()
    other = tmp_path / "elsewhere.py"
    other.write_text(VICREG)
    monkeypatch.setattr(METHODS, "_known", {k: v for k, v in METHODS._known.items() if not METHODS.origin(k)})
    load_plugin(other)
    reopened(tmp_path / "run")
    assert not caplog.records
    other.write_text(VICREG + "\n")
    load_plugin(other)
    reopened(tmp_path / "run")
    assert "elsewhere.py has changed since" in caplog.text


def test_a_network_that_the_plugin_no_longer_fits_is_told(vicreg, tmp_path, caplog):
    load_plugin(vicreg)
    run = new_run(tmp_path / "run", dataclasses.replace(tiny_config(), method=METHODS["vicreg"].config_class(dim=8)))
    from shoal.progress import Progress
    from shoal.training import fit

    fit(run, Progress())
    Trained.of(run).save(run.folder.model)
    assert Trained.load(run.folder.path).config == run.config
    assert not caplog.records
    vicreg.write_text(VICREG + "\n")
    load_plugin(vicreg)
    Trained.load(run.folder.path)
    assert "vicreg.py has changed since" in caplog.text
    vicreg.write_text(changed("mlp(backbone.n_features, config.dim, config.dim)", "mlp(backbone.n_features, 3, 3)"))
    load_plugin(vicreg)
    with pytest.raises(UserError, match=r"does not fit the method 'vicreg' as .*vicreg\.py has it now"):
        Trained.load(run.folder.path)


def test_the_estimator_of_a_method_and_of_a_name(vicreg):
    load_plugin(vicreg)
    kind = shoal.estimator_of("vicreg")
    assert kind.__name__ == "VICReg"
    assert issubclass(kind, shoal.SimCLR.__mro__[1])
    assert shoal.estimator_of("propos") is shoal.ProPos
    with pytest.raises(UserError, match="there is no method named 'nothing'"):
        shoal.estimator_of("nothing")
    again = pickle.loads(pickle.dumps(kind(n_clusters=7)))  # as scikit-learn sends it to other processes
    assert type(again).__name__ == "VICReg"
    assert again.get_params() == kind(n_clusters=7).get_params()


def test_an_estimator_tells_a_plugin_that_breaks_its_contract(vicreg):
    vicreg.write_text(changed('"alike": self.config.alike * F.mse_loss(z1, z2)', '"alike": (z1 - z2).square()'))
    load_plugin(vicreg)
    with pytest.raises(UserError, match=r"'alike' must be a scalar, but has the shape \(24, 256\)"):
        shoal.estimator_of("vicreg")(n_clusters=2).fit(np.zeros((8, 8, 8, 3), np.uint8))


class Installed:
    """A distribution that is installed."""

    def __init__(self, name):
        self.name, self.version = name, "1.0"


def announce(monkeypatch, *points):
    """Let packages be installed that announce methods by entry points: (name, value, package)."""
    found = {}
    for name, value, package in points:
        found.setdefault(name, []).append(EntryPoint(name, value, "shoal.methods")._for(Installed(package)))
    monkeypatch.setattr(plugins, "_announced", lambda group: found if group == "shoal.methods" else {})


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A module that can be imported, and holds the page's method."""
    (tmp_path / "installed_vicreg.py").write_text(VICREG)
    (tmp_path / "installed_broken.py").write_text("import nothing_of_that_name")
    monkeypatch.syspath_prepend(str(tmp_path))
    return "installed_vicreg:VICReg"


def test_an_installed_method_is_known_by_name(package, monkeypatch):
    announce(monkeypatch, ("vicreg", package, "my-package"))
    assert "vicreg" in list(METHODS)
    assert "vicreg-digits" in recipe_names()
    config = load_recipe("vicreg-digits")
    assert config.method.name == "vicreg"
    assert to_dict(config)["plugins"] == {"vicreg": "my-package 1.0"}


@pytest.mark.parametrize(
    ("points", "sentence"),
    [
        ([("own", "installed_broken:X", "p")], "'own' of the package p 1.0 cannot be imported: ModuleNotFoundError"),
        ([("own", "installed_vicreg:Nothing", "p")], "'own' of the package p 1.0 cannot be imported: AttributeError"),
        (
            [("own", "installed_vicreg:VICRegConfig", "p")],
            "cannot be the method 'own': it must derive from shoal.methods.Method",
        ),
        ([("own", "installed_vicreg:VICReg", "p")], "announces the method 'vicreg' as 'own': rename either"),
        ([("own", "a:b", "p"), ("own", "c:d", "q")], "the packages p 1.0 and q 1.0 both have a method 'own'"),
    ],
)
@pytest.mark.usefixtures("package")
def test_an_installed_method_that_is_broken_is_told(points, sentence, monkeypatch):
    announce(monkeypatch, *points)
    with pytest.raises(UserError, match=re.escape(sentence)):
        parse_config({"method": {"name": "own"}}, "it")
    assert load_recipe("byol-digits").method.name == "byol"  # the others are not affected


def test_an_installed_method_with_a_shipped_name_is_left_out_with_a_warning(package, monkeypatch, caplog):
    plugins._warn_of_hidden.cache_clear()
    announce(monkeypatch, ("byol", package, "my-package"))
    assert "simclr-digits" in recipe_names()
    assert "the method 'byol' of the package my-package 1.0 cannot be used" in caplog.text


def test_a_file_with_the_name_of_an_installed_method_is_refused(vicreg, package, monkeypatch):
    announce(monkeypatch, ("vicreg", package, "my-package"))
    with pytest.raises(UserError, match=r"the installed package my-package 1\.0 has a method 'vicreg' as well"):
        load_plugin(vicreg)


def test_a_file_beside_a_plugin_is_no_module_of_it(tmp_path):
    (tmp_path / "beside.py").touch()
    (tmp_path / "mine.py").write_text("import beside\n")
    with pytest.raises(UserError, match=r"A plugin is one file: put what it needs of beside\.py into it"):
        load_plugin(tmp_path / "mine.py")


FILES = {
    "no such file": (None, r"there is no plugin \S+vicreg\.py: check the path"),
    "not Python": ("def x(:\n", r"vicreg\.py fails in line 1: SyntaxError: "),
    "syntax, further down": (VICREG + "\n\n1 = 2\n", r"fails in line §1 = 2§: SyntaxError: cannot assign to literal"),
    "zero bytes": ("x = 1\0", r"vicreg\.py (is not Python|fails in line \d+): \w+Error: .*null bytes"),
    "not text": (b"\xff\xfe\x00\x01", r"vicreg\.py (is not Python|fails in line \d+): "),
    "a broken import": (
        "import shoal\nimport nothing_of_that_name\n",
        r"fails in line 2: ModuleNotFoundError: No module",
    ),
    "a name that shoal lacks": ("from shoal.methods import Mehtod\n", r"fails in line 1: ImportError: cannot import"),
    "it raises": ("x = 1\nraise ValueError('odd\\nmore')\n", r"fails in line 2: ValueError: odd\.$"),
    "it exits": ("import sys\nsys.exit(3)\n", r"fails in line 2: SystemExit: 3"),
    "no method": ("x = 1\n", r"holds nothing for shoal: it should define a"),
    "empty": ("", r"holds nothing for shoal"),
    "only imported": ("from shoal.methods import BYOL\n", r"holds nothing for shoal"),
    "a shipped name": (
        changed('= "vicreg"', '= "byol"'),
        r"line §class VICReg(Method)§: there is a method 'byol' already, which ships with",
    ),
    "two of one name": (
        VICREG + "\n\nclass Other(VICReg):\n    pass\n",
        r"there is a method 'vicreg' already, of \S+vicreg\.py: give yours another name",
    ),
    "no name": (changed('    name: ClassVar[str] = "vicreg"\n', ""), r"VICReg is called None: the name of a method is"),
    "an odd name": (changed('"vicreg"', '"VIC reg"'), r"is called 'VIC reg': the name of a method is made of small"),
    "no config": (changed("    config_class = VICRegConfig\n", ""), r"the method VICReg lacks config_class"),
    "not frozen": (
        changed("@dataclass(frozen=True)", "@dataclass"),
        r"fails in line \d+: TypeError: cannot inherit non-f",
    ),
    "no dataclass": (changed("@dataclass(frozen=True)\n", ""), r"write @dataclass\(frozen=True\) above VICRegConfig"),
    "no default": (changed(" = 256", ""), r"the setting dim of VICRegConfig needs a default"),
    "name is a setting": (changed("name: ClassVar[str]", "name: str"), r"the name of a method is not a setting"),
    "no encoder": (
        changed("    @property\n    def encoder(self)", "    @property\n    def coder(self)"),
        r"the method VICReg lacks encoder, which every method defines",
    ),
}


@pytest.mark.parametrize("case", FILES)
def test_a_file_that_is_no_plugin_is_told_in_a_sentence(case, tmp_path):
    text, sentence = FILES[case]
    path = tmp_path / "vicreg.py"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    before = dict(METHODS._known)
    with pytest.raises(UserError, match=at(sentence, text)) as error:
        load_plugin(path)
    assert "\n" not in str(error.value)
    assert METHODS._known == before  # nothing of it stays


def test_two_files_with_one_name_are_told(vicreg, tmp_path, capsys):
    other = tmp_path / "other.py"
    other.write_text(VICREG)
    told = complaint(["recipes", "--plugin", vicreg, f"--plugin={other}"], capsys)
    line = at("§class VICReg(Method)§", VICREG)
    assert told == (
        f"shoal: {other}, line {line}: there is a method 'vicreg' already, of {vicreg}: give yours another name."
    )


def test_other_things_than_files_are_told(tmp_path, capsys):
    (tmp_path / "folder.py").mkdir()
    (tmp_path / "recipe.yaml").write_text("")
    assert "is not a file: give a Python file" in complaint(["recipes", "--plugin", tmp_path / "folder.py"], capsys)
    assert "is not a plugin: give a .py file" in complaint(["recipes", "--plugin", tmp_path / "recipe.yaml"], capsys)
    assert "--plugin needs a Python file" in complaint(["recipes", "--plugin"], capsys)
    assert "--plugin needs a Python file" in complaint(["recipes", "--plugin="], capsys)
    assert "there is no plugin nothing.py" in complaint(["predict", "x", "y", "--plugin=nothing.py"], capsys)


FORWARD = '"alike": self.config.alike * F.mse_loss(z1, z2),'
CLAUSES = {
    "a vector": (
        FORWARD,
        '"alike": (z1 - z2).square().mean(0),',
        r"'alike' must be a scalar, but has the shape \(256,\)",
    ),
    "a number": (FORWARD, '"alike": 1.0,', "the loss term 'alike' must be a tensor, not a float"),
    "no text": (FORWARD, "3: F.mse_loss(z1, z2),", "a loss term is called 3, which is not text"),
    "a column": (FORWARD, '"loss": F.mse_loss(z1, z2),', "no loss term may be called 'loss', which is a column"),
    "not finite": (FORWARD, '"alike": F.mse_loss(z1, z2) / 0,', "the loss term 'alike' is not finite: inf"),
    "double": (FORWARD, '"alike": F.mse_loss(z1, z2).double(),', "must be float32, but is float64"),
    "half in bfloat16": (
        "@in_float32\n",
        "",
        "must be float32 where the network computes in bfloat16, but is bfloat16",
    ),
    "not a dict": (
        "        return {\n",
        "        return 3\n        return {\n",
        "forward must return a dict of loss terms",
    ),
    "nothing": ("        return {\n", "        return None\n        return {\n", "'my_loss': loss}, not None"),
    "it fails": ("c = torch.cov(z.T)", "c = z @ z", r"forward fails in line §z @ z§: RuntimeError: mat1"),
    "no gradient": (
        "        z1, z2 = distributed",
        "        with torch.no_grad():\n            self.network(batch.view1)\n        torch.set_grad_enabled(False)\n"
        "        z1, z2 = distributed",
        "the loss has no gradient",
    ),
    "unused": (
        "        self.config = config\n",
        "        self.config = config\n        self.more = nn.Linear(3, 3)\n",
        "no gradient reaches more.weight: freeze it, or use it in the loss",
    ),
    "left out": (
        "    def forward(",
        "    def param_groups(self):\n        return [{'params': self.network[0].parameters()}]\n\n    def forward(",
        "param_groups leaves out network.1.0.weight, which would never learn",
    ),
    "twice": (
        "    def forward(",
        "    def param_groups(self):\n        return 2 * [{'params': list(self.parameters())}]\n\n    def forward(",
        "param_groups has a parameter twice",
    ),
    "constructor": ("super().__init__()", "super().__init__(3)", "constructor fails in line §__init__(3)§: TypeError"),
    "arguments": ("n_clusters: int, ", "", r"its constructor fails: TypeError: .*__init__\(\) takes"),
    "encoder": (
        "return self.network\n",
        "return self.network[0]\n",
        "encoder must be an nn.Sequential whose first part",
    ),
    "not of unit length": (
        "    def forward(",
        "    def embed(self, images):\n        return self.network(images)\n\n    def forward(",
        "embed must return features of unit length",
    ),
    "of the batch": (
        "    def forward(",
        "    def embed(self, images):\n        z = self.network(images)\n"
        "        return F.normalize(z - z.mean(0), dim=-1)\n\n"
        "    def forward(",
        "the features of an image must not depend on the others of its batch",
    ),
    "chance": (FORWARD, '"alike": F.mse_loss(z1, z2) + next(ALL),', "two runs of one seed differ"),
    "kept outside of buffers": (
        FORWARD,
        '"alike": self.count() * F.mse_loss(z1, z2),',
        "a method that is saved and loaded continues with another 'alike'",
    ),
    "granularities": (
        "        self.config = config\n",
        "        self.config = config\n        self.granularities = [n_clusters]\n",
        r"granularities must be a tuple of numbers of clusters, such as \(n_clusters,\), not \[4\]",
    ),
    "empty clusters": (
        FORWARD,
        FORWARD + '\n            "pull": clusterings[0].labels[batch.index].float().log().mean() * z1.mean(),',
        "forward without clusterings fails in line §pull§: IndexError",
    ),
    "centres": (
        "    def forward(",
        "    def head_centers(self):\n        return torch.eye(3)\n\n    def forward(",
        r"head_centers must return None or \(n_clusters, d\), here \(4, 256\), not \(3, 3\)",
    ),
    "a hook": (
        "    def forward(",
        "    def after_step(self, progress):\n        self.nothing += 1\n\n    def forward(",
        "after_step fails in line §self.nothing§: AttributeError",
    ),
}


@pytest.mark.parametrize("case", CLAUSES)
def test_a_broken_clause_of_the_contract_is_told_in_a_sentence(case, tmp_path):
    old, new, sentence = CLAUSES[case]
    text = changed(old, new)
    if case == "empty clusters":
        text = text.replace(
            "        self.config = config\n", "        self.config = config\n        self.granularities = (4,)\n"
        )
    text += "\n\nALL = map(float, range(10**6))\n"
    text += (
        "\n\ndef count(self):\n    self.n = getattr(self, 'n', 0) + 1\n    return self.n\n\n\nVICReg.count = count\n"
    )
    path = tmp_path / "vicreg.py"
    path.write_text(text)
    (kind,) = load_plugin(path)
    with pytest.raises(UserError, match=at(sentence, text)) as error:
        check_method(kind)
    assert str(error.value).startswith(f"{path}, line {at('§class VICReg(Method)§', text)}: the method VICReg")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("also", [[], ["--dry-run"]])
def test_training_tells_a_broken_contract_before_it_begins(also, vicreg, tmp_path, capsys):
    vicreg.write_text(changed(FORWARD, '"alike": (z1 - z2),'))
    out = tmp_path / "run"
    told = complaint(["train", "vicreg-digits", "--plugin", vicreg, *also, "--out", out], capsys)
    assert "breaks the contract: the loss term 'alike' must be a scalar" in told
    assert not out.exists()


def test_an_error_of_the_plugin_later_on_is_told_with_its_line(vicreg, tmp_path, capsys):
    """Something that no check met: it fails in the third step."""
    text = changed(FORWARD, '"alike": F.mse_loss(z1, z2) * late(batch.index.numel() == 256),')
    vicreg.write_text(text + "\n\ndef late(is_real):\n    return 1 / 0 if is_real else 1\n")
    out = tmp_path / "run"
    told = complaint(["train", "vicreg-digits", "--plugin", vicreg, "--quiet", "--out", out], capsys)
    line = at("§1 / 0§", vicreg.read_text())
    assert told == f"shoal: the plugin {vicreg} fails in line {line}: ZeroDivisionError: division by zero."


def test_errors_of_shoal_itself_stay_errors():
    assert plugins.told_fault(ValueError("of nobody")) is None


RAISED = ("KeyboardInterrupt", "KeyboardInterrupt('now')", "GeneratorExit", "SystemExit(0)", "BaseException('odd')")
RAISED += ("__import__('asyncio').CancelledError()", "BaseExceptionGroup('some', [KeyboardInterrupt()])")


@pytest.mark.parametrize("what", RAISED)
def test_whatever_a_plugin_raises_is_told_with_its_line(what, vicreg, tmp_path, capsys):
    kind = re.search(r"\w+(Exit|Interrupt|Error|Exception|Group)\b", what)[0]
    broken = tmp_path / "broken.py"
    broken.write_text(f"x = 1\nraise {what}\n")
    told = complaint(["recipes", "--plugin", broken], capsys)
    assert told.startswith(f"shoal: the plugin {broken} fails in line 2: {kind}")
    assert complaint(["recipes", "--plugin", broken], capsys) == told  # again, and not as if it were known
    vicreg.write_text(changed(FORWARD, '"alike": late(),') + f"\n\ndef late():\n    raise {what}\n")
    told = complaint(["train", "vicreg-digits", "--plugin", vicreg, "--dry-run"], capsys)
    assert f"line {at(f'§raise {what}§', vicreg.read_text())}: {kind}" in told


@pytest.mark.parametrize("what", ["KeyboardInterrupt", pytest.param("GeneratorExit", marks=pytest.mark.slow)])
def test_whatever_a_plugin_raises_in_training_is_told(what, vicreg, tmp_path, capsys):
    text = changed(FORWARD, '"alike": F.mse_loss(z1, z2) * late(batch.index.numel() == 256),')
    vicreg.write_text(text + f"\n\ndef late(is_real):\n    if is_real:\n        raise {what}\n    return 1\n")
    told = complaint(["train", "vicreg-digits", "--plugin", vicreg, "--quiet", "--out", tmp_path / "run"], capsys)
    assert told == f"shoal: the plugin {vicreg} fails in line {at(f'§raise {what}§', vicreg.read_text())}: {what}."


def test_ctrl_c_while_a_plugin_is_loaded_in_python_stays_ctrl_c(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("raise KeyboardInterrupt\n")
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            load_plugin(path)


ERASE = files_of_page()["erase.py"]
DRAW = "return torch.rand(n, 3, generator=generator, device=generator.device)"
APPLY = "return views.masked_fill(erased[:, None], 0)"


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        (DRAW, "return torch.rand(3, n, generator=generator)", r"draws \(3, 6\) for 6 images"),
        (DRAW, "return 3", "draws int for 6 images"),
        (APPLY, "return views[:, :1]", r"makes \(6, 1, 12, 10\) of torch.float32 of \(6, 3, 12, 10\)"),
        (APPLY, "return views.half()", "it must keep shape and type"),
        (APPLY, "return views * 2", r"the images must stay in \[0, 1\], but reach"),
        (APPLY, "return views * torch.rand(1)", "draw random numbers in draw alone"),
        (APPLY, "return views - views.mean(0)", "must not depend on the others of its batch"),
        (APPLY, "return views @ views", "it fails in line §views @ views§: RuntimeError"),
        ("@dataclass(frozen=True)", "@dataclass", "TypeError: cannot inherit non-frozen"),
        ("p: Annotated[float, Ge(0), Le(1)] = 0.5", "p: float", "the setting p of Erase needs a default"),
        ("    def draw(", "    def drew(", "the augmentation Erase lacks draw"),
    ],
)
def test_a_broken_augmentation_is_told_in_a_sentence(old, new, sentence, tmp_path):
    path = tmp_path / "erase.py"
    path.write_text(changed(old, new, ERASE))
    with pytest.raises(UserError, match=at(sentence, path.read_text())) as error:
        check_augmentation(load_plugin(path)[0])
    assert "\n" not in str(error.value)


def test_augmentations_are_named_with_their_settings(tmp_path):
    from shoal.data.augmentation import named

    path = tmp_path / "erase.py"
    path.write_text(ERASE)
    load_plugin(path)
    assert named("erase:side=0.2") == AUGMENTATIONS["erase"](side=0.2)
    for spec, sentence in {
        "erase:q=1": "has no setting 'q'",
        "erase:p": "settings are written as in erase:p=0.5",
        "erase:p=2": "p: input should be less than or equal to 1",
        "erase:p=many": "valid number",
        "blot": "there is no augmentation named 'blot', and there are erase",
    }.items():
        with pytest.raises(UserError, match=sentence):
            named(spec)


def test_augmentations_of_two_views_are_those_of_one(tmp_path):
    import torch

    from shoal.data import apply_view, apply_views, draw_view

    path = tmp_path / "erase.py"
    path.write_text(ERASE)
    load_plugin(path)
    pixels = torch.randint(1, 256, (30, 3, 8, 8), dtype=torch.uint8)
    config = ViewConfig(own=("erase:p=1",))
    draws = [draw_view(30, (8, 8), config, torch.Generator().manual_seed(view), view) for view in (0, 1)]
    views = apply_views(pixels, draws)
    for view, draw in zip(views, draws, strict=True):
        torch.testing.assert_close(view, apply_view(pixels, draw))
        torch.testing.assert_close(view[5:9], apply_view(pixels[5:9], draw[5:9]))
        assert (view == 0).flatten(1).any(1).all()  # each image has lost a square
    plain = draw_view(30, (8, 8), ViewConfig(), torch.Generator().manual_seed(0), 0)
    assert plain.own == ()
    torch.testing.assert_close(plain.crop, draws[0].crop)  # drawn before: other augmentations stay what they were


BARS = files_of_page()["bars.py"]


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ('return Listing([f"bar {row}" for row in range(n)]', 'return Listing(["bar"] * n', "lists an id twice"),
        ("targets, (", "targets[1:], (", "lists 5 ids and 4 targets"),
        ("        n = int(number)", "        return 3\n        n = int(number)", "returns a int"),
        ("        n = int(number)", "        n = 0", "finds no images"),
        (
            "for row in range(n):\n                image",
            "for row in range(3):\n                image",
            "iterates over 3 images where it lists 5",
        ),
        ("        n = int(number)", "        n = len(5)", None),
        ('f"bar {row}" for row', "row for row", "lists the id 0: ids must be text"),
        ('f"bar {row}" for row', 'f"bar {row}\\ud800" for row', "ids must be text"),
        ("targets, (", "[7] * n, (", "targets that are neither numbers of its 2 classes"),
        ("targets, (", "[0.5] * n, (", "targets that are neither numbers of its 2 classes"),
        (
            "(3, 16, 16), np.uint8",
            "(3, 16, 16), np.float32",
            r"an array \(3, 16, 16\) of float32 as an image",
        ),
        ("yield image if", "yield image[0] if", r"an array \(16, 16\) of uint8 as an image: it must be"),
        (
            "for row in range(n):\n                image",
            "for row in [*range(n), 0, 0]:\n                image",
            "more than 5 images where it lists 5",
        ),
        ("image[:, row % 16] = 255", "image[:] = np.random.randint(255)", "differs when it is read again"),
    ],
)
def test_a_broken_source_is_told_in_a_sentence(old, new, sentence, tmp_path, capsys):
    from shoal.testing import check_source

    path = tmp_path / "bars.py"
    path.write_text(changed(old, new, BARS))
    load_plugin(path)
    if sentence is None:  # at the command
        told = complaint(["cluster", "bars://5", "--plugin", path, "--out", tmp_path / "out"], capsys)
        assert at("bars.py fails in line §len(5)§: TypeError", path.read_text()) in told
        return
    with pytest.raises(UserError, match=sentence):
        check_source("bars://5")


def test_images_of_a_source_are_cached_by_what_it_says_of_them(tmp_path, monkeypatch):
    from shoal.data import to_images

    monkeypatch.setenv("SHOAL_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "bars.py"
    path.write_text(BARS)
    load_plugin(path)
    first = to_images("bars://6")
    path.write_text(changed("= 255", "= 100", BARS))  # without a version, a change under the same names is seen
    load_plugin(path)
    assert int(first.pixels.max()) == 255
    assert int(to_images("bars://6").pixels.max()) == 100


def test_a_scheme_that_nothing_reads_is_told(capsys, tmp_path):
    told = complaint(["train", "byol-folder", "--data.path", "cloud://x", "--out", tmp_path / "out"], capsys)
    assert "does not read cloud:// itself: give the plugin that does with --plugin FILE" in told


def test_recipes_list_those_of_a_plugin(vicreg, capsys):
    assert main(["recipes", "--plugin", str(vicreg)]) == 0
    assert "vicreg-digits" in capsys.readouterr().out
    assert main(["recipes", "vicreg-digits", "--plugin", str(vicreg)]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["method"] == {"name": "vicreg"}
