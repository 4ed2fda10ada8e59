"""Values that YAML or JSON allow and nothing here can use: impossible dates, and a format that is a text."""

import json

import pytest
import torch
from safetensors.torch import save_file

from shoal.cli.main import main
from shoal.config import load_recipe
from shoal.errors import UserError
from shoal.sweeps.grid import parse_grid
from shoal.tensors import FORMAT, read_tensors, write_tensors
from tests.commands import complaint

DATES = ["2020-13-45", "2020-02-30", "2020-01-01 25:00:00"]


@pytest.mark.parametrize("date", DATES)
def test_an_impossible_date_in_a_recipe_is_told_in_a_sentence(date, tmp_path, capsys):
    path = tmp_path / "mine.yaml"
    path.write_text(f"epochs: 3\nseed: {date}\n")
    with pytest.raises(UserError, match=r"mine\.yaml is not valid YAML: ") as error:
        load_recipe(str(path))
    assert "\n" not in str(error.value)
    assert main(["train", str(path), "--out", str(tmp_path / "run")]) == 2
    assert "mine.yaml is not valid YAML" in complaint(capsys)


@pytest.mark.parametrize("date", DATES)
@pytest.mark.parametrize("form", ["{}", "1,{}", "[{}]"])
def test_an_impossible_date_in_a_grid_is_told_in_a_sentence(date, form, tmp_path, capsys):
    word = f"optim.lr={form.format(date)}"
    with pytest.raises(UserError, match=r"--grid 'optim\.lr=.*' cannot be read as a value"):
        parse_grid([word])
    assert main(["sweep", "propos-digits", "--grid", word, "--out", str(tmp_path / "out")]) == 2
    assert "cannot be read as a value" in complaint(capsys)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("version", ["1", "newest", None, [FORMAT], {"of": FORMAT}])
def test_a_tensor_file_whose_format_is_no_number_is_damaged(version, tmp_path):
    path = tmp_path / "weights.safetensors"
    write_tensors(path, {"kind": "test"}, {"a": torch.ones(2)})
    assert read_tensors(path)[0] == {"format": FORMAT, "kind": "test"}
    save_file({"a": torch.ones(2)}, path, {"shoal": json.dumps({"format": version, "kind": "test"})})
    with pytest.raises(UserError, match=r"weights\.safetensors is damaged"):
        read_tensors(path)


@pytest.mark.parametrize("name", ["propos-digit", "none.yaml"])
def test_a_recipe_that_is_not_there_is_no_matter_of_yaml(name):
    with pytest.raises(UserError) as told:
        load_recipe(name)
    assert "YAML" not in str(told.value)
