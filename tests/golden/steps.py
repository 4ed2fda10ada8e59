"""Whole training steps of the published implementations."""

from __future__ import annotations

from collections.abc import Mapping
from unittest import mock

import torch
from torch import Tensor

from shoal.methods import PCL, Method, MoCo, MoCoConfig, PCLConfig, ProPos, ProPosConfig, SimSiam, SimSiamConfig
from shoal.types import Batch, Clustering
from tests.golden import golden
from tests.golden.compare import Deviation, apart, backbone, backward, gradients, off, renamed, worst


def propos(version: str) -> Deviation:
    """One whole step of ProPos: both terms, all gradients, the target after its move."""
    data = golden(f"propos_{version}")
    views = "apart" if version == "v1" else "joined"
    method = ProPos(
        ProPosConfig(noise=0.0, hidden=20, dim=16, momentum=0.9, views=views), backbone(), 7, torch.Generator()
    )
    places = {
        "encoder_q": "online.0.network",
        "projector_q": "online.1",
        "encoder_k": "target.network.0.network",
        "projector_k": "target.network.1",
        "predictor": "predictor",
    }
    method.load_state_dict(renamed(data, "state", places))
    clustering = Clustering(data["pseudo_labels"], torch.zeros(7, 16), torch.zeros(24))
    method.after_step(0.5)
    terms = method(Batch(data["x1"], data["x2"], torch.arange(24)), (clustering,))
    backward(terms)
    method.before_step(0.5)
    constant = 2 if version == "v1" else 0  # v1 leaves the constant of 2 − 2·cos out
    psa = apart(terms["psa"], data["psa"] + constant)
    psl = apart(terms["psl"] / 0.1, data["psl"])
    state = worst({**gradients(method), **method.state_dict()}, renamed(data, "after", places))
    grad = worst(gradients(method), renamed(data, "grad", places))
    return Deviation(max(psa, psl), max(state, grad), "a whole step: both terms, every gradient, the target")


def simsiam() -> Deviation:
    """One whole step of SimSiam."""
    data = golden("simsiam")
    method = SimSiam(SimSiamConfig(dim=16, layers=2, bottleneck=4), backbone(), 7, torch.Generator())
    heads = {
        "projector.layer1.0": "online.1.0",
        "projector.layer1.1": "online.1.1",
        "projector.layer3.0": "online.1.3",
        "projector.layer3.1": "online.1.4",
        "predictor.layer1.0": "predictor.0",
        "predictor.layer1.1": "predictor.1",
        "predictor.layer2": "predictor.3",
    }
    method.load_state_dict(renamed(data, "state", {"encoder.0": "online.0.network", **heads}))
    terms = method(Batch(data["x1"], data["x2"], torch.arange(24)))
    backward(terms)
    grad = worst(gradients(method), renamed(data, "grad", {"backbone": "online.0.network", **heads}))
    return Deviation(apart(terms["simsiam"], data["loss"]), grad, "a whole step: loss, every gradient")


CONTRAST_PLACES = {
    "encoder_q.0": "online.0.network",
    "encoder_q.1": "online.1",
    "encoder_k.0": "target.network.0.network",
    "encoder_k.1": "target.network.1",
}


def load_contrast(method: Method, data: Mapping[str, Tensor]) -> None:
    """Put a golden step's weights and queue, whose columns are keys, into MoCo or PCL."""
    queue = {
        "queue.keys": data["state.queue"].T,
        "queue.index": torch.full((192,), -1),
        "queue.head": data["state.queue_ptr"][0],
    }
    method.load_state_dict({**renamed(data, "state", CONTRAST_PLACES), **queue})
    method.after_step(0.5)  # the published step moves the target first


def moco() -> Deviation:
    """One whole symmetric step of MoCo: loss, gradients, the queue after."""
    data = golden("moco_symmetric")
    config = MoCoConfig(temperature=0.1, momentum=0.9, queue=192, head="linear", dim=16)
    method = MoCo(config, backbone(), 7, torch.Generator())
    load_contrast(method, data)
    terms = method(Batch(data["x1"], data["x2"], torch.arange(24)))
    backward(terms)
    grad = worst(gradients(method), renamed(data, "grad", CONTRAST_PLACES))
    method.after_step(0.5)
    assert int(method.queue.head) == int(data["queue_ptr_after"][0])
    queue = off(method.queue.keys.T, data["queue_after"])
    note = "a whole symmetric step: loss, every gradient, the queue and its head"
    return Deviation(apart(terms["info_nce"], data["loss"]), max(grad, queue), note)


def pcl() -> Deviation:
    """One whole step of PCL at two granularities, with the drawn negatives put in the place of ours."""
    data = golden("pcl")
    config = PCLConfig(granularities=(7, 14), temperature=0.1, momentum=0.9, queue=192, head="linear", dim=16)
    method = PCL(config, backbone(), 7, torch.Generator())
    load_contrast(method, data)
    recorded = {k: data[f"negative_ids_{k}"] for k in (7, 14)}
    method._draw_negatives = lambda _labels, clustering: (recorded[len(clustering.centers)], torch.tensor(1))
    phi = {k: data[f"concentration_{k}"] for k in (7, 14)}
    clusterings = [Clustering(data[f"labels_{k}"], data[f"centers_{k}"], torch.zeros(24)) for k in (7, 14)]
    with mock.patch("shoal.methods.pcl.concentration", lambda _distances, _labels, k, _temperature: phi[k]):
        terms = method(Batch(data["x1"], data["x2"], torch.arange(24)), clusterings)
    backward(terms)
    loss = max(apart(terms["info_nce"], data["contrastive"]), apart(terms["proto_nce"], data["proto_nce"]))
    grad = worst(gradients(method), renamed(data, "grad", CONTRAST_PLACES))
    return Deviation(loss, grad, "a whole step with the recorded negatives: both terms, every gradient")
