"""k-means against scikit-learn, the published implementation's values, and a naive loop."""

import numpy as np
import pytest
import sklearn.cluster
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.metrics import adjusted_rand_score
from tests.golden import golden

from shoal.clustering.kmeans import assign, kmeans
from shoal.clustering.kmeans.init import coreset
from shoal.clustering.kmeans.restarts import Settings, run_kmeans
from shoal.clustering.rows import LOCAL, Rows
from shoal.errors import UserError

METRICS = ("euclidean", "cosine")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def blobs(n, d, k, spread=0.3, seed=0):
    g = generator(seed)
    centers = torch.randn(k, d, generator=g)
    labels = torch.randint(k, (n,), generator=g)
    return centers[labels] + spread * torch.randn(n, d, generator=g), labels


def inertia(clustering):
    return float(clustering.distances.double().square().sum())


def sklearn_fit(x, k, **settings):
    return sklearn.cluster.KMeans(k, **settings).fit(x.numpy())


def test_euclidean_matches_the_published_implementation():
    g = golden("kmeans_euclidean")
    ours = kmeans(g["X"], len(g["init"]), generator=generator(), metric="euclidean", init=g["init"])
    torch.testing.assert_close(ours.labels, g["labels"])
    torch.testing.assert_close(ours.centers, g["centers"], rtol=1e-5, atol=1e-5)
    # Its inertia is a sum of distances, not of their squares.
    torch.testing.assert_close(ours.distances.sum(), g["inertia"], rtol=1e-5, atol=0)


def test_cosine_matches_the_published_implementation():
    """Its centres are means of the rows at their own lengths, here 5 to 20: long rows weigh more than on the sphere.

    So the distances to given centres agree, and the outcome where lengths do not matter: in all but a few rows.
    """
    g = golden("kmeans_cosine")
    labels, distances, _ = assign(g["X"], g["centers"], "cosine")
    torch.testing.assert_close(labels, g["labels"])
    torch.testing.assert_close(distances.sum(), g["inertia"], rtol=1e-5, atol=0)
    ours = kmeans(g["X"], len(g["init"]), generator=generator(), metric="cosine", init=g["init"])
    assert (ours.labels != g["labels"]).sum() <= 2
    torch.testing.assert_close(ours.centers, F.normalize(g["centers"], dim=1), rtol=0, atol=0.1)
    assert ours.distances.sum() < g["inertia"]


