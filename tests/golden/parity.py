"""How far shoal is from the published implementations, golden file by golden file.

    python -m tests.golden.parity        # writes docs/parity.md

Every check returns the largest deviation of a loss or score (absolute) and of a gradient or state (relative to the
largest value of its tensor); ``tests/golden/test_parity.py`` holds each to its bound.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import torch
from torch import Tensor, nn

from shoal.clustering import GaussianMixture, assign, kmeans
from shoal.config import OptimConfig
from shoal.evaluation import clustering_scores, knn_predict
from shoal.lars import LARS
from shoal.losses import (
    cluster_contrast,
    cluster_entropy,
    info_nce,
    nt_xent,
    prototype_scattering,
    prototypes,
)
from shoal.methods import PCL, Method, MoCo, MoCoConfig, PCLConfig, ProPos, ProPosConfig, SimSiam, SimSiamConfig
from shoal.methods.pcl import concentration
from shoal.models import Backbone, momentum_at
from shoal.training.schedule import lr_factor
from shoal.types import Batch, Clustering
from tests.golden import golden

LOSS_BOUND, STATE_BOUND = 1e-5, 1e-4
PAGE = Path(__file__).parents[2] / "docs" / "parity.md"


@dataclass(frozen=True)
class Deviation:
    """Largest deviations found, of losses and scores and of gradients and states; None where the file holds none."""

    loss: float | None = None
    state: float | None = None
    note: str = ""


def backbone() -> Backbone:
    """The backbone of all golden steps: flatten, Linear, ReLU."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(48, 12), nn.ReLU())
    return Backbone(network, 12, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


def renamed(data: Mapping[str, Tensor], kind: str, places: Mapping[str, str]) -> dict[str, Tensor]:
    """Tensors of a golden step by the names our module gives them."""
    found = {}
    for name, value in data.items():
        for theirs, ours in places.items():
            if name.startswith(f"{kind}.{theirs}."):
                found[ours + name.removeprefix(f"{kind}.{theirs}")] = value
    return found


def off(ours: Tensor, theirs: Tensor) -> float:
    """Largest deviation, relative to the largest of their values."""
    scale = theirs.double().abs().max().clamp(min=1e-30)
    # Gradients that are zero in exact arithmetic (a bias before a batch-norm) are noise on both sides.
    return 0.0 if scale < 1e-6 else float((ours.detach().double() - theirs.double()).abs().max() / scale)


def apart(ours: Tensor, theirs: Tensor | float) -> float:
    """Absolute deviation of a scalar."""
    return abs(float(ours.detach() - theirs))


def worst(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> float:
    """The largest of many relative deviations; every one of their tensors must have ours."""
    return max(off(ours[name], value) for name, value in theirs.items())


def gradients(method: nn.Module) -> dict[str, Tensor]:
    """Gradient of each trainable parameter by its name."""
    return {name: p.grad for name, p in method.named_parameters() if p.requires_grad and p.grad is not None}


def backward(terms: Mapping[str, Tensor]) -> None:
    """As the trainer does it."""
    torch.stack(list(terms.values())).sum().backward()


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


def scattering() -> Deviation:
    """The PSL term with its gradient, which we normalise for and they do not."""
    data = golden("prototype_scattering")
    online = data["q"].clone().requires_grad_()
    loss = prototype_scattering(online, data["k"], data["labels"], int(data["n_clusters"]), float(data["temperature"]))
    loss.backward()
    radial = (data["grad_q"] * data["q"]).sum(-1, keepdim=True) * data["q"]
    return Deviation(
        apart(loss, data["loss"]),
        off(online.grad, data["grad_q"] - radial),
        "their gradient less its radial part: ours normalises inside",
    )


def soft_centers() -> Deviation:
    """Prototypes from soft assignments."""
    data = golden("soft_centers")
    return Deviation(state=off(prototypes(data["x"], data["assignment"]), data["centers"]), note="prototypes")


def simclr(temperature: str) -> Deviation:
    """NT-Xent with both gradients."""
    data = golden(f"nt_xent_t{temperature}")
    z1, z2 = (data[name].clone().requires_grad_() for name in ("z1", "z2"))
    loss = nt_xent(z1, z2, float(data["temperature"]))
    loss.backward()
    grad = max(off(z1.grad, data["grad_z1"]), off(z2.grad, data["grad_z2"]))
    return Deviation(apart(loss, data["loss"]), grad, "loss and gradients")


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


def info_nce_queue() -> Deviation:
    """InfoNCE alone."""
    data = golden("info_nce_queue")
    query = data["q"].clone().requires_grad_()
    loss = info_nce(query, data["k"], data["queue"], float(data["temperature"]))
    loss.backward()
    return Deviation(apart(loss, data["loss"]), off(query.grad, data["grad_q"]), "loss and gradient")


def pcl() -> Deviation:
    """One whole step of PCL at two granularities, with the drawn negatives put in the place of ours."""
    data = golden("pcl")
    config = PCLConfig(granularities=(7, 14), temperature=0.1, momentum=0.9, queue=192, head="linear", dim=16)
    method = PCL(config, backbone(), 7, torch.Generator())
    load_contrast(method, data)
    recorded = {k: data[f"negative_ids_{k}"] for k in (7, 14)}
    method._draw_negatives = lambda _labels, k: (recorded[k], torch.tensor(1))
    phi = {k: data[f"concentration_{k}"] for k in (7, 14)}
    clusterings = [Clustering(data[f"labels_{k}"], data[f"centers_{k}"], torch.zeros(24)) for k in (7, 14)]
    with mock.patch("shoal.methods.pcl.concentration", lambda _distances, _labels, k, _temperature: phi[k]):
        terms = method(Batch(data["x1"], data["x2"], torch.arange(24)), clusterings)
    backward(terms)
    loss = max(apart(terms["info_nce"], data["contrastive"]), apart(terms["proto_nce"], data["proto_nce"]))
    grad = worst(gradients(method), renamed(data, "grad", CONTRAST_PLACES))
    return Deviation(loss, grad, "a whole step with the recorded negatives: both terms, every gradient")


def pcl_concentration() -> Deviation:
    """The temperatures of the prototypes."""
    data = golden("pcl_concentration")
    distances = (data["features"] - data["centers"][data["labels"]]).norm(dim=1)
    ours = concentration(distances, data["labels"], len(data["centers"]), float(data["temperature"]))
    return Deviation(state=off(ours, data["concentration"]), note="every prototype's temperature")


def cc() -> Deviation:
    """Both heads of CC with their gradients."""
    data = golden("cc")
    c1, c2, z1, z2 = (data[name].clone().requires_grad_() for name in ("c1", "c2", "z1", "z2"))
    cluster = cluster_contrast(c1, c2, float(data["cluster_temperature"]))
    entropy = cluster_entropy(c1) + cluster_entropy(c2)
    instance = nt_xent(z1, z2, float(data["instance_temperature"]))
    (cluster + entropy + instance).backward()
    found = {"cluster_loss": cluster, "entropy_loss": entropy, "instance_loss": instance}
    loss = max(apart(value, data[name]) for name, value in found.items())
    grads = {"grad_c1": c1.grad, "grad_c2": c2.grad, "grad_z1": z1.grad, "grad_z2": z2.grad}
    return Deviation(loss, worst(grads, {name: data[name] for name in grads}), "three terms, every gradient")


def schedules() -> Deviation:
    """Both learning rates and the rising momentum, over 100 steps."""
    data = golden("schedules")
    epochs, steps, warmup = (int(data[name]) for name in ("epochs", "iters_per_epoch", "warmup_epochs"))
    base = float(data["base_lr"])
    found = {}
    for schedule, name in (("iteration", "lr_cosine"), ("epoch", "lr_cosine_epochwise")):
        config = OptimConfig(warmup_epochs=warmup, schedule=schedule)
        found[name] = torch.tensor([base * lr_factor(step, steps, epochs, config) for step in range(epochs * steps)])
    n = epochs * steps
    rising = [momentum_at((step + 1) / n, float(data["ema_base"]), rising=True) for step in range(n)]
    found["ema_cosine"] = torch.tensor(rising)
    return Deviation(state=worst(found, {name: data[name] for name in found}), note="rates and EMA momentum by step")


def kmeans_euclidean() -> Deviation:
    """Lloyd from given centres to convergence."""
    data = golden("kmeans_euclidean")
    start = {"generator": torch.Generator(), "metric": "euclidean", "init": data["init"]}
    ours = kmeans(data["X"], len(data["init"]), **start)
    assert torch.equal(ours.labels, data["labels"])
    inertia = apart(ours.distances.sum() / data["inertia"], 1)
    return Deviation(inertia, off(ours.centers, data["centers"]), "all labels; inertia (relative), centres")


def kmeans_cosine() -> Deviation:
    """Assignment to the published centres; the note says why not the centres themselves."""
    data = golden("kmeans_cosine")
    labels, distances, _ = assign(data["X"], data["centers"], "cosine")
    assert torch.equal(labels, data["labels"])
    note = "all labels and the inertia (relative) at the published centres; ours then stay on the sphere, theirs do not"
    return Deviation(apart(distances.sum() / data["inertia"], 1), note=note)


def gmm(kind: str) -> Deviation:
    """EM from the clusters of k-means from given centres, to the published end of the run."""
    data = golden(f"gmm_{kind}")
    start = kmeans(data["X"], 7, generator=torch.Generator(), metric="euclidean", init=data["init"])
    ours = GaussianMixture(7, covariance_type=kind, tol=1e-6, means_init=start.centers).fit(data["X"])
    state = {
        "means": ours.means_,
        "covariances": ours.covariances_.view_as(data["covariances"]),
        "weights": ours.weights_,
        "responsibilities": ours.predict_proba(data["X"]),
    }
    bound = abs(ours.lower_bound_ - float(data["lower_bound"]))
    note = "lower bound; means, covariances, weights, responsibilities"
    return Deviation(bound, worst(state, {name: data[name] for name in state}), note)


def metrics(which: str) -> Deviation:
    """Four scores of a pair of labellings."""
    data = golden(f"metrics_{which}")
    ours = clustering_scores(data["labels"], data["pred"])
    return Deviation(
        max(abs(ours[n] - float(data[n])) for n in ("acc", "nmi", "ari", "fmi")), note="ACC, NMI, ARI, FMI"
    )


def knn() -> Deviation:
    """The ranking of all classes for all queries."""
    data = golden("knn")
    ranked = knn_predict(data["query"], data["bank"], data["bank_labels"], int(data["k"]), float(data["temperature"]))
    assert torch.equal(ranked, data["ranked"])
    top1 = float((ranked[:, 0] == data["query_labels"]).double().mean())
    return Deviation(abs(top1 - float(data["top1"])), note="all rankings, top-1")


def lars() -> Deviation:
    """Three steps on a weight and a bias."""
    data = golden("lars")
    weight, bias = (data[name].clone().requires_grad_() for name in ("weight", "bias"))
    optimizer = LARS(
        [{"params": [weight]}, {"params": [bias], "adapt": False}],
        lr=float(data["lr"]),
        momentum=float(data["momentum"]),
        weight_decay=float(data["weight_decay"]),
        trust_coefficient=float(data["trust_coefficient"]),
    )
    for of_weight, of_bias in zip(data["grads_weight"], data["grads_bias"], strict=True):
        weight.grad, bias.grad = of_weight, of_bias
        optimizer.step()
    return Deviation(
        state=max(off(weight, data["weight_after"]), off(bias, data["bias_after"])), note="three steps, both kinds"
    )


CHECKS: dict[str, Callable[[], Deviation]] = {
    "propos_v1": lambda: propos("v1"),
    "propos_v2": lambda: propos("v2"),
    "prototype_scattering": scattering,
    "soft_centers": soft_centers,
    "nt_xent_t1.0": lambda: simclr("1.0"),
    "nt_xent_t0.2": lambda: simclr("0.2"),
    "simsiam": simsiam,
    "moco_symmetric": moco,
    "info_nce_queue": info_nce_queue,
    "pcl": pcl,
    "pcl_concentration": pcl_concentration,
    "cc": cc,
    "schedules": schedules,
    "lars": lars,
    "kmeans_euclidean": kmeans_euclidean,
    "kmeans_cosine": kmeans_cosine,
    "gmm_diag": lambda: gmm("diag"),
    "gmm_spherical": lambda: gmm("spherical"),
    "metrics_a": lambda: metrics("a"),
    "metrics_b": lambda: metrics("b"),
    "knn": knn,
}

HEAD = f"""\
# Parity

Written by `python -m tests.golden.parity`. Every file in `tests/golden/` holds inputs and outputs of one piece of the
published implementations, computed once by them on a CPU in float32. `pytest tests/golden` holds each row to the
bounds: {LOSS_BOUND:g} for losses and scores (absolute, where the row does not say relative), {STATE_BOUND:g} for
gradients, weights, queues and features (relative to the largest value of the tensor).

| golden file | loss or score | gradient or state | what is compared |
|---|---|---|---|
"""


def page() -> str:
    """The table as Markdown."""

    def shown(value: float | None) -> str:
        return "" if value is None else f"{value:.1e}"

    rows = []
    for name, check in CHECKS.items():
        found = check()
        rows.append(f"| `{name}` | {shown(found.loss)} | {shown(found.state)} | {found.note} |\n")
    return HEAD + "".join(rows)


if __name__ == "__main__":
    PAGE.write_text(page())
    print(PAGE)
