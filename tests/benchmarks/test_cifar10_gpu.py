"""Training in slices: the same rows as at once, and nothing of another run."""

from dataclasses import replace

import pytest
from tests.runs import tiny_recipe

from shoal.errors import UserError

pytestmark = pytest.mark.slow  # each trains several times


def rows(curve):
    return [{key: value for key, value in row.items() if key not in CLOCK} for row in curve.rows()]


CLOCK = ("seconds", "images_per_second")


def after(looks):
    """Time that is up at the n-th look at the clock and from then on."""
    left = iter(range(looks, -1, -1))
    return lambda: next(left, 0) <= 1


@pytest.fixture
def config(tmp_path, own_cache):  # noqa: ARG001 - no other test's images
    from cifar10_gpu import config_of

    return config_of(str(tiny_recipe(tmp_path)), 3, 2, tmp_path / "pictures")


@pytest.mark.parametrize("looks", [1, 12])
def test_two_slices_give_the_rows_of_one(tmp_path, config, looks):
    from cifar10_gpu import train_slice

    whole, whole_curve = train_slice(config, tmp_path / "whole", lambda: False)
    stopped, _ = train_slice(config, tmp_path / "cut", after(looks))
    assert whole.done
    assert not stopped.done
    run, curve = train_slice(config, tmp_path / "cut", lambda: False)
    assert run.done
    assert rows(curve) == rows(whole_curve)
    assert [row["epoch"] for row in rows(curve)] == [1, 2]
    assert {"acc", "nmi", "ari", "device", "commit"} <= rows(curve)[0].keys()


def test_time_adds_up_over_slices(tmp_path, config):
    from cifar10_gpu import train_slice

    train_slice(config, tmp_path / "run", after(12))
    run, curve = train_slice(config, tmp_path / "run", lambda: False)
    metrics = run.folder.read_metrics()
    taken = sum(row.get("seconds", 0) + row.get("e_step_seconds", 0) for row in metrics)
    assert curve.rows()[-1]["seconds"] == pytest.approx(taken, abs=1e-2)
    before = metrics[0]["seconds"] + metrics[1]["e_step_seconds"]
    assert curve.rows()[0]["seconds"] == pytest.approx(before, abs=1e-2)


def test_rows_after_the_last_save_are_dropped_and_lost_ones_come_back(tmp_path, config):
    from cifar10_gpu import Curve, train_slice

    run, curve = train_slice(config, tmp_path / "run", lambda: False)
    before = curve.rows()
    text = curve.path.read_text()
    curve.path.write_text(
        text.splitlines(keepends=True)[0] + text.splitlines()[-1].replace('"epoch": 2', '"epoch": 9') + "\n"
    )
    assert rows(Curve(run, lambda: False)) == [{k: v for k, v in row.items() if k not in CLOCK} for row in before]


def test_other_settings_are_refused_and_images_may_move(tmp_path, config):
    from cifar10_gpu import config_of, train_slice

    train_slice(config, tmp_path / "run", after(1))
    with pytest.raises(UserError, match="seed: 3"):
        train_slice(replace(config, seed=4), tmp_path / "run", lambda: False)
    (tmp_path / "pictures").rename(tmp_path / "moved")
    moved = config_of(str(tmp_path / "tiny.yaml"), 3, 2, tmp_path / "moved")
    run, _ = train_slice(moved, tmp_path / "run", lambda: False)
    assert run.done


def test_the_root_is_that_of_the_archive_or_holds_the_images(tmp_path):
    from cifar10_gpu import config_of

    assert config_of("propos-cifar10", 0, None, None).data.path == "cifar10"
    assert config_of("propos-cifar10", 0, None, tmp_path).data.path == str(tmp_path)
    (tmp_path / "cifar-10-binary.tar.gz").touch()
    data = config_of("propos-cifar10", 0, None, tmp_path).data
    assert (data.path, data.root) == ("cifar10", str(tmp_path))