def test_cosine_matches_the_published_algorithm_on_unit_rows():
    g = golden("kmeans_cosine")
    x, centers = F.normalize(g["X"], dim=1), F.normalize(g["init"], dim=1)
    for _ in range(100):
        labels = (x @ F.normalize(centers, dim=1).T).argmax(1)
        centers = torch.stack([x[labels == c].mean(0) for c in range(len(centers))])
    ours = kmeans(x, len(centers), generator=generator(), metric="cosine", init=g["init"], tol=0.0)
    torch.testing.assert_close(ours.labels, labels)
    torch.testing.assert_close(ours.centers, F.normalize(centers, dim=1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("n", "d", "k", "spread"), [(300, 2, 4, 1.0), (1000, 50, 10, 2.0), (700, 16, 60, 0.3)])
def test_lloyd_from_the_same_start_ends_where_scikit_learn_does(n, d, k, spread, seed):
    x, _ = blobs(n, d, k, spread, seed)
    start = x[torch.randperm(n, generator=generator(seed))[:k]]
    peer = sklearn_fit(x, k, init=start.numpy(), n_init=1)
    ours = kmeans(x, k, generator=generator(), metric="euclidean", init=start)
    assert inertia(ours) == pytest.approx(peer.inertia_, rel=1e-3)
    assert adjusted_rand_score(peer.labels_, ours.labels) > 0.98


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("data", ["digits", "blobs"])
def test_restarts_find_what_scikit_learn_finds(data, seed):
    x = torch.from_numpy(load_digits().data).float() if data == "digits" else blobs(2000, 20, 10, 0.5)[0]
    # On the digits one start in four ends in the best optimum: thirty find it.
    peer = sklearn_fit(x, 10, n_init=30, random_state=seed)
    ours = kmeans(x, 10, generator=generator(seed), metric="euclidean", n_init=30)
    assert inertia(ours) == pytest.approx(peer.inertia_, rel=1e-3)


@pytest.mark.parametrize("metric", METRICS)
def test_centres_at_hand_are_one_start_more(metric):
    x, labels = blobs(3000, 8, 25, spread=0.15)
    alone = kmeans(x, 25, generator=generator(1), metric=metric, n_init=1, init="random", max_iter=2)
    truth = torch.stack([x[labels == k].mean(0) for k in range(25)])
    helped = kmeans(x, 25, generator=generator(1), metric=metric, n_init=1, init="random", max_iter=2, warm_start=truth)
    assert inertia(helped) < 0.9 * inertia(alone)
    misled = kmeans(
        x, 25, generator=generator(1), metric=metric, n_init=1, init="random", warm_start=x[:25] * 0 + 100 + x[:25]
    )
    assert inertia(misled) <= 1.001 * inertia(alone)


def test_centres_at_hand_must_fit():
    x, _ = blobs(40, 3, 4)
    with pytest.raises(UserError, match=r"warm_start has shape \(3, 3\): give \(4, 3\)"):
        kmeans(x, 4, generator=generator(), warm_start=x[:3])


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_seeds_are_as_good_as_scikit_learns():
    x, _ = blobs(1000, 8, 30, 0.2)
    ours = [inertia(kmeans(x, 30, generator=generator(s), metric="euclidean", n_init=1, max_iter=1)) for s in range(20)]
    theirs = [sklearn_fit(x, 30, n_init=1, max_iter=1, random_state=s).inertia_ for s in range(20)]
    uniform = [sklearn_fit(x, 30, init="random", n_init=1, max_iter=1, random_state=s).inertia_ for s in range(20)]
    assert np.mean(ours) < 1.1 * np.mean(theirs)
    assert np.mean(ours) < 0.7 * np.mean(uniform)


def test_cosine_is_euclidean_on_the_sphere_with_centres_on_it():
    x, truth = blobs(500, 8, 5, 0.2)
    lengths = torch.rand(500, 1, generator=generator(1)) * 10 + 0.1
    ours = kmeans(x * lengths, 5, generator=generator(), metric="cosine")
    torch.testing.assert_close(ours.centers.norm(dim=1), torch.ones(5))
    for c in range(5):
        mean = F.normalize(x[ours.labels == c], dim=1).mean(0)
        torch.testing.assert_close(ours.centers[c], F.normalize(mean, dim=0), rtol=1e-4, atol=1e-4)
    assert adjusted_rand_score(truth, ours.labels) > 0.99


@pytest.mark.parametrize("metric", METRICS)
def test_assign_matches_a_naive_loop(metric):
    x, centers = torch.randn(300, 6, generator=generator(1)), torch.randn(5, 6, generator=generator(2))
    labels, distances, margins = assign(x, centers, metric)
    for i in range(300):
        cosine, gap = F.cosine_similarity(x[i], centers, dim=1), x[i] - centers
        all_distances = 1 - cosine if metric == "cosine" else gap.norm(dim=1)
        nearest = all_distances.sort().values
        assert labels[i] == all_distances.argmin()
        torch.testing.assert_close(distances[i], nearest[0], rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(margins[i], nearest[1] - nearest[0], rtol=1e-3, atol=1e-5)


def test_chunks_make_no_difference(monkeypatch):
    x, _ = blobs(500, 8, 6, 1.0)
    whole = kmeans(x, 6, generator=generator(), metric="euclidean")
    monkeypatch.setattr(
        "shoal.clustering.rows.Rows.chunks",
        lambda rows, _: ((slice(i, i + 7), rows[i : i + 7]) for i in range(0, len(rows), 7)),
    )
    chunked = kmeans(x, 6, generator=generator(), metric="euclidean")
    torch.testing.assert_close(chunked.labels, whole.labels)
    torch.testing.assert_close(chunked.centers, whole.centers)


@pytest.mark.parametrize("metric", METRICS)
def test_same_seed_same_clusters_with_any_number_of_threads(metric):
    x, _ = blobs(1000, 16, 8, 1.0)
    first, again = (kmeans(x, 8, generator=generator(3), metric=metric, n_init=2) for _ in range(2))
    assert torch.equal(first.labels, again.labels)
    assert torch.equal(first.centers, again.centers)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3 - min(threads, 2))
        other = kmeans(x, 8, generator=generator(3), metric=metric, n_init=2)
    finally:
        torch.set_num_threads(threads)
    torch.testing.assert_close(other.distances.sum(), first.distances.sum(), rtol=1e-4, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_accumulated_in_float32(dtype):
    # 5 000 equal values: a sum kept in half precision would stop growing at 2 048 (float16) or 256 (bfloat16).
    x = torch.ones(5000, 4, dtype=dtype)
    x[:2500] = -1
    found = kmeans(x, 2, generator=generator(), metric="euclidean")
    assert found.centers.dtype == torch.float32
    assert torch.equal(found.centers.sort(0).values, torch.tensor([[-1.0] * 4, [1.0] * 4]))


def test_float32_far_from_the_origin():
    x, truth = blobs(600, 4, 3, 0.1)
    far = x + 1e4
    assert adjusted_rand_score(truth, kmeans(far, 3, generator=generator(), metric="euclidean").labels) == 1.0


def test_float64_stays_float64():
    x = blobs(50, 3, 2)[0].double()
    assert kmeans(x, 2, generator=generator(), metric="euclidean").centers.dtype == torch.float64


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("k", [3, 5, 40])
def test_fewer_distinct_rows_than_clusters(metric, k):
    distinct = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]])
    found = kmeans(distinct.repeat(20, 1), k, generator=generator(), metric=metric)
    assert torch.isfinite(found.centers).all()
    assert found.labels.unique().numel() == 3
    torch.testing.assert_close(found.distances, torch.zeros(60), rtol=0, atol=1e-3)
    # Centres without rows stand on rows too, never at zero.
    assert torch.cdist(found.centers, F.normalize(distinct) if metric == "cosine" else distinct).amin(1).max() < 1e-5


