"""The losses of IDC's fine-tuning, against the published code."""

import pytest
import torch

from shoal.losses import balanced_cross_entropy, confident_labels, ruled_out_loss
from tests.golden import golden


@pytest.mark.parametrize(
    ("loss", "name"), [(balanced_cross_entropy, "pos"), (ruled_out_loss, "neg")], ids=["positive", "negative"]
)
def test_the_published_loss_and_gradient(loss, name):
    data = golden("idc")
    logits = data["logits"].clone().requires_grad_()
    found = loss(logits, data[f"{name}_labels"])
    found.backward()
    assert found.item() == pytest.approx(float(data[f"{name}_loss"]), abs=1e-5)
    torch.testing.assert_close(logits.grad, data[f"grad_{name}"], rtol=1e-4, atol=1e-6)


def test_confident_labels_are_those_of_the_published_code():
    data = golden("idc")
    threshold, share = float(data["thresholds"].flatten()[0]), float(data["gamma_easy"])
    found = confident_labels(data["probs"], data["pseudo_before"], share=share, threshold=threshold)
    torch.testing.assert_close(found, data["pseudo_after"])


def test_rows_without_a_cluster_do_not_count():
    logits = torch.randn(6, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    labels = torch.tensor([0, -1, 2, 2, -1, 0])
    known = labels >= 0
    torch.testing.assert_close(
        balanced_cross_entropy(logits, labels), balanced_cross_entropy(logits[known], labels[known])
    )
    nothing = balanced_cross_entropy(logits, torch.full((6,), -1))
    nothing.backward()
    assert nothing == 0
    assert not logits.grad.any()


def test_a_certain_mistake_has_a_finite_loss():
    logits = torch.tensor([[100.0, 0.0]]).requires_grad_()
    loss = ruled_out_loss(logits, torch.tensor([0]))
    loss.backward()
    assert loss.item() == pytest.approx(11.5129, abs=1e-3)  # −log 1e-5
    assert torch.isfinite(logits.grad).all()
