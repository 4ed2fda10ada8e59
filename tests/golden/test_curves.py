"""The loop does what it did: golden curves of each method, and that they would show a small change."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from shoal import methods
from shoal.training import loop
from tests.golden.curves import METHODS, config_of, curves_of, kept, moved


def test_every_method_has_golden_curves():
    assert set(METHODS) == set(methods.METHODS.ours()) == set(kept())


@pytest.mark.parametrize("name", METHODS)
def test_curves_are_as_they_were(name, tmp_path):
    found = moved(kept()[name], curves_of(config_of(METHODS[name]), tmp_path))
    assert not found, "python -m tests.golden.curves --renew keeps a change that is meant:\n" + "\n".join(found)


def test_a_momentum_that_is_one_percent_higher_is_noticed(tmp_path):
    method = dataclasses.replace(METHODS["byol"], momentum=METHODS["byol"].momentum * 1.01)
    found = moved(kept()["byol"], curves_of(config_of(method), tmp_path))
    assert {line.partition(":")[0] for line in found} == {"byol", "features"}


@pytest.mark.slow
def test_a_rate_that_is_one_percent_higher_is_noticed(tmp_path):
    config = config_of(METHODS["simclr"])
    config = dataclasses.replace(config, optim=dataclasses.replace(config.optim, lr=config.optim.lr * 1.01))
    assert moved(kept()["simclr"], curves_of(config, tmp_path))


def test_one_random_number_more_is_noticed(tmp_path, monkeypatch):
    order = loop.order_of_epoch

    def after_another(clustered, batch_size, labels, generator):
        torch.rand(1, generator=generator)
        return order(clustered, batch_size, labels, generator)

    monkeypatch.setattr(loop, "order_of_epoch", after_another)
    assert moved(kept()["simsiam"], curves_of(config_of(METHODS["simsiam"]), tmp_path))


def test_what_has_moved_is_said():
    golden = {"psa": [1.0, 0.5, 0.5], "psl": [0.0, 0.0, 1.0], "features": [0.1]}
    assert moved(golden, golden) == []
    assert moved(golden, {**golden, "psa": [1.00001, 0.5, 0.5]}) == []
    assert moved(golden, {**golden, "psa": [1.0, 0.6, 0.9]}) == [
        "psa: step 1 was 0.5 and is 0.6, step 2 was 0.5 and is 0.9, 2667 times the tolerance"
    ]
    assert moved(golden, {"psa": golden["psa"], "features": [0.1, 0.2], "new": [1.0]}) == [
        "new: new",
        "psl: gone",
        "features: 1 values are 2 now",
    ]