def test_an_empty_cluster_moves_to_the_farthest_row():
    x = torch.cat([blobs(100, 2, 1, 0.1)[0], torch.tensor([[50.0, 50.0]])])
    start = torch.stack([x[0], torch.full((2,), -1e3)])
    found = kmeans(x, 2, generator=generator(), metric="euclidean", init=start)
    torch.testing.assert_close(found.centers[1], x[-1])
    assert found.labels.tolist() == [0] * 100 + [1]


def test_directions_that_cancel_leave_a_centre_of_unit_length():
    found = kmeans(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), 1, generator=generator(), metric="cosine")
    assert found.centers.norm() == 1
    assert found.labels.tolist() == [0, 0]


@pytest.mark.parametrize("metric", METRICS)
def test_one_cluster(metric):
    x = blobs(40, 3, 2)[0] + 3
    found = kmeans(x, 1, generator=generator(), metric=metric)
    mean = F.normalize(F.normalize(x, dim=1).mean(0), dim=0) if metric == "cosine" else x.mean(0)
    torch.testing.assert_close(found.centers[0], mean)
    assert assign(x, found.centers, metric)[2].isinf().all()


def test_as_many_clusters_as_rows():
    found = kmeans(torch.eye(6), 6, generator=generator())
    assert sorted(found.labels.tolist()) == list(range(6))


def test_max_iter_bounds_the_updates():
    x, _ = blobs(1000, 8, 20, 2.0)
    short, long = (Settings(20, "euclidean", x[:20], n_init=1, max_iter=most, tol=0.0) for most in (3, 300))
    assert run_kmeans(x, short, generator())[1] == 3
    assert 3 < run_kmeans(x, long, generator())[1] < 300


