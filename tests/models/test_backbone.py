import pytest
import timm
import torch

from shoal.errors import UserError
from shoal.models import BackboneConfig, build_backbone


@pytest.mark.parametrize(("name", "n_features"), [("resnet18", 512), ("resnet34", 512), ("resnet50", 2048)])
def test_the_cifar_stem_keeps_the_resolution(name, n_features):
    backbone = build_backbone(BackboneConfig(name=name, stem="cifar")).eval()
    stem = backbone.network.conv1
    assert (stem.kernel_size, stem.stride, stem.padding) == ((3, 3), (1, 1), (1, 1))
    maps = []
    backbone.network.layer1.register_forward_hook(lambda _module, _inputs, output: maps.append(output.shape[-2:]))
    with torch.no_grad():
        assert backbone(torch.rand(2, 3, 32, 32)).shape == (2, n_features) == (2, backbone.n_features)
    assert maps == [(32, 32)]


def test_a_timm_model_is_taken_as_it_is_behind_the_normalisation():
    torch.manual_seed(0)
    config = BackboneConfig(name="resnet18", mean=(0.1, 0.2, 0.3), std=(0.5, 0.4, 0.2))
    backbone = build_backbone(config).eval()
    theirs = timm.create_model("resnet18", num_classes=0).eval()
    theirs.load_state_dict(backbone.network.state_dict())
    images = torch.rand(2, 3, 64, 64)
    by_hand = torch.stack([(images[:, c] - config.mean[c]) / config.std[c] for c in range(3)], dim=1)
    with torch.no_grad():
        torch.testing.assert_close(backbone(images), theirs(by_hand))


@pytest.mark.parametrize("side", [8, 15, 32, 64])
@pytest.mark.parametrize("depth", [1, 2])
def test_the_small_net_takes_small_images(side, depth):
    backbone = build_backbone(BackboneConfig(name="small", width=4, depth=depth))
    assert backbone(torch.rand(2, 3, side, side)).shape == (2, 16)
    convolutions = [m for m in backbone.modules() if isinstance(m, torch.nn.Conv2d)]
    assert [c.out_channels for c in convolutions] == [4] * depth + [8] * depth + [16] * depth


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (BackboneConfig(name="resnet81"), "no backbone named 'resnet81': did you mean 'resnet"),
        (BackboneConfig(name="smal"), "did you mean 'small'"),
        (BackboneConfig(name="vit_tiny_patch16_224", stem="cifar"), "fits ResNets only"),
        (BackboneConfig(name="small", stem="cifar"), "fits ResNets only"),
    ],
)
def test_a_wrong_backbone_gets_a_sentence(config, sentence):
    with pytest.raises(UserError, match=sentence):
        build_backbone(config)
