"""Too few images for what is asked of a step: the setting that is to blame is named."""

import dataclasses

import pytest
from tests.runs import tiny_config

from shoal import distributed
from shoal.errors import UserError
from shoal.methods import BYOLConfig, MoCoConfig, PCLConfig, ProPosConfig, SimCLRConfig
from shoal.training.settings import check_fits


def config(method, batch_size=3, accumulate=1):
    """Of a run with this method, in steps of this many images."""
    base = tiny_config(n_clusters=2)
    optim = dataclasses.replace(base.optim, batch_size=batch_size, accumulate=accumulate)
    return dataclasses.replace(base, method=method, optim=optim)


@pytest.mark.parametrize("kind", [MoCoConfig, PCLConfig])
def test_splits_are_blamed_where_they_are_the_cause(kind):
    with pytest.raises(
        UserError, match=r"3 images a step are too few for 8 parts of two or more: lower --method\.bn-sp"
    ):
        check_fits(config(kind(bn_splits=8)), 3, 3)
    with pytest.raises(UserError, match=r"lower --optim\.accumulate or --method\.bn-splits"):
        check_fits(config(kind(bn_splits=4), accumulate=2), 3, 3)


def test_accumulation_is_blamed_where_it_is_the_cause():
    with pytest.raises(UserError, match=r"for 2 parts of two or more: lower --optim\.accumulate\.$"):
        check_fits(config(ProPosConfig(), accumulate=2), 3, 3)


def test_processes_are_blamed_where_they_are_the_cause(monkeypatch):
    monkeypatch.setattr(distributed, "world_size", lambda: 4)
    with pytest.raises(UserError, match=r"in each of 4 processes: lower the number of processes\.$"):
        check_fits(config(SimCLRConfig()), 3, 3)


@pytest.mark.parametrize("kind", [ProPosConfig, BYOLConfig])
def test_one_image_at_once_with_views_apart(kind, monkeypatch):
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    with pytest.raises(UserError, match="each pass has a single image"):
        check_fits(config(kind(views="apart"), batch_size=2), 8, 8)
    check_fits(config(kind(views="joined"), batch_size=2), 8, 8)
    check_fits(config(kind(views="apart"), batch_size=4), 8, 8)


def test_one_image():
    with pytest.raises(UserError, match="there is 1 image: training compares images, so give at least two"):
        check_fits(config(ProPosConfig()), 1, 1)


def test_a_cosine_of_which_the_warm_up_leaves_nothing():
    base = config(ProPosConfig())
    optim = dataclasses.replace(base.optim, schedule="epoch", warmup_epochs=base.epochs)
    with pytest.raises(UserError, match="the rate would be 0 throughout"):
        check_fits(dataclasses.replace(base, optim=optim), 8, 8)
    check_fits(dataclasses.replace(base, optim=dataclasses.replace(optim, schedule="iteration")), 8, 8)
