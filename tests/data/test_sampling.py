import pytest
import torch

from shoal.data.batches import order_of_epoch, steps_of_epoch


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_an_epoch_visits_each_image_once():
    order = order_of_epoch(torch.ones(50, dtype=torch.bool), 8, None, generator())
    assert sorted(order.tolist()) == list(range(50))
    assert steps_of_epoch(50, 0, 8) == 6


@pytest.mark.parametrize(("n_clustered", "n_others"), [(10, 43), (43, 10), (3, 50), (20, 20)])
@pytest.mark.parametrize("batch", [8, 7])
def test_each_batch_is_half_of_either_kind(n_clustered, n_others, batch):
    clustered = torch.randperm(n_clustered + n_others, generator=generator()) < n_clustered
    order = order_of_epoch(clustered, batch, None, generator())
    steps = steps_of_epoch(n_clustered, n_others, batch)
    assert len(order) == steps * batch
    kinds = clustered[order].view(steps, batch)
    assert (kinds.sum(1) == batch - batch // 2).all()
    # The more numerous kind is seen once, but for what is left over; the other as often as that takes.
    seen = torch.bincount(order, minlength=len(clustered))
    many = seen[clustered] if n_clustered > n_others else seen[~clustered]
    few = seen[~clustered] if n_clustered > n_others else seen[clustered]
    assert many.max() <= 1 or n_clustered == n_others
    assert few.max() - few.min() <= 1
    # Kinds are mixed within a batch, so that every process gets some of both.
    assert not kinds[:, : batch - batch // 2].all() or steps == 1


def test_clusters_are_seen_equally_often_when_asked():
    labels = torch.tensor([0] * 900 + [1] * 90 + [2] * 10)
    order = order_of_epoch(torch.ones(1000, dtype=torch.bool), 10, labels, generator())
    assert torch.bincount(labels[order]).float().div(1000).sub(1 / 3).abs().max() < 0.05


def test_unclustered_images_are_drawn_evenly_beside_resampled_ones():
    clustered = torch.arange(300) < 100
    labels = torch.where(clustered, (torch.arange(300) >= 90).long(), -1)
    order = order_of_epoch(clustered, 20, labels, generator())
    share = (labels[order][clustered[order]] == 1).float().mean()
    assert 0.35 < share < 0.65
