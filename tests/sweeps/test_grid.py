"""The runs of a sweep, and what is said to those that are none."""

import pytest

from shoal.config import to_yaml
from shoal.errors import UserError
from shoal.sweeps.grid import parse_grid, parse_seeds, plan


@pytest.mark.parametrize(
    ("text", "seeds"), [("0..2", [0, 1, 2]), ("7", [7]), ("0..1, 9", [0, 1, 9]), ("3..3", [3]), ("2,0", [2, 0])]
)
def test_seeds(text, seeds):
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("4..0", "give 0..4"),
        ("", "whole numbers"),
        ("-1", "whole numbers"),
        ("0..", "whole numbers"),
        ("0,,1", "whole numbers"),
        ("1,0..1", "names seed 1 twice"),
        ("0..99999999999999999", "more than 10000"),
    ],
)
def test_no_seeds(text, said):
    with pytest.raises(UserError, match=said):
        parse_seeds(text)


def test_values_are_those_of_a_recipe():
    grid = parse_grid(["optim.lr=0.3,1e-1", "augment.scale=[0.8,1.2],[1,1]", "data.size=none,8", "--cluster-from=3"])
    assert list(grid) == ["optim.lr", "augment.scale", "data.size", "cluster_from"]
    assert grid["augment.scale"] == [[0.8, 1.2], [1, 1]]
    points = plan(["propos-digits"], [0], parse_grid(["optim.lr=0.3,1e-1", "augment.scale=[0.8,1.2]"]))
    assert [point.config.optim.lr for point in points] == [0.3, 0.1]
    assert [point.config.augment.scale for point in points] == [(0.8, 1.2)] * 2


def test_each_combination_has_each_seed_and_a_folder_of_its_own():
    points = plan(["propos-digits", "byol-digits"], [0, 3], parse_grid(["optim.lr=0.3,0.6"]))
    assert [point.name for point in points[:4]] == [
        "propos-digits_optim.lr=0.3_seed=0",
        "propos-digits_optim.lr=0.6_seed=0",
        "byol-digits_optim.lr=0.3_seed=0",
        "byol-digits_optim.lr=0.6_seed=0",
    ]
    assert [point.seed for point in points] == [0] * 4 + [3] * 4
    assert len({point.name for point in points}) == 8
    assert len({to_yaml(point.config) for point in points}) == 8


def test_clusters_are_reached_in_fewer_epochs_unless_they_are_set():
    (scaled,) = plan(["propos-digits"], [0], parse_grid(["epochs=9"]))
    (asked,) = plan(["propos-digits"], [0], parse_grid(["epochs=9", "cluster_from=9"]))
    assert scaled.config.cluster_from < 9 == asked.config.cluster_from


def test_weights_are_the_same_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    points = plan(["propos-digits"], [0], parse_grid(["backbone.weights=runs/p,timm"]))
    assert [point.config.backbone.weights for point in points] == [str(tmp_path / "runs/p"), "timm"]
    assert points[0].settings["backbone.weights"] == str(tmp_path / "runs/p")


def test_augmentations_are_looked_up_before_anything_is_trained():
    with pytest.raises(UserError, match="there is no augmentation named 'nosuch'"):
        plan(["propos-digits"], [0], parse_grid(["augment.own=[nosuch]"]))


def test_names_fit_a_file_system_and_differ(tmp_path):
    long = [f"data.path={tmp_path}/{'a' * 200},{tmp_path}/{'a' * 201}", f"data.root={tmp_path}/x,{tmp_path}/y/x"]
    names = [point.name for point in plan(["propos-digits"], [0, 1], parse_grid(long))]
    assert len(set(names)) == 8
    assert max(map(len, names)) < 200
    odd = plan(["propos-digits"], [0], parse_grid(["data.path=/a/b c*,/d/b c*,hf://x/y"]))
    assert len({point.name for point in odd}) == 3
    assert not any(letter in point.name for point in odd for letter in "/*: ")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["optim.lrr=1"], "did you mean 'optim.lr'"),
        (["optm.lr=1"], "did you mean 'optim.lr'"),
        (["method.temprature=1"], "did you mean 'method.temperature'"),
        (["optim.lr"], "gives no values"),
        (["=1"], "gives no values"),
        (["optim.lr="], "empty value"),
        (["optim.lr=0.3,,0.6"], "empty value"),
        (["optim.lr=0.3,0.30"], "twice"),
        (["optim.lr=0.3", "optim.lr=0.6"], "twice"),
        (["optim.lr=-1"], "greater than 0"),
        (["optim.lr=fast"], "valid number"),
        (["optim=3"], "settings of its own"),
        (["augment.scale=[0.8,1.2"], "cannot be read"),
        (["seed=1,2"], "--seeds"),
        (["method.name=byol"], "several recipes"),
        (["data.path='-'"], "standard input"),
        (["epochs=" + ",".join(map(str, range(1, 200))), "n_clusters=" + ",".join(map(str, range(2, 99)))], "at most"),
    ],
)
def test_no_grid(words, said):
    with pytest.raises(UserError, match=said) as error:
        plan(["propos-digits"], [0], parse_grid(words))
    assert "\n" not in str(error.value)


def test_a_setting_that_one_recipe_lacks_is_named_with_the_recipe():
    with pytest.raises(UserError, match=r"byol-digits: there is no setting 'method.psl_weight'"):
        plan(["propos-digits", "byol-digits"], [0], parse_grid(["method.psl_weight=1"]))
    with pytest.raises(UserError, match="two recipes"):
        plan(["propos-digits", "propos-digits"], [0], {})


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("[erase:p=0.8,side=0.4]", [["erase:p=0.8,side=0.4"]]),
        ("[],[erase: p=0.8, side=0.4]", None),
        ("[erase:p=0.8, side=0.4,tint:r=1,g=2],[erase]", [["erase:p=0.8,side=0.4", "tint:r=1,g=2"], ["erase"]]),
        ('["erase:p=0.8,side=0.4",tint]', [["erase:p=0.8,side=0.4", "tint"]]),
        ("'a,b',c", ["a,b", "c"]),
        ("/home/o'brien/x,/y", ["/home/o'brien/x", "/y"]),
        ("[a=1,b=2]", [["a=1", "b=2"]]),
        ("[250,500],[100]", [[250, 500], [100]]),
        ("{a: [1,2]},3", [{"a": [1, 2]}, 3]),
    ],
)
def test_lists_stand_in_brackets_and_specs_keep_their_settings(text, values):
    found = parse_grid([f"augment.own={text}"])["augment.own"]
    if values is None:  # a space makes a mapping of YAML, which no setting takes
        assert len(found) == 2
    else:
        assert found == values


def test_a_list_without_brackets_is_told():
    with pytest.raises(UserError, match=r"augment.own takes a list, which stands in brackets, not 'erase:p=0.8'"):
        plan(["propos-digits"], [0], parse_grid(["augment.own=erase:p=0.8"]))
