"""The warning of a collapse: heard in dead runs, and not while a head is undecided at the start."""

from __future__ import annotations

import dataclasses

import pytest
from tests.runs import new_run, tiny_config

from shoal.methods import CCConfig, SimCLRConfig
from shoal.progress import Progress
from shoal.training import fit, loop


class Ears(Progress):
    """Hears the warnings."""

    def __init__(self):
        super().__init__()
        self.warnings = []

    def warn(self, text):
        self.warnings.append(text)


def warnings_of(path, method, **optim):
    """The epochs of which there was a warning, in a run with an E-step after each of its six epochs."""
    config = tiny_config(method=method)
    config = dataclasses.replace(config, epochs=6, optim=dataclasses.replace(config.optim, **optim))
    ears = Ears()
    fit(new_run(path, config), ears)
    return [text.partition(":")[0] for text in ears.warnings]


def test_an_undecided_head_is_no_collapse(tmp_path):
    assert warnings_of(tmp_path, CCConfig(dim=8), lr=1.0) == []


@pytest.mark.parametrize("method", [CCConfig(dim=8), SimCLRConfig(dim=8)], ids=["cc", "simclr"])
def test_a_network_that_shrinks_to_nothing_is_told_to_the_end(method, tmp_path):
    found = warnings_of(tmp_path, method, lr=2.0, weight_decay=3.0)
    assert found[-1] == "epoch 6"
    assert len(found) >= 3


@pytest.mark.parametrize(("epochs", "changed", "told"), [(10, 0.72, True), (10, 0.3, False), (9, 0.72, False)])
def test_clusters_that_have_not_settled_are_told_at_the_end_of_all_but_tries(epochs, changed, told, tmp_path):
    run = new_run(tmp_path, dataclasses.replace(tiny_config(), epochs=epochs))
    scores = {"feature_std": 0.5, "largest": 0.4, "smallest": 0.1, "changed": changed}
    assert loop._alarm(run, scores) is None  # there is more to come
    run.state.epoch = epochs
    assert ("have not settled" in (loop._alarm(run, scores) or "")) == told
