"""The last stage of ProPos and BYOL: when it begins, what it computes, and which E-steps it needs."""

import dataclasses

import pytest
import torch
from tests.contract.examples import batch, clusterings, method, total
from tests.runs import StopAfter, new_run, reopened, same_files, tiny_config

from shoal.cli.main import main
from shoal.config import parse_config
from shoal.errors import UserError
from shoal.methods import BYOLConfig, ProPosConfig
from shoal.methods.boost import BoostConfig, boost_terms
from shoal.progress import Progress
from shoal.training import fit
from shoal.training.digests import config_digest
from shoal.training.run import Interrupted

BEFORE = {"propos": {"psa", "psl"}, "byol": {"byol"}}
STAGE = {"instance", "pos", "neg"}


def config_of(name, boost_from=0.5, **changes):
    """Five epochs of two steps, the last two of them boosted at 0.5."""
    kind = {"propos": ProPosConfig, "byol": BYOLConfig}[name]
    chosen = kind(hidden=16, dim=8, momentum=0.9, boost_from=boost_from)
    return dataclasses.replace(tiny_config(method=chosen), **({"epochs": 5, "cluster_from": 0} | changes))


def rows_of(run):
    fit(run, Progress())
    return run.folder.read_metrics()


def terms_of(row):
    return row.keys() & (STAGE | {"psa", "psl", "byol"})


both = pytest.mark.parametrize("name", BEFORE)


@both
def test_the_stage_begins_at_its_share_of_the_epochs(name, tmp_path):
    rows = rows_of(new_run(tmp_path, config_of(name)))
    assert [terms_of(row) for row in rows[:5]] == [BEFORE[name]] * 3 + [STAGE] * 2
    assert all(row["loss"] == pytest.approx(sum(row[term] for term in terms_of(row))) for row in rows[:5])
    assert all(row["pos"] > 0 >= row["neg"] for row in rows[3:5])


@both
def test_the_epochs_before_are_those_of_a_run_without_it(name, tmp_path):
    plain, boosted = (rows_of(new_run(tmp_path / str(f), config_of(name, f, cluster_every=2))) for f in (None, 0.5))
    for term in ("loss", "steps", "lr"):
        assert [row[term] for row in plain[:3]] == [row[term] for row in boosted[:3]]
    assert plain[4]["loss"] != boosted[4]["loss"]


@pytest.mark.parametrize(
    ("share", "epochs", "first"), [(0.8, 5, 4), (0.8, 6, 5), (0.07, 100, 7), (0.8, 90, 72), (0, 3, 0)]
)
def test_which_epoch_it_begins_with(share, epochs, first):
    config = ProPosConfig(boost_from=share)
    assert [config.boosts(epoch / epochs) for epoch in range(epochs)].index(True) == first


@both
@pytest.mark.parametrize(("share", "begins"), [(0.9, 0), (0.5, 6)])
def test_a_stage_that_would_never_begin_is_refused(name, share, begins, tmp_path):
    with pytest.raises(UserError, match=f"--cluster-from {begins} leave the last stage no epoch of 6"):
        new_run(tmp_path, config_of(name, share, epochs=6, cluster_from=begins))


@pytest.mark.parametrize(("every", "share", "expected"), [(1, 0.5, [1, 2, 3, 4]), (2, 0.5, [2, 4]), (4, 0.5, [0, 4])])
def test_byol_clusters_before_the_first_epoch_only_if_the_stage_needs_it(every, share, expected, tmp_path):
    rows = rows_of(new_run(tmp_path, config_of("byol", share, cluster_every=every)))
    assert [row["epoch"] for row in rows[:-1] if "silhouette" in row] == expected
    assert [terms_of(row) for row in rows[:5]] == [{"byol"}] * 3 + [STAGE] * 2


@both
@pytest.mark.parametrize("steps", [5, 7])  # within the epoch before the stage, and within its first
def test_a_run_that_stops_around_its_beginning_resumes_bit_for_bit(name, steps, tmp_path):
    config = config_of(name, cluster_every=2)
    fit(new_run(tmp_path / "whole", config), Progress())
    with pytest.raises(Interrupted):
        fit(new_run(tmp_path / "broken", config), Progress(), [StopAfter(steps)])
    fit(reopened(tmp_path / "broken"), Progress())
    same_files(tmp_path / "whole", tmp_path / "broken")


@both
def test_the_stage_waits_for_clusters(name, tmp_path):
    rows = rows_of(new_run(tmp_path, config_of(name, cluster_from=4)))
    assert [terms_of(row) >= STAGE for row in rows[:5]] == [False] * 4 + [True]


@both
def test_both_terms_teach_the_online_network_and_leave_predictor_and_target_alone(name):
    ours = method(f"{name}, boost")
    terms = ours(batch(), clusterings(ours))
    assert terms.keys() == STAGE
    (terms["pos"] + terms["neg"]).backward()
    assert all(p.grad is not None for p in ours.online.parameters())
    assert any(p.grad.any() for p in ours.online.parameters())
    assert all(p.grad is None for part in (ours.predictor, ours.target) for p in part.parameters())


def test_without_its_two_terms_byol_is_what_it_was():
    ours, plain = method("byol, boost"), method("byol")
    assert torch.equal(ours(batch(), clusterings(ours))["instance"], plain(batch())["byol"])


def test_weights_filter_and_reduction_do_what_they_say():
    generator = torch.Generator().manual_seed(0)
    online, target = ((torch.randn(30, 4, generator=generator), torch.randn(30, 4, generator=generator)) for _ in "ab")
    labels = torch.arange(30) % 3
    plain = boost_terms(BoostConfig(boost_neighbours=0), online, target, labels, 3)
    weighed = BoostConfig(boost_neighbours=0, boost_pos_weight=0.5, boost_neg_weight=0.0, boost_reduction="sum")
    found = boost_terms(weighed, online, target, labels, 3)
    assert found["pos"] == plain["pos"] / 2
    assert found["neg"] == 0
    summed = boost_terms(BoostConfig(boost_neighbours=0, boost_reduction="sum"), online, target, labels, 3)
    assert summed["neg"].item() == pytest.approx(6 * plain["neg"].item())
    filtered = boost_terms(BoostConfig(), online, target, labels, 3)
    assert filtered["pos"] != plain["pos"]
    swapped = boost_terms(BoostConfig(), online[::-1], target[::-1], labels, 3)
    assert total(swapped).item() == pytest.approx(total(filtered).item())


def test_a_run_that_began_before_there_was_such_a_stage_can_be_resumed():
    def digest(**settings):
        return config_digest(parse_config({"method": {"name": "byol", **settings}}, "a test"))

    assert digest() == "16139c05e34594c870bc0177cfe622db"
    assert digest(boost_from=0.8) != digest()


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--method.boost-from", "1"], "less than 1"),
        (["--method.boost-from", "-0.1"], "greater than or equal to 0"),
        (["--method.boost-neighbours", "-1"], "greater than or equal to 0"),
    ],
)
def test_settings_that_make_no_sense_are_told_in_a_sentence(flags, sentence, tmp_path, capsys):
    assert main(["train", "byol-digits", *flags, "--out", str(tmp_path / "run")]) == 2
    message = capsys.readouterr().err.strip()
    assert sentence in message
    assert len(message.splitlines()) == 1
    assert not (tmp_path / "run").exists()
