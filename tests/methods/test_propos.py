import dataclasses

import pytest
import torch
from tests.golden import golden
from torch import Tensor, nn

from shoal.methods import BYOL, BYOLConfig, ProPos, ProPosConfig
from shoal.models import Backbone
from shoal.types import Batch, Clustering

PLACES = {
    "encoder_q": "online.0.network",
    "projector_q": "online.1",
    "encoder_k": "target.network.0.network",
    "projector_k": "target.network.1",
    "predictor": "predictor",
}


def backbone() -> Backbone:
    network = nn.Sequential(nn.Flatten(), nn.Linear(48, 12), nn.ReLU())
    return Backbone(network, 12, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


def under_our_names(data: dict[str, Tensor], kind: str) -> dict[str, Tensor]:
    """Tensors of a golden step by the names our module gives them."""
    found = {}
    for name, value in data.items():
        head, _, rest = name.partition(".")
        part, _, rest = rest.partition(".")
        if head == kind and part in PLACES:
            found[f"{PLACES[part]}.{rest}"] = value
    return found


def published_step(version: str, config: ProPosConfig | BYOLConfig):
    """Our method in the state of a golden step, its batch, and the golden data."""
    data = golden(f"propos_{version}")
    kind = ProPos if isinstance(config, ProPosConfig) else BYOL
    config = dataclasses.replace(
        config, hidden=20, dim=16, momentum=0.9, views={"v1": "apart", "v2": "joined"}[version]
    )
    method = kind(config, backbone(), 7, torch.Generator())
    method.load_state_dict(under_our_names(data, "state"))
    batch = Batch(data["x1"], data["x2"], torch.arange(24))
    clustering = Clustering(data["pseudo_labels"], torch.zeros(7, 16), torch.zeros(24))
    return method, batch, clustering, data


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_one_step_equals_the_published_one(version):
    """Loss terms, gradients of every parameter, and the target after its move with its batch-norm statistics."""
    method, batch, clustering, data = published_step(version, ProPosConfig(noise=0.0))
    method.after_step(0.5)  # moves the target before the loss, in the flavour that does
    terms = method(batch, (clustering,))
    torch.stack(list(terms.values())).sum().backward()
    method.before_step(0.5)  # moves it after the loss, in the other

    psa = data["psa"] + (2 if version == "v1" else 0)  # v1 leaves the constant of 2 − 2·cos out
    assert terms["psa"].item() == pytest.approx(float(psa), abs=1e-5)
    assert terms["psl"].item() == pytest.approx(0.1 * float(data["psl"]), abs=1e-6)
    gradients = {name: p.grad for name, p in method.named_parameters() if p.requires_grad}
    expected = under_our_names(data, "grad")
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")
    state = method.state_dict()
    for name, value in under_our_names(data, "after").items():
        torch.testing.assert_close(state[name], value, rtol=1e-4, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_byol_is_propos_without_noise_and_scattering(version):
    ours, batch, _, _ = published_step(version, BYOLConfig())
    propos, *_ = published_step(version, ProPosConfig(noise=0.0, psl_weight=0.0))
    assert torch.equal(ours(batch)["byol"], propos(batch)["psa"])


def test_neighbours_are_sampled_at_the_given_distance_once_there_are_clusters():
    method, batch, clustering, _ = published_step("v2", ProPosConfig(noise=0.5))
    assert torch.equal(method(batch)["psa"], method(batch)["psa"])
    assert not torch.equal(method(batch, (clustering,))["psa"], method(batch)["psa"])
    z = torch.zeros(4000, 16)
    assert method._sample_neighbour(z).std().item() == pytest.approx(0.5, rel=0.02)


def test_images_of_no_cluster_take_part_in_alignment_only():
    method, batch, clustering, _ = published_step("v2", ProPosConfig(noise=0.0))
    nobody = dataclasses.replace(clustering, labels=torch.full((24,), -1))
    terms = method(batch, (nobody,))
    assert terms["psl"].item() == 0
    assert torch.equal(terms["psa"], method(batch)["psa"])


def test_no_gradient_reaches_the_target():
    method, batch, clustering, _ = published_step("v1", ProPosConfig())
    sum(method(batch, (clustering,)).values()).backward()
    assert all(p.grad is None for p in method.target.parameters())
    assert all(p.grad is not None for p in (*method.online.parameters(), *method.predictor.parameters()))


def test_the_predictor_starts_near_zero_and_learns_faster():
    method = ProPos(ProPosConfig(), backbone(), 7, torch.Generator())
    linears = [m for m in method.predictor if isinstance(m, nn.Linear)]
    assert all(layer.weight.std().item() == pytest.approx(0.01, rel=0.05) for layer in linears)
    assert all(not layer.bias.any() for layer in linears)
    slow, fast = method.param_groups()
    assert "lr_scale" not in slow
    assert fast["lr_scale"] == 10
