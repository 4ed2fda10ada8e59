"""Which new images are far from every cluster."""

import pytest
import torch

from shoal.results.far import Reference


def distances(features, centers, metric):
    if metric == "cosine":
        return 1 - torch.nn.functional.cosine_similarity(features[:, None], centers[None], dim=2)
    return torch.cdist(features, centers)


def drawn(n, spreads, centers, seed):
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(len(centers), n, centers.shape[1], generator=generator)
    return (centers[:, None] + torch.tensor(spreads)[:, None, None] * noise).flatten(0, 1)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("n", [12, 400])
def test_images_like_the_old_are_far_as_often_as_is_usual(metric, n):
    """With the distances as they are, 20 % of the new images would be far from clusters of 12."""
    true = 10 * torch.eye(60)[:4]
    old = drawn(n, [0.5, 1, 1, 2], true, 0)
    labels = torch.arange(4).repeat_interleave(n)
    centers = torch.stack([old[labels == each].mean(0) for each in range(4)])
    reference = Reference.of(labels, distances(old, centers, metric)[range(4 * n), labels], 4, metric)
    new = drawn(500, [0.5, 1, 1, 2], true, 1)
    distance, own = distances(new, centers, metric).min(1)
    share = float(reference.are_far(own, distance).float().mean())
    assert 0 < share < 4 * reference.share
    assert reference.share == pytest.approx(17 / 1601 if n == 400 else 1 / 49)


def test_groups_of_far_images_and_those_that_are_alone():
    true = 20 * torch.eye(12)
    old = drawn(100, [1.0, 1.0, 1.0], true[:3], 0)
    labels = torch.arange(3).repeat_interleave(100)
    centers = torch.stack([old[labels == each].mean(0) for each in range(3)])
    reference = Reference.of(labels, torch.cdist(old, centers)[range(300), labels], 3, "euclidean")
    new = torch.cat([drawn(10, [1.0, 1.0], true[3:5], 1), 40 * torch.eye(12)[7:9]])
    distance, own = torch.cdist(new, centers).min(1)
    assert reference.are_far(own, distance).all()
    assert reference.n_groups(new, own, "euclidean") == 2


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_groups_that_are_near_each_other_are_still_apart(metric):
    """Within two radii of the clusters' own, not of the distance from the origin."""
    true = torch.tensor([[10.0, 0, 0, 0], [10, 4, 0, 0], [10, 0, 4, 0]])
    new = drawn(10, [0.05, 0.05, 0.05], true + (0 if metric == "cosine" else 100), 0)
    radius = 0.01 if metric == "cosine" else 1.0
    reference = Reference([radius], 1.0, 1000, squares=metric == "cosine")
    assert reference.n_groups(new, torch.zeros(30, dtype=torch.int64), metric) == 3


def test_clusters_of_equal_images_and_images_in_none():
    labels = torch.tensor([0, 0, 0, 1, -1])
    reference = Reference.of(labels, torch.tensor([0.0, 0, 0, 0.5, 9]), 3, "euclidean")
    assert reference.are_far(torch.tensor([0, 2]), torch.tensor([0.0, 0.1])).tolist() == [False, True]
    nothing = Reference.of(torch.tensor([0]), torch.tensor([0.0]), 1, "cosine")
    assert not nothing.are_far(torch.tensor([0]), torch.tensor([1.0])).any()


def test_few_far_images_are_no_news():
    many = Reference((1.0,), 1.0, 10_000, squares=True)
    assert not many.is_unusual(0, 100)
    assert not many.is_unusual(1, 50)
    assert not many.is_unusual(3, 100)
    assert many.is_unusual(31, 400)
    assert many.is_unusual(2, 2)
    few = Reference((1.0,), 1.0, 20, squares=True)
    assert not few.is_unusual(3, 20)
    assert few.is_unusual(9, 20)


def test_the_alarm_is_raised_as_seldom_as_it_says():
    """Drawn alike, 100 old and 100 new values: at most one alarm in a hundred, though the percentile is an estimate."""
    generator = torch.Generator().manual_seed(0)
    values = torch.rand(2000, 200, generator=generator)
    far = values[:, :100].kthvalue(99, dim=1).values
    counts = (values[:, 100:] > far[:, None]).sum(1).tolist()
    reference = Reference((1.0,), 1.0, 100, squares=True)
    alarms = sum(reference.is_unusual(count, 100) for count in counts)
    assert 0 < alarms <= 2000 * 0.015


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize(("n", "k"), [(1, 3), (40, 12), (500, 7)])
def test_typical_distances_are_the_medians_of_the_clusters(metric, n, k):
    """Some clusters are empty or have one image, and some images are in none."""
    generator = torch.Generator().manual_seed(n)
    labels = torch.randint(-1, k, (n,), generator=generator)
    distance = torch.rand(n, generator=generator)
    power, own = 2 if metric == "cosine" else 1, {}
    for label, far in zip(labels.tolist(), distance.double().tolist(), strict=True):
        if label >= 0 and (m := int((labels == label).sum())) > 1:
            own.setdefault(label, []).append(far * (m / (m - 1)) ** power)
    everything = sorted(far for many in own.values() for far in many)
    overall = everything[(len(everything) - 1) // 2] if everything else 1
    found = Reference.of(labels, distance, k, metric)
    expected = [sorted(own[each])[(len(own[each]) - 1) // 2] if each in own else overall for each in range(k)]
    assert found.typical == pytest.approx(expected, rel=1e-12)
    ratios = sorted(far / expected[label] for label, many in own.items() for far in many)
    assert found.n == len(ratios)
    assert found.far == pytest.approx(ratios[-1 - len(ratios) // 100] if ratios else torch.inf, rel=1e-12)
