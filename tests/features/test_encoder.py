"""Encoders hold to timm's own forward pass and to the run's, and never use weights that are not there."""

import dataclasses

import huggingface_hub
import pytest
import timm
import torch
from safetensors.torch import load_file

from shoal.errors import UserError
from shoal.features import DEFAULT_BACKBONE, EncoderSpec, load_encoder
from shoal.progress import Progress
from shoal.training import loop
from shoal.training.trained import Trained
from tests.features.examples import write_weights
from tests.runs import new_run, tiny_config, tiny_images


def theirs(spec, pixels):
    """The features timm gives, and its normalisation by hand."""
    network = timm.create_model(spec.name).eval()
    network.load_state_dict(load_file(spec.weights))
    network.reset_classifier(0)
    data = timm.data.resolve_data_config({}, model=network)
    by_hand = [(pixels[:, c] / 255 - data["mean"][c]) / data["std"][c] for c in range(3)]
    with torch.no_grad():
        return network(torch.stack(by_hand, 1))


@pytest.mark.parametrize("name", ["test_vit", "test_efficientnet", "resnet10t", "test_convnext"])
def test_features_are_those_of_timm(name, tmp_path):
    spec = write_weights(tmp_path / "w.safetensors", name)
    encoder = load_encoder(spec)
    pixels = torch.randint(0, 256, (3, 3, *encoder.input_size), dtype=torch.uint8)
    expected = theirs(spec, pixels)
    assert expected.shape == (3, encoder.n_features)
    with torch.no_grad():
        torch.testing.assert_close(encoder.module(pixels / 255), expected, rtol=1e-4, atol=1e-4)
    exact = dataclasses.replace(encoder, precision="float32")
    torch.testing.assert_close(exact.embed(pixels), expected, rtol=1e-3, atol=1e-3 * expected.abs().max().item())
    found = encoder.embed(pixels)
    assert found.dtype == torch.float32
    assert torch.cosine_similarity(found, expected).min() > 0.995  # bfloat16, where the CPU has it


def test_batch_norms_are_folded(tmp_path):
    encoder = load_encoder(write_weights(tmp_path / "w.safetensors", "resnet10t"))
    left = [m for m in encoder.fast.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert not left
    assert any(isinstance(m, torch.nn.BatchNorm2d) for m in encoder.module.modules())


@pytest.mark.parametrize("prefix", ["module.", "backbone.", "model.", "module.backbone."])
def test_prefixes_of_training_scripts_are_taken_off(prefix, tmp_path, vit):
    spec = write_weights(tmp_path / "w.safetensors", "test_vit", prefix=prefix)
    pixels = torch.randint(0, 256, (2, 3, 160, 160), dtype=torch.uint8)
    torch.testing.assert_close(load_encoder(spec).embed(pixels), vit.embed(pixels), rtol=0, atol=0)


def test_a_checkpoint_without_head_will_do(tmp_path):
    spec = write_weights(tmp_path / "w.safetensors", "test_vit", num_classes=0)
    assert load_encoder(spec).n_features == 64


def drop(name):
    return lambda tensors: tensors.pop(name)


def reshape(name):
    return lambda tensors: tensors.update({name: torch.zeros(3, 3)})


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (drop("blocks.0.attn.qkv.weight"), "blocks.0.attn.qkv.weight is missing"),
        (reshape("blocks.1.mlp.fc1.weight"), r"blocks.1.mlp.fc1.weight has shape \(3, 3\) instead of"),
        (lambda t: t.update({"blocks.99.x": torch.zeros(1)}), "blocks.99.x belongs to another network"),
    ],
)
def test_weights_that_do_not_fit_are_refused(change, sentence, tmp_path):
    spec = write_weights(tmp_path / "w.safetensors", "test_vit", change=change)
    with pytest.raises(UserError, match=sentence):
        load_encoder(spec)


def test_files_that_are_no_safetensors_are_refused(tmp_path):
    pickle, torn = tmp_path / "w.pth", tmp_path / "w.safetensors"
    torch.save({}, pickle)
    torn.write_bytes(b"\x10\0\0\0\0\0\0\0{}")
    for path, sentence in [
        (pickle, "pickles can run code: 'shoal convert .*w.pth' writes its weights"),
        (torn, "cannot read the weights"),
        (tmp_path / "none.safetensors", "there is no weights file"),
    ]:
        with pytest.raises(UserError, match=sentence):
            load_encoder(EncoderSpec("timm", "test_vit", str(path)))


