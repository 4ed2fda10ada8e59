"""TEMI on groups that anybody could tell apart, with few heads and epochs."""

import numpy as np
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import adjusted_rand_score
from tests.clustering.refusing import by_every_metric, refused

from shoal.clustering import TEMI
from shoal.clustering.temi import estimator as temi

QUICK = {"n_heads": 2, "epochs": 100, "batch_size": 40, "n_neighbors": 10, "random_state": 0}


def groups(n=120, k=3, d=8, seed=0):
    g = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % k
    return 3 * torch.randn(k, d, generator=torch.Generator().manual_seed(9))[labels] + 0.3 * torch.randn(
        n, d, generator=g
    ), labels


@pytest.mark.slow
@by_every_metric
def test_it_finds_separate_groups_and_puts_new_rows_there(metric):
    x, labels = groups()
    model = TEMI(3, metric=metric, **QUICK).fit(x)
    assert adjusted_rand_score(labels, model.labels_) == 1
    later, where = groups(n=30, seed=1)
    assert adjusted_rand_score(where, model.predict(later)) == 1
    shares = model.predict_proba(later)
    torch.testing.assert_close(shares.sum(1), torch.ones(30))
    torch.testing.assert_close(shares.argmax(1), model.predict(later))
    torch.testing.assert_close(model.predict(x), model.labels_)


def test_a_seed_repeats_it_and_another_does_not():
    x = groups()[0].numpy()
    settings = QUICK | {"epochs": 3}
    first, again = (TEMI(3, **settings).fit(x) for _ in range(2))
    np.testing.assert_array_equal(first.predict_proba(x), again.predict_proba(x))
    np.testing.assert_array_equal(first.losses_, again.losses_)
    other = TEMI(3, **(settings | {"random_state": 1})).fit(x)
    assert not np.array_equal(first.predict_proba(x), other.predict_proba(x))


def test_it_tells_of_each_epoch():
    done = []
    TEMI(3, **(QUICK | {"epochs": 3})).fit(groups()[0], after_epoch=lambda i, n: done.append((i, n)))
    assert done == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.slow
def test_the_clusters_come_of_the_votes_of_all_heads_numbered_as_in_the_best(monkeypatch):
    asked, voted, started = [], [], []
    vote, train = temi.votes, temi.classifier

    def watched(shares, n, first):
        asked.append((first, torch.cat([each for _, each in shares()], 2).shape))
        voted.append(vote(shares, n, first))
        return voted[0]

    monkeypatch.setattr(temi, "votes", watched)
    monkeypatch.setattr(temi, "classifier", lambda z, v, near: started.append(v) or train(z, v, near))
    x, _ = groups()
    model = TEMI(3, **(QUICK | {"n_heads": 4})).fit(x)
    assert asked == [(int(model.losses_.argmin()), (4, 3, 120))]
    assert len(set(model.losses_.tolist())) == 4
    assert started[0] is voted[0]
    assert torch.equal(voted[0].argmax(1), model.labels_)


@by_every_metric
def test_the_classifier_reads_rows_as_they_are(metric, monkeypatch):
    seen = []
    own = temi.classifier
    monkeypatch.setattr(temi, "classifier", lambda z, *a: seen.extend([z, *own(z, *a)]) or tuple(seen[1:]))
    x = 5 + groups()[0]
    model = TEMI(3, metric=metric, **(QUICK | {"epochs": 3})).fit(x)
    z, weight, bias = seen
    torch.testing.assert_close(model.predict_proba(x), (z @ weight.T + bias).softmax(1), rtol=1e-3, atol=1e-4)
    assert model.predict_proba(x.double()).dtype == torch.float64


def test_the_last_layer_rests_in_the_first_epoch():
    x = groups()[0]
    trainers = []
    for epochs in (1, 2):
        how = temi.Training(n_heads=2, n_neighbors=5, beta=0.6, epochs=epochs, batch_size=40)
        trainer = temi._Trainer(x, 3, how, torch.Generator().manual_seed(0))
        before = trainer.student.last.detach().clone()
        trainer.fit(torch.arange(120)[:, None])
        trainers.append(torch.equal(before, trainer.student.last))
    assert trainers == [True, False]


def test_of_many_rows_a_sample_trains(monkeypatch):
    x, _ = groups()
    seen = []
    own = temi.nearest_neighbours
    monkeypatch.setattr(temi, "MAX_ROWS", 80)
    monkeypatch.setattr(temi, "nearest_neighbours", lambda f, *a: seen.append(len(f)) or own(f, *a))
    assert TEMI(3, **(QUICK | {"epochs": 1})).fit(x).labels_.shape == (120,)
    assert seen == [80]


def test_one_cluster_constant_rows_and_two_rows():
    x = groups()[0]
    assert not TEMI(1, **(QUICK | {"epochs": 1})).fit(x).labels_.any()
    with pytest.warns(ConvergenceWarning, match=r"distinct clusters \(1\) found smaller than n_clusters \(3\)"):
        constant = TEMI(3, **(QUICK | {"epochs": 2})).fit(torch.ones(50, 4))
    assert constant.predict_proba(torch.ones(2, 4)).isfinite().all()
    assert len(constant.labels_.unique()) == 1
    assert TEMI(2, **(QUICK | {"epochs": 2})).fit(x[:2]).labels_.shape == (2,)


def test_many_clusters_get_more_updates():
    how = TEMI(200)._training(100_000)
    assert how.epochs * (100_000 // how.batch_size) >= 200 * temi.STEPS_PER_CLUSTER > temi.MIN_STEPS


def test_the_rate_rises_and_falls():
    factors = [temi.rate_factor(each) for each in (0.0, 0.05, 0.1, 0.55, 1.0)]
    np.testing.assert_allclose(factors, [0, 0.5, 1, 0.5, 0], atol=1e-12)


@pytest.mark.parametrize(("n", "size"), [(3, 3), (200, 64), (5000, 64), (20_000, 128), (50_000, 256), (10**6, 1024)])
def test_batches_and_updates_for_n_rows(n, size):
    how = TEMI(2)._training(n)
    assert how.batch_size == size
    assert how.epochs >= temi.EPOCHS
    assert how.epochs * (n // size) >= temi.MIN_STEPS
    assert how.n_neighbors == (1 if n == 3 else 50)


@pytest.mark.usefixtures("without_type_checks")
def test_mistakes():
    x = groups()[0]
    refused(TEMI(200).fit, x, match="n_clusters=200 is more than there are rows")
    refused(TEMI(1).fit, x[:1], match="a single row has no neighbours")
    refused(TEMI(2, metric="manhattan").fit, x, match="no metric 'manhattan'")
    for name in ("n_neighbors", "n_heads", "epochs", "batch_size"):
        refused(TEMI(2, **{name: 0}).fit, x, match=f"{name}=0 must be a whole number")
    refused(TEMI(2, beta=0).fit, x, match="beta=0 must be larger than 0")
    spoilt = x.clone()
    spoilt[3, 1] = torch.nan
    refused(TEMI(2, **QUICK).fit, spoilt, match="1 of 120 rows of features hold NaN")
    refused(TEMI(2, **(QUICK | {"epochs": 1})).fit(x).predict, spoilt, match="hold NaN")
    refused(TEMI(2, **QUICK).fit, torch.zeros(5, 2), match="zero and has no cosine")
