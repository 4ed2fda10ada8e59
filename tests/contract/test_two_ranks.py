"""Two gloo ranks with half a batch each compute what one process does with the joined batch."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist

from shoal import distributed
from shoal.methods import Method
from shoal.models import Queue, split_batch_norm, sync_batch_norm
from shoal.types import Batch
from tests.contract.examples import SMALL, B, batch, clusterings, method, total
from tests.ranks import on_two_ranks


def outcome(ours: Method) -> dict[str, list]:
    """Loss terms, gradients, and the state after the step: averaged over ranks as data parallel training does."""
    mine = distributed.part(B)
    whole = batch()
    terms = ours(Batch(whole.view1[mine], whole.view2[mine], whole.index), clusterings(ours))
    total(terms).backward()
    found = {f"term {name}": term.detach() for name, term in terms.items()}
    found |= {f"gradient {name}": p.grad for name, p in ours.named_parameters() if p.grad is not None}
    for value in found.values():
        value.copy_(distributed.sum_over_ranks(value) / distributed.world_size())
    ours.before_step(0.5)
    ours.after_step(0.5)
    for name, part in ours.named_modules():
        if isinstance(part, Queue):
            found |= {f"{name} keys": part.keys, f"{name} index": part.index, f"{name} head": part.head}
        if isinstance(part, torch.nn.BatchNorm1d):
            found |= {f"{name} mean": part.running_mean, f"{name} variance": part.running_var}
    return {name: value.tolist() for name, value in found.items()}


def synchronised() -> dict[str, dict[str, list]]:
    """Every method, its batch-norm statistics those of the global batch."""
    return {name: outcome(sync_batch_norm(method(name))) for name in SMALL}


def split_over_ranks() -> dict[str, list]:
    """MoCo whose ranks keep their statistics to themselves."""
    assert dist.get_world_size() == 2
    return outcome(method("moco"))


@pytest.fixture(scope="module")
def ranks():
    return on_two_ranks(synchronised)


@pytest.fixture(scope="module")
def alone():
    return synchronised()


@pytest.mark.parametrize("name", SMALL)
def test_two_ranks_are_one_process(ranks, alone, name):
    for rank in ranks:
        assert rank[name].keys() == alone[name].keys()
        for what, value in alone[name].items():
            torch.testing.assert_close(
                torch.tensor(rank[name][what]),
                torch.tensor(value),
                rtol=1e-5,
                atol=1e-5,
                msg=lambda m, what=what: f"{name}, {what}: {m}",
            )


def test_split_statistics_on_one_device_are_those_of_two():
    """What a MoCo recipe chooses on one device is what two devices do by nature."""
    one = outcome(split_batch_norm(method("moco"), 2))
    for rank in on_two_ranks(split_over_ranks):
        for what in (name for name in one if name.startswith(("term", "gradient", "queue"))):
            torch.testing.assert_close(torch.tensor(rank[what]), torch.tensor(one[what]), rtol=1e-5, atol=1e-5)
