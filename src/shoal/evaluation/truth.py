"""True classes of images, and which images are the test part of their data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from shoal.clustering.contingency import whole_labels
from shoal.errors import UserError
from shoal.types import Images


@dataclass(frozen=True, eq=False)
class Truth:
    """True class of each row (-1: none), names of the classes, and which rows are held out or clustered.

    Arrays become tensors, and names of classes numbers. By default no row is held out and all are clustered.
    """

    targets: Int64[Tensor, "n"]
    held_out: Bool[Tensor, "n"] = None  # type: ignore[assignment]  # never None: see below
    clustered: Bool[Tensor, "n"] = None  # type: ignore[assignment]
    classes: Sequence[str] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.targets, Tensor) or self.targets.dtype != torch.int64:
            numbers, names = whole_labels(self.targets)
            object.__setattr__(self, "targets", torch.as_tensor(numbers).long())
            if names is not None:
                object.__setattr__(self, "classes", [str(name) for name in names])
        for name, usual in (("held_out", False), ("clustered", True)):
            given = getattr(self, name)
            marks = torch.full(self.targets.shape, usual) if given is None else torch.as_tensor(given, dtype=torch.bool)
            if marks.shape != self.targets.shape:
                raise UserError(f"{name} has shape {tuple(marks.shape)}: give {tuple(self.targets.shape)}.")
            object.__setattr__(self, name, marks)

    @classmethod
    def of(cls, images: Images) -> Truth:
        """The true classes of a data set."""
        return cls(images.targets, images.held_out, images.clustered, images.classes)

    @property
    def known(self) -> Bool[Tensor, "n"]:
        """Which rows have a label."""
        return self.targets >= 0

    @property
    def has_test_part(self) -> bool:
        """Whether both the train and the test part have labelled rows."""
        return bool((self.known & self.held_out).any() and (self.known & ~self.held_out).any())

    def train_and_test(self, generator: torch.Generator) -> tuple[Int64[Tensor, "a"], Int64[Tensor, "b"]]:
        """Labelled rows to train on and to test on: the data set's own split, or else a random fifth to test on.

        Args:
            generator: on the CPU; draws the random fifth.

        Raises:
            UserError: fewer than two rows have a label.
        """
        if self.has_test_part:
            parts = self.known & ~self.held_out, self.known & self.held_out
            train, test = (part.nonzero()[:, 0] for part in parts)
            return train, test
        rows = self.known.nonzero()[:, 0]
        if len(rows) < 2:
            raise UserError("a linear probe needs at least two labelled images, to train on and to test on.")
        order = rows[torch.randperm(len(rows), generator=generator)]
        n_test = max(1, len(rows) // 5)
        return order[n_test:], order[:n_test]

    def check_labelled(self, *, knn: bool, linear: bool, remedy: str) -> None:
        """Raise a UserError that ends with ``remedy`` if figures that need labels are wanted but there are none."""
        for wanted, name in ((linear, "a linear probe needs"), (knn, "nearest neighbours need")):
            if wanted and not self.known.any():
                raise UserError(f"{name} labels, and these images have none: {remedy}.")
