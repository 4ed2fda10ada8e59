"""Some steps of a method on a device and on the CPU, with the same random numbers on both."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, replace
from unittest import mock

import torch
from tests.contract.examples import SMALL, batch, clusterings, method, total

from shoal import distributed, job
from shoal.device import autocast
from shoal.methods import METHODS
from shoal.models import Backbone, backbone, sync_batch_norm
from shoal.types import Batch

CPU = torch.device("cpu")
STEPS = 3
FIRST_OF_EACH = [next(each for each in SMALL if each.partition(",")[0] == name) for name in METHODS.ours()]
"""A variant of each method: every further one that is compiled takes seconds."""


@dataclass(frozen=True)
class Mode:
    """A way to compute a step, and how far its weights may come from those of float32 on the CPU."""

    precision: str
    tolerance: float
    compiled: bool = False
    graphs: bool = False


MODES = {
    "float32": Mode("float32", 1e-3),
    "bfloat16": Mode("bfloat16", 0.4),
    "compiled": Mode("float32", 1e-3, compiled=True),
    "compiled, bfloat16": Mode("bfloat16", 0.4, compiled=True),
    "CUDA graphs": Mode("float32", 1e-3, compiled=True, graphs=True),
}
"""Tolerances are shares of the way that the weights go. bfloat16 has 8 bits, and batch-norms of 24 images are steep: on
a CPU that computes in it the methods are up to 0.23 off."""


@contextmanager
def host_draws():
    """Draw what methods draw on their device from one generator of the host, and bring it there."""
    host = torch.Generator().manual_seed(0)

    def patched(name):
        draw = getattr(torch, name)

        def drawn(*size, generator=None, device=None, **settings):
            if generator is None:
                return draw(*size, device=device, **settings)
            return draw(*size, generator=host, **settings).to(device)

        return mock.patch.object(torch, name, drawn)

    with patched("rand"), patched("randn"), patched("randperm"):
        yield


def on(device, ours, seed=0):
    """A batch and clusterings on a device."""
    images = batch(seed)
    views = Batch(images.view1.to(device), images.view2.to(device), images.index.to(device))
    found = []
    for each in clusterings(ours):
        values = {name: value.to(device) for name, value in vars(each).items() if isinstance(value, torch.Tensor)}
        found.append(replace(each, **values))
    return views, tuple(found)


def weights(ours):
    """All that learns, in one vector on the CPU, whatever its layout in memory."""
    return torch.cat([each.detach().float().cpu().flatten() for each in ours.parameters() if each.requires_grad])


def steps(name, device, mode):
    """Loss terms of each of some steps, and how these move the weights."""
    ours = method(name).to(device)
    compiler = "inductor" if device.type == "cuda" else "aot_eager"
    optimizer = torch.optim.SGD(ours.param_groups(), lr=0.05, momentum=0.9)
    before, terms = weights(ours), []
    with host_draws(), mock.patch.object(backbone, "COMPILER", compiler):
        for part in ours.modules():
            if mode.compiled and isinstance(part, Backbone):
                part.compile_training("reduce-overhead" if mode.graphs and device.type == "cuda" else None)
        for step in range(STEPS):
            optimizer.zero_grad()
            if mode.graphs:
                torch.compiler.cudagraph_mark_step_begin()
            images, found = on(device, ours, step)
            with autocast(device, mode.precision):
                losses = ours(images, found)
            total(losses).backward()
            terms.append({each: float(value.detach()) for each, value in losses.items()})
            ours.before_step(0.5)
            optimizer.step()
            ours.after_step(0.5)
    return terms, weights(ours) - before


def deviation(terms, reference):
    """The largest difference between loss terms, relative where they are larger than 1."""
    return max(
        abs(mine[each] - theirs[each]) / max(1.0, abs(theirs[each]))
        for mine, theirs in zip(terms, reference, strict=True)
        for each in theirs
    )


def gradients_of_ranks():
    """Loss terms and gradients of every method, averaged over the ranks that share a batch; plain values."""
    with job.joined():
        device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else CPU
        torch.backends.cudnn.allow_tf32 = False
        found = {}
        for name in FIRST_OF_EACH:
            ours = sync_batch_norm(method(name)).to(device)
            mine = distributed.part(len(batch().index))
            images, clusters = on(device, ours)
            with host_draws():
                terms = ours(Batch(images.view1[mine], images.view2[mine], images.index), clusters)
            total(terms).backward()
            values = {f"term {each}": value.detach() for each, value in terms.items()}
            values |= {f"gradient {each}": p.grad for each, p in ours.named_parameters() if p.grad is not None}
            distributed.average([*values.values()])
            found[name] = {each: value.tolist() for each, value in values.items()}
        return found
