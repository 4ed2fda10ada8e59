"""Which rows an evaluation trains on and which it tests on."""

import dataclasses

import pytest
import torch
from tests.evaluation.examples import truth_of
from tests.runs import tiny_images

from shoal.errors import UserError
from shoal.evaluation import Truth


def split(truth, seed=0):
    train, test = truth.train_and_test(torch.Generator().manual_seed(seed))
    return train.tolist(), test.tolist()


def test_the_data_sets_own_parts_come_first():
    truth = truth_of(torch.tensor([0, 1, -1, 0, -1, 1]), n_test=2)
    assert truth.has_test_part
    assert split(truth) == ([0, 1, 3], [5])


def test_without_parts_a_random_fifth_of_the_labelled_is_the_test():
    labels = torch.arange(50) % 3
    labels[10:20] = -1
    truth = truth_of(labels)
    train, test = split(truth)
    assert not truth.has_test_part
    assert (len(train), len(test)) == (32, 8)
    assert sorted(train + test) == truth.known.nonzero()[:, 0].tolist()
    assert split(truth) == (train, test)
    assert split(truth, seed=1) != (train, test)


@pytest.mark.parametrize("part", [slice(4, 6), slice(0, 4)])
def test_parts_of_which_one_has_no_labels_are_none(part):
    labels = torch.tensor([0, 1, 0, 1, 0, 1])
    labels[part] = -1
    assert not truth_of(labels, n_test=2).has_test_part


def test_one_labelled_image_is_too_few():
    with pytest.raises(UserError, match="at least two labelled images"):
        split(truth_of(torch.tensor([-1, 0, -1])))


def test_labels_are_asked_for_where_they_are_needed():
    bare = truth_of(torch.full((4,), -1))
    bare.check_labelled(knn=False, linear=False, remedy="give some")
    with pytest.raises(UserError, match=r"^a linear probe needs labels, and these images have none: give some\.$"):
        bare.check_labelled(knn=True, linear=True, remedy="give some")
    with pytest.raises(UserError, match=r"^nearest neighbours need labels"):
        bare.check_labelled(knn=True, linear=False, remedy="give some")
    truth_of(torch.tensor([-1, 0])).check_labelled(knn=True, linear=True, remedy="give some")


def test_a_data_set_says_it_all():
    images = dataclasses.replace(tiny_images(8), held_out=torch.arange(8) > 5)
    truth = Truth.of(images)
    assert torch.equal(truth.targets, images.targets)
    assert truth.held_out is images.held_out
    assert truth.clustered is images.clustered
    assert truth.classes == images.classes