@pytest.mark.parametrize(
    ("change", "k", "metric", "sentence"),
    [
        (lambda x: x, 11, "cosine", "n_clusters=11 is more than there are rows"),
        (lambda x: x, 0, "cosine", "n_clusters=0 must be a whole number"),
        (lambda x: x.index_fill(0, torch.tensor([4]), torch.nan), 2, "euclidean", "1 of 10 rows of features hold NaN"),
        (lambda x: x.index_fill(0, torch.tensor([4]), torch.inf), 2, "cosine", "1 of 10 rows of features hold NaN"),
        (
            lambda x: x.index_fill(0, torch.tensor([4]), 0.0),
            2,
            "cosine",
            "a row of features is zero",
        ),
    ],
)
def test_bad_features(change, k, metric, sentence):
    with pytest.raises(UserError, match=sentence):
        kmeans(change(torch.randn(10, 3, generator=generator())), k, generator=generator(), metric=metric)


def test_bad_init():
    x = torch.randn(10, 3, generator=generator())
    with pytest.raises(
        UserError, match=r"initial centers \(3, 3\) does not match the number of clusters 2: give \(2, 3\)"
    ):
        kmeans(x, 2, generator=generator(), init=x[:3])
    with pytest.raises(UserError, match="init holds NaN"):
        kmeans(x, 2, generator=generator(), init=torch.full((2, 3), torch.nan))


def test_assign_refuses_what_has_no_distance():
    with pytest.raises(UserError, match="rows of features hold NaN"):
        assign(torch.full((2, 3), torch.nan), torch.eye(3), "euclidean")
    with pytest.raises(UserError, match="a row of features is zero"):
        assign(torch.zeros(2, 3), torch.eye(3), "cosine")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("metric", METRICS)
def test_gpu_agrees_with_cpu(metric):
    x, _ = blobs(5000, 32, 8, 0.5)
    on_cpu = kmeans(x, 8, generator=generator(), metric=metric)
    on_gpu = kmeans(x.cuda(), 8, generator=generator(), metric=metric)
    assert on_gpu.labels.is_cuda
    assert adjusted_rand_score(on_cpu.labels, on_gpu.labels.cpu()) > 0.999


def test_more_clusters_than_distinct_rows_in_large_data():
    """Of a cluster that has lost its rows, rounding may leave an inertia: there is nothing to split."""
    random = np.random.default_rng(63)
    m, more, d = int(random.integers(4, 12)), int(random.integers(1, 5)), int(random.integers(2, 5))
    rows = random.normal(size=(m, d)) * 10.0 ** random.integers(-3, 4, size=(m, 1))
    x = torch.from_numpy(rows[random.integers(0, m, 16_400)])
    found, n_iter = run_kmeans(x, Settings(m + more, "euclidean"), generator(1))
    assert found.distances.max() < 1e-9
    assert n_iter < 30  # a row that is its own centre but for rounding takes no other


@pytest.mark.parametrize("metric", METRICS)
def test_relocations_come_to_an_end(metric):
    x = torch.randn(5, 16, generator=generator(), dtype=torch.float64)[torch.arange(2000) % 5]
    found, n_iter = run_kmeans(x, Settings(9, metric), generator())
    assert n_iter < 30
    assert found.labels.unique().numel() == 5


def test_directions_that_differ_little_are_predicted_as_they_were_fitted():
    x = F.normalize(1 + 1e-6 * torch.randn(2000, 4, generator=generator()))
    found = kmeans(x, 40, generator=generator(), metric="cosine")
    assert (assign(x, found.centers, "cosine")[0] == found.labels).float().mean() > 0.95


@pytest.mark.parametrize("seed", range(4))
def test_a_sample_of_directions_has_the_few_that_are_far(seed):
    x = torch.cat([1 + 0.01 * torch.randn(100_000, 16, generator=generator(seed)), -20 * torch.eye(16)[:4]])
    sample, whole = coreset(Rows(x, "cosine"), 5, generator(seed), LOCAL)
    assert not whole
    assert (sample[:] < -0.9).any(0)[:4].all()
    torch.testing.assert_close(float(sample.each_weight.sum()), 100_004.0, rtol=0.02, atol=0)
