"""A classifier on kept features says what the whole network says of the images, or is not used."""

import pytest
import timm
import torch
from safetensors.torch import load_file

from shoal.errors import UserError
from shoal.features import load_encoder
from shoal.features.classifier import imagenet_words, load_classifier
from tests.features.examples import write_weights


def spread(tensors):
    """Heads that begin as zeros would hide what they read."""
    for name, value in tensors.items():
        if "head" in name and value.ndim > 1 and not value.any():
            value.normal_()


def theirs(spec, pixels):
    """Probabilities of the whole network of timm."""
    network = timm.create_model(spec.name).eval()
    network.load_state_dict(load_file(spec.weights))
    data = timm.data.resolve_data_config({}, model=network)
    by_hand = [(pixels[:, c] / 255 - data["mean"][c]) / data["std"][c] for c in range(3)]
    with torch.no_grad():
        return network(torch.stack(by_hand, 1)).softmax(1)


@pytest.mark.parametrize(
    "name",
    [
        *("test_vit", "test_efficientnet", "test_resnet", "test_convnext", "test_nfnet", "test_byobnet"),
        "mobilenetv3_small_050",  # widens its features behind the pooling
        pytest.param("levit_128s", marks=pytest.mark.slow),  # two heads on the same features
        pytest.param("resnetv2_50", marks=pytest.mark.slow),  # a convolution for a classifier
        pytest.param("repvit_m0_9", marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_probabilities_are_those_of_the_whole_network(name, tmp_path):
    spec = write_weights(tmp_path / "w.safetensors", name, change=spread)
    encoder = load_encoder(spec)
    pixels = torch.randint(0, 256, (3, 3, *encoder.input_size), dtype=torch.uint8)
    classifier = load_classifier(encoder)
    with torch.no_grad():
        found = classifier.probabilities(encoder.module(pixels / 255))
    torch.testing.assert_close(found, theirs(spec, pixels), rtol=1e-3, atol=1e-6)
    assert classifier.classes[:3] == ["tench", "goldfish", "great white shark"]


@pytest.mark.parametrize(
    "name",
    [
        "deit_tiny_distilled_patch16_224",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("crossvit_tiny_240", "volo_d1_224")),
    ],
)
def test_classifiers_that_read_more_than_the_features_are_not_used(name, tmp_path):
    encoder = load_encoder(write_weights(tmp_path / "w.safetensors", name))
    with pytest.raises(UserError, match=f"the classifier of {name} reads more than the features that shoal keeps"):
        load_classifier(encoder)


@pytest.mark.parametrize(
    ("n", "first"),
    [(11821, "benthos"), (21841, "organism"), (21843, "organism"), (10, None), (0, None), (1001, None)],
)
def test_classes_are_told_by_their_number(n, first, tmp_path):
    encoder = load_encoder(write_weights(tmp_path / "w.safetensors", "test_vit", num_classes=n))
    if first is None:
        with pytest.raises(UserError, match="the weights of test_vit have no classifier"):
            load_classifier(encoder)
        return
    classifier = load_classifier(encoder)
    assert (len(classifier.classes), classifier.classes[0]) == (n, first)


def test_the_names_of_training_scripts_are_seen_through(tmp_path):
    spec = write_weights(tmp_path / "w.safetensors", "test_vit", prefix="module.")
    assert len(load_classifier(load_encoder(spec)).classes) == 1000


def test_words_are_the_names_of_classes():
    words = imagenet_words()
    assert {"organism", "tench", "umbrella"} <= set(words)
    assert len(words) == len(set(words))
    assert not [word for word in words if not word.strip() or "," in word]
