"""True labels never reach training."""

import dataclasses
import sys
from typing import ClassVar

import pytest
import torch
from tests.runs import new_run, tiny_images

from shoal.progress import Progress
from shoal.results import train as workflow


class Guarded(torch.Tensor):
    """Targets that raise when anything but evaluation, report or the table of assignments reads them."""

    shapes: ClassVar = {getattr(torch.Tensor, name).__get__ for name in ("shape", "dtype", "device", "ndim")}
    readers = (
        "shoal.evaluation",
        "shoal.report",
        "shoal.results.tables",
        "shoal.results.train",
        "shoal.features.store",
    )
    reads = 0

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func in cls.shapes:  # the shape checker of the tests
            return super().__torch_function__(func, types, args, kwargs or {})
        frame, names = sys._getframe(1), []
        while frame is not None:
            names.append(frame.f_globals.get("__name__", ""))
            frame = frame.f_back
        if not any(name.startswith(cls.readers) for name in names):
            raise AssertionError(f"{func} read labels outside evaluation: {names[:8]}")
        cls.reads += 1
        return super().__torch_function__(func, types, args, kwargs or {})


def guarded(images):
    return dataclasses.replace(images, targets=images.targets.as_subclass(Guarded))


def test_labels_that_raise_when_read_do_not_stop_training(tmp_path):
    Guarded.reads = 0
    workflow.train(new_run(tmp_path / "run", images=guarded(tiny_images())), Progress())
    assert Guarded.reads > 0, "nobody read the labels: this test sees nothing"


def test_the_guard_catches_a_trainer_that_peeks():
    labels = guarded(tiny_images()).targets
    with pytest.raises(AssertionError, match="outside evaluation"):
        _ = labels[0]


def test_other_targets_give_the_same_weights_bit_by_bit(tmp_path):
    one = tiny_images()
    two = dataclasses.replace(one, targets=torch.full_like(one.targets, -1), classes=())
    weights = []
    for name, images in (("one", one), ("two", two)):
        run = new_run(tmp_path / name, images=images)
        workflow.train(run, Progress())
        weights.append(run.method.state_dict())
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
