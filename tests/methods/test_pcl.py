"""What the prototypes' temperatures are where clusters are degenerate; the rest is held to published values."""

import torch

from shoal.methods.pcl import LEAST, concentration


def test_clusters_of_copies_get_a_temperature_that_does_not_blow_up():
    labels = torch.arange(10).repeat_interleave(5)
    distances = torch.where(labels < 3, 0.0, 0.3 + 0.01 * labels)
    phi = concentration(distances, labels, 10, 0.1)
    assert phi.min() > 0.9 * LEAST * 0.1
    torch.testing.assert_close(phi.mean(), torch.tensor(0.1))


def test_without_any_spread_all_temperatures_are_the_same():
    phi = concentration(torch.zeros(12), torch.arange(12) % 4, 4, 0.5)
    torch.testing.assert_close(phi, torch.full((4,), 0.5))


def test_ordinary_clusters_are_left_to_the_percentiles():
    labels = torch.arange(10).repeat_interleave(5)
    distances = 0.2 + 0.05 * labels
    sums = torch.zeros(10, dtype=torch.float64).index_add(0, labels, distances.double())
    phi = sums / 5 / torch.tensor(15.0, dtype=torch.float64).log()
    phi = phi.clamp(phi.quantile(0.1), phi.quantile(0.9))
    torch.testing.assert_close(concentration(distances, labels, 10, 0.1), (0.1 * phi / phi.mean()).float())


def test_images_of_no_cluster_do_not_count():
    labels = torch.tensor([0, 0, 0, 1, 1, 1, -1, -1])
    distances = torch.tensor([0.2, 0.3, 0.4, 0.5, 0.6, 0.7, torch.nan, torch.nan])
    expected = concentration(distances[:6], labels[:6], 2, 0.1)
    torch.testing.assert_close(concentration(distances, labels, 2, 0.1), expected)
