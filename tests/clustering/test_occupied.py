"""A clustering without its empty clusters predicts as if these had never been."""

import pytest
import torch
from tests.clustering.test_saved import KINDS, rows

from shoal.clustering import KMeans, clusterer_from, state_of
from shoal.clustering.occupied import renumbered, restricted

pytestmark = [
    pytest.mark.usefixtures("no_umap"),
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
]


def test_clusters_are_renumbered_in_their_order():
    labels, occupied = renumbered(torch.tensor([7, 2, -1, 2, 9]))
    assert labels.tolist() == [1, 0, -1, 0, 2]
    assert occupied.tolist() == [2, 7, 9]


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("clusterer", KINDS.values(), ids=KINDS)
def test_what_is_left_has_the_shares_of_what_is_gone(clusterer, metric):
    """Posteriors given that it is one of the clusters that are kept; UMAP's votes are counted among their rows."""
    fitted = clusterer.set_params(metric=metric).fit(rows())
    kept = torch.tensor([0, 2, 3])
    found = restricted(fitted, kept)
    assert type(found) is type(fitted)
    new = rows(20, seed=1)
    shares = found.predict_proba(new)
    assert shares.shape == (20, 3)
    torch.testing.assert_close(shares.sum(1), torch.ones(20))
    assert torch.equal(found.predict(new), shares.argmax(1))
    if type(fitted).__name__ == "UMAPKMeans":
        own = fitted.predict(new)
        sure = torch.isin(own, kept) & (fitted.predict_proba(new).amax(1) > 0.9)
        assert torch.equal(kept[found.predict(new)][sure], own[sure])
        return
    if "variance" in state_of(fitted)[0]:  # it is shared out among the dimensions of the centres that there are
        centers = torch.as_tensor(fitted.cluster_centers_)[kept]
        found.variance_ = fitted.variance_
        torch.testing.assert_close(found.cluster_centers_, centers, rtol=0, atol=0)
        shares = found.predict_proba(new)
    before = fitted.predict_proba(new)[:, kept]
    torch.testing.assert_close(shares, before / before.sum(1, keepdim=True), rtol=1e-4, atol=1e-6)
    again = clusterer_from(*state_of(found))
    torch.testing.assert_close(again.predict_proba(new), found.predict_proba(new), rtol=0, atol=0)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_copies_are_sure_of_their_cluster(metric):
    different = torch.randn(8, 16, generator=torch.Generator().manual_seed(0))
    copies = different.repeat_interleave(10, 0)
    fitted = KMeans(20, metric=metric, random_state=0).fit(copies)
    labels, occupied = renumbered(fitted.labels_)
    assert len(occupied) == 8
    found = restricted(fitted, occupied)
    assert torch.equal(found.predict(copies), labels)
    torch.testing.assert_close(found.predict_proba(copies).amax(1), torch.ones(80))
    assert found.n_clusters == 8


def test_the_variance_is_that_of_a_fit_with_so_many_clusters():
    x = rows()
    fitted = KMeans(3, n_init=1, random_state=0).fit(x)
    twin = KMeans.from_centers(torch.cat([fitted.cluster_centers_, fitted.cluster_centers_[:2]]), x)
    found = restricted(twin, torch.arange(3))
    assert found.variance_ == pytest.approx(fitted.variance_)
