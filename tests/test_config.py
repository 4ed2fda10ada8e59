import dataclasses

import pytest
import yaml

from shoal.cli.train import TrainCommand, _default_folder
from shoal.config import RunConfig, load_recipe, parse_config, recipe_names, to_dict, to_yaml
from shoal.errors import UserError
from shoal.methods import BYOLConfig


@pytest.mark.parametrize("name", recipe_names())
def test_a_written_config_reads_back_the_same(name, tmp_path):
    config = load_recipe(name)
    path = tmp_path / "config.yaml"
    path.write_text(to_yaml(config))
    assert load_recipe(str(path)) == config


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_says_what_it_is_in_its_first_line(name):
    from shoal.config import recipe_text

    assert recipe_text(name).startswith("# ")


@pytest.mark.parametrize(
    ("raw", "sentence"),
    [
        ({"epoch": 3}, "no setting 'epoch': did you mean 'epochs'"),
        ({"method": {"temprature": 1}}, "no setting 'method.temprature': did you mean 'method.temperature'"),
        (
            {"method": {"name": "propos", "noise": -1}},
            "method.noise: input should be greater than or equal to 0",
        ),
        ({"method": {"name": "prospo"}}, "no method named 'prospo': did you mean 'propos'"),
        ({"n_clusters": 1}, "n_clusters: input should be greater than or equal to 2, not 1"),
        ({"epochs": "many"}, "epochs: input should be a valid integer"),
        ({"optim": {"lr": "fast"}}, "optim.lr: input should be a valid number"),
        ({"augment": {"scale": [2, 1]}}, "scale"),
        ({"augment": {"scale": [2, 1]}}, "give the smaller number first."),
        ({"augment": 3}, "augment holds settings of its own"),
        ({"data": {"path": {"deep": 1}}}, "data.path"),
        ({"method": "propos"}, "method holds its settings"),
        ({"method": {"name": ["a"]}}, "no method named ['a']"),
        ({"optim": {"lr": float("inf")}}, "optim.lr: input should be a finite number, not inf"),
        ({"seed": 2**64}, "seed: input should be less than"),
    ],
)
def test_a_wrong_recipe_gets_a_sentence(raw, sentence):
    with pytest.raises(UserError) as error:
        parse_config(raw, "my.yaml")
    assert str(error.value).startswith("my.yaml")
    assert sentence in str(error.value)


def test_files_that_are_no_recipe(tmp_path):
    path = tmp_path / "r.yaml"
    with pytest.raises(UserError, match="cannot read the recipe"):
        load_recipe(str(path))
    path.write_text("a: [")
    with pytest.raises(UserError, match="not valid YAML"):
        load_recipe(str(path))
    path.write_text("a: &a {b: *a}")
    with pytest.raises(UserError, match="no setting"):
        load_recipe(str(path))
    path.write_text("just words")
    with pytest.raises(UserError, match="is not a recipe"):
        load_recipe(str(path))
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"r\.yaml"):
        load_recipe(str(path))
    with pytest.raises(UserError, match="no recipe named 'propos-digit': did you mean 'propos-digits'"):
        load_recipe("propos-digit")


def test_python_in_yaml_is_not_run(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text("seed: !!python/object/apply:os.system ['true']")
    with pytest.raises(UserError, match="not valid YAML"):
        load_recipe(str(path))


def test_flags_override_single_settings(tmp_path):
    command = TrainCommand.parse(
        "train",
        [
            "propos-digits",
            "--epochs",
            "50",
            "--seed=3",
            "--method.temperature",
            "0.4",
            "--out",
            str(tmp_path / "r"),
        ],
    )
    recipe = load_recipe("propos-digits")
    method = dataclasses.replace(recipe.method, temperature=0.4)
    assert command.config == dataclasses.replace(recipe, epochs=50, seed=3, method=method)
    assert command.out == tmp_path / "r"


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["propos-digits", "--epohcs", "3"], "no option --epohcs: did you mean '--epochs'"),
        (["propos-digits", "--method.temprature=1"], "did you mean '--method.temperature'"),
        (["propos-digits", "--qiuet"], "did you mean '--quiet'"),
        (["propos-digits", "extra"], "unexpected argument"),
        (["propos-digits", "--n-clusters", "1"], "n_clusters: input should be greater than or equal to 2"),
        (["--epochs", "3"], "give a recipe"),
        (["--epochs", "3", "propos-digits"], "the recipe comes first: shoal train propos-digits"),
        (["propos-digits", "--method.name", "byol"], "the recipe says which method"),
        ([], "give a recipe"),
        (["propos-digits", "--resume", "x"], "exactly as it began"),
        (["--resume", "x", "--seed", "3"], "exactly as it began"),
    ],
)
def test_a_wrong_command_line_gets_a_sentence(args, sentence):
    with pytest.raises(UserError, match=sentence):
        TrainCommand.parse("train", args)


@pytest.mark.parametrize("args", [["--epochs", "many"], ["--epochs"], ["--method.views", "sideways"]])
def test_a_value_of_the_wrong_form_exits_with_2(args, capsys):
    with pytest.raises(SystemExit) as error:
        TrainCommand.parse("train", ["propos-digits", *args])
    assert error.value.code == 2
    assert args[0] in capsys.readouterr().err


def test_help_shows_the_recipes_values(capsys):
    with pytest.raises(SystemExit) as stop:
        TrainCommand.parse("train", ["propos-digits", "--help"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    assert "--method.temperature" in out
    assert f"default: {load_recipe('propos-digits').optim.lr}" in out


def test_a_path_becomes_absolute_and_strict_reaches_the_data(tmp_path, monkeypatch):
    (tmp_path / "photos").mkdir()
    monkeypatch.chdir(tmp_path)
    command = TrainCommand.parse("train", ["propos-digits", "--data.path", "photos", "--strict"])
    assert command.config.data.path == str(tmp_path / "photos")
    assert command.config.data.strict


def test_the_default_run_folder_is_the_first_free_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert str(_default_folder("propos-digits")) == "runs/propos-digits"
    (tmp_path / "runs" / "propos-digits").mkdir(parents=True)
    assert str(_default_folder("propos-digits")) == "runs/propos-digits-2"


def test_the_methods_name_is_written():
    config = dataclasses.replace(RunConfig(), method=BYOLConfig())
    assert yaml.safe_load(to_yaml(config))["method"]["name"] == "byol"
    assert parse_config(to_dict(config), "x") == config


def test_a_config_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        RunConfig().epochs = 3
