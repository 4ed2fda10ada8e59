"""The contracts of ``Augmentation`` and ``ImageSource``."""

from __future__ import annotations

import torch
from torch import Tensor

from shoal.data import AUGMENTATIONS, Augmentation
from shoal.data.augmentation import applied, drawn
from shoal.data.reading import read_blob
from shoal.data.sources.own import own_source
from shoal.device import preserve_rng
from shoal.errors import UserError
from shoal.plugins import fault_line, place_of, words


def check_augmentation(augmentation: Augmentation | type[Augmentation]) -> None:
    """Check that an augmentation keeps the contract of ``Augmentation``, on random images.

    Args:
        augmentation: one with its settings, or its class, whose defaults are taken then.

    Raises:
        UserError: naming the first clause that is broken.
    """
    kind = augmentation if isinstance(augmentation, type) else type(augmentation)
    AUGMENTATIONS.check(kind)
    made = kind() if isinstance(augmentation, type) else augmentation
    views, size = torch.rand(6, 3, 12, 10, generator=torch.Generator().manual_seed(0)), (12, 10)

    def changed(rows: slice, view: int, before: int = 0) -> Tensor:
        torch.manual_seed(before)
        values = drawn(made, len(views), size, torch.Generator().manual_seed(3), view)
        return applied(made, views[rows].clone(), values[rows])

    breaks = f"{place_of(kind)}: the augmentation {kind.__name__} breaks the contract"
    with preserve_rng(torch.device("cpu")):
        try:
            found = [(changed(slice(6), v), changed(slice(6), v, 1), changed(slice(2, 4), v)) for v in (0, 1)]
        except (UserError, KeyboardInterrupt):
            raise
        except BaseException as error:
            line = fault_line(error)
            raise UserError(f"{breaks}: it fails{f' in line {line}' if line else ''}: {words(error)}.") from error
    for one, again, part in found:
        if not one.isfinite().all():
            raise UserError(f"{breaks}: the images must stay in [0, 1], but some values are NaN or infinite.")
        if not torch.equal(one, again):
            raise UserError(f"{breaks}: draw random numbers in draw alone, and from the generator that it is given.")
        if not torch.allclose(part, one[2:4], atol=1e-6):
            raise UserError(f"{breaks}: what becomes of an image must not depend on the others of its batch.")
        if not (one.min() >= -1e-6 and one.max() <= 1 + 1e-6):
            raise UserError(f"{breaks}: the images must stay in [0, 1], but reach {one.min():g} to {one.max():g}.")


def check_source(spec: str) -> None:
    """Check that the source of a plugin keeps the contract of ``ImageSource``: it is read, and read again.

    Raises:
        UserError: naming the first clause that is broken.
    """
    found = own_source(spec)
    listing = found.listing()
    first = [read_blob(blob)[1] for blob in listing.blobs_from(0)]
    again = [read_blob(blob)[1] for blob in listing.blobs_from(1)]
    if len(again) != len(first) - 1:
        raise UserError(f"{spec}: the images can be iterated over once only: blobs must begin anew on each call.")
    if again != first[1:]:
        raise UserError(f"{spec}: an image differs when it is read again: a spec must always give the same images.")
