"""Losses, schedules, clusterings and scores of the published implementations, one by one."""

from __future__ import annotations

import torch

from shoal.clustering import GaussianMixture
from shoal.clustering.kmeans import assign, kmeans
from shoal.clustering.temi.heads import log_probabilities, temi_loss, update_marginal
from shoal.config import OptimConfig
from shoal.evaluation import clustering_scores, knn_predict
from shoal.learning.questions import density, hardness, most_valuable
from shoal.losses import (
    balanced_cross_entropy,
    cluster_concentration,
    cluster_contrast,
    cluster_entropy,
    coding_rate,
    confident_labels,
    consistent_labels,
    info_nce,
    nt_xent,
    prototype_repulsion,
    prototype_scattering,
    prototypes,
    ruled_out_loss,
    spread_of_views,
)
from shoal.methods.pcl import concentration
from shoal.models import momentum_at
from shoal.training.optim import _lars, lr_factor, set_lr
from tests.golden import golden
from tests.golden.compare import Deviation, apart, off, worst


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


def info_nce_queue() -> Deviation:
    """InfoNCE alone."""
    data = golden("info_nce_queue")
    query = data["q"].clone().requires_grad_()
    loss = info_nce(query, data["k"], data["queue"], float(data["temperature"]))
    loss.backward()
    return Deviation(apart(loss, data["loss"]), off(query.grad, data["grad_q"]), "loss and gradient")


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
    """How three steps move a weight and a bias."""
    data = golden("lars")
    weight, bias = (data[name].clone().requires_grad_() for name in ("weight", "bias"))
    assert float(data["trust_coefficient"]) == 0.001
    optimizer = _lars([{"params": [weight, bias]}], float(data["momentum"]), float(data["weight_decay"]))
    set_lr(optimizer, float(data["lr"]), 1.0)
    for of_weight, of_bias in zip(data["grads_weight"], data["grads_bias"], strict=True):
        weight.grad, bias.grad = of_weight, of_bias
        optimizer.step()
    moved = {"weight": weight.detach() - data["weight"], "bias": bias.detach() - data["bias"]}
    theirs = {name: data[f"{name}_after"] - data[name] for name in moved}
    return Deviation(state=worst(moved, theirs), note="the movement over three steps, of weights and biases")


def idc() -> Deviation:
    """The value of a question, which twelve are asked, the fine-tuning's losses and its confident labels."""
    data = golden("idc")
    x = data["features"]
    top = (x @ torch.nn.functional.normalize(data["class_means"], dim=1).T).topk(2).values
    hard, dense = hardness(top[:, 0] - top[:, 1]), density(torch.cdist(x, x).topk(20, largest=False).values[:, 1:])
    nobody = torch.zeros(len(x), dtype=torch.bool)
    assert most_valuable(x, hard + dense, nobody, ~nobody, 12) == data["selected"].tolist()
    labels = confident_labels(data["probs"], data["pseudo_before"], share=float(data["gamma_easy"]))
    assert torch.equal(labels, data["pseudo_after"])
    losses, gradients = [], []
    for name, loss in (("pos", balanced_cross_entropy), ("neg", ruled_out_loss)):
        logits = data["logits"].clone().requires_grad_()
        found = loss(logits, data[f"{name}_labels"])
        found.backward()
        losses.append(apart(found, data[f"{name}_loss"]))
        gradients.append(off(logits.grad, data[f"grad_{name}"]))
    state = max(*gradients, off(hard, data["hardness"]), off(dense, data["representativeness"]))
    return Deviation(max(losses), state, "value and order of questions; L_pos, L_neg and gradients, confident labels")


def dcboost() -> Deviation:
    """The filter, and what the equations give: L_pos by its double sum, L_neg as a sum and as a mean over pairs."""
    data = golden("dcboost")
    target, k = data["teacher"], int(data["labels"].max()) + 1
    labels = consistent_labels(target, data["labels"], int(data["m"]))
    assert torch.equal(labels, data["labels"].where(data["keep"], -1))
    losses, gradients = [apart(prototype_repulsion(data["online_raw"], target, labels, k), data["neg_mean"])], []
    for name, loss in (
        ("pos", lambda z: cluster_concentration(z, target, labels, k)),
        ("neg_sum", lambda z: prototype_repulsion(z, target, labels, k, "sum")),
    ):
        online = data["online_raw"].clone().requires_grad_()
        found = loss(online)
        found.backward()
        losses.append(apart(found, data[name]))
        gradients.append(off(online.grad, data[f"grad_{name}"]))
    return Deviation(max(losses), max(gradients), "no published code: the equations; which rows are kept, both losses")


def emp_ssl() -> Deviation:
    """EMP-SSL's two terms of five views of seven images, and the gradient of their weighted sum."""
    data = golden("emp_ssl")
    rows = data["z_raw"].clone().requires_grad_()
    z = rows.view(int(data["num_patches"]), -1, rows.shape[1])
    spread, rate = spread_of_views(z), coding_rate(z)
    loss = 200 * spread - rate
    loss.backward()
    found = max(apart(spread, data["sim"]), apart(rate, -data["tcr"]), apart(loss, data["loss"]))
    return Deviation(found, off(rows.grad, data["grad"]), "both terms and their sum; gradient")


def temi() -> Deviation:
    """TEMI's loss of three heads with its gradient, and the use of each cluster, which is updated before it."""
    data = golden("temi")
    marginal = data["pk_before"].clone()
    student = data["student"].clone().requires_grad_()
    teacher = log_probabilities(data["teacher"].mT)
    update_marginal(marginal, teacher)
    losses = temi_loss(log_probabilities(student.mT), teacher, marginal, beta=float(data["beta"]))
    losses.mean().backward()
    return Deviation(
        float((losses.detach() - data["loss_per_head"]).abs().max()),
        max(off(student.grad, data["grad"]), off(marginal, data["pk_after"])),
        "loss of each head; gradient of their mean, use of each cluster",
    )