def test_other_weights_under_the_same_name_are_told_apart(tmp_path, vit):
    assert load_encoder(vit.spec).spec == vit.spec
    other = write_weights(tmp_path / "w.safetensors", "test_vit", change=lambda t: t["head.bias"].add_(1))
    with pytest.raises(UserError, match="holds different weights of test_vit"):
        load_encoder(dataclasses.replace(other, digest=vit.spec.digest))


def test_without_network_and_cache_the_file_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError) as error:
        load_encoder(EncoderSpec("timm", "test_vit"))
    for part in ("model.safetensors", "huggingface.co/timm/test_vit.r160_in1k", "--backbone.weights", "propos-folder"):
        assert part in str(error.value)


def test_pretrained_weights_come_from_the_hub(vit_spec, vit, monkeypatch):
    asked = []

    def fetched(repository, file, revision=None):
        asked.append((repository, file, revision))
        return vit_spec.weights

    monkeypatch.setattr("shoal.features.weights.check_reachable", lambda: None)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fetched)
    encoder = load_encoder(EncoderSpec("timm", "test_vit"))
    assert asked == [("timm/test_vit.r160_in1k", "model.safetensors", None)]
    assert encoder.spec == EncoderSpec("timm", "test_vit", "", vit.spec.digest)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("beit3_giant_patch14_224", "timm has no pretrained weights of beit3_giant"),
        ("legacy_seresnet18", r"only published as https://github.com/.*\.pth,"),
        ("resnet81", "did you mean 'resnet"),
        ("test_vit.nobodys", "did you mean 'test_vit"),
    ],
)
def test_a_model_without_usable_weights_is_never_used(name, sentence, monkeypatch):
    create = timm.create_model
    # What matters is the model's entry, not its billion parameters.
    entry = timm.get_pretrained_cfg(name) if "81" not in name and "nobody" not in name else None

    def small(_name, **settings):
        network = create("test_vit", **settings)
        network.pretrained_cfg = entry.to_dict()
        return network

    monkeypatch.setattr(timm, "create_model", small)
    with pytest.raises(UserError, match=sentence):
        load_encoder(EncoderSpec("timm", name))


@pytest.mark.slow
def test_dinov2_is_used_at_the_side_it_is_evaluated_at(tmp_path):
    spec = write_weights(tmp_path / "w.safetensors", DEFAULT_BACKBONE)
    encoder = load_encoder(spec)
    assert (encoder.input_size, encoder.n_features) == ((224, 224), 384)
    resampled = timm.create_model(
        DEFAULT_BACKBONE, pretrained=True, num_classes=0, img_size=224, pretrained_cfg_overlay={"file": spec.weights}
    ).eval()
    pixels = torch.randint(0, 256, (1, 3, 224, 224), dtype=torch.uint8)
    mean, std = encoder.module.mean, encoder.module.std
    with torch.no_grad():
        expected = resampled((pixels / 255 - mean) / std)
        torch.testing.assert_close(encoder.module(pixels / 255), expected, rtol=1e-4, atol=1e-4)


def test_a_run_gives_the_features_it_clusters(tmp_path):
    images = tiny_images()
    run = new_run(tmp_path / "run", tiny_config(epochs=1), images)
    loop.fit(run, Progress())
    Trained.of(run).save(run.folder.model)
    encoder = load_encoder(EncoderSpec("run", str(tmp_path / "run")))
    prepared = torch.stack([torch.from_numpy(encoder.prepare(pixels.numpy())) for pixels in images.pixels])
    torch.testing.assert_close(prepared, images.pixels, rtol=0, atol=0)
    features = Trained.load(tmp_path / "run").embed(images)
    torch.testing.assert_close(encoder.embed(prepared), features, rtol=1e-4, atol=1e-5)
    assert encoder.spec.name == str(tmp_path / "run")
    with pytest.raises(UserError, match="weights of its own"):
        load_encoder(dataclasses.replace(encoder.spec, weights="w.safetensors"))
