"""Networks of open_clip give open_clip's features, and are refused in a sentence where they cannot be had."""

import dataclasses
import logging
import sys
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from shoal.errors import UserError
from shoal.features import EncoderSpec, load_encoder
from shoal.features.clip import ClipName, ClipPreparing
from shoal.features.text import load_text_tower
from tests.clips import new_clip, save_clip, tokenizer_of
from tests.features.examples import encoded

TEXTS = ["dog", "a photo of a red car.", "Ümläut — 23 !!", "word " * 100]


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip")
    model = new_clip(folder)
    return model, EncoderSpec("open_clip", save_clip(model, folder)), folder


def theirs(model, folder, files, texts):
    """open_clip's similarities, from its own preparation of the images on."""
    transform = open_clip.transform.image_transform_v2(
        open_clip.transform.PreprocessCfg(**model.visual.preprocess_cfg), is_train=False
    )
    with torch.no_grad():
        images = model.encode_image(torch.stack([transform(Image.open(file)) for file in files]), normalize=True)
        return images @ model.encode_text(tokenizer_of(folder)(texts), normalize=True).T


def test_similarities_are_those_of_open_clip(clip, tmp_path):
    model, spec, folder = clip
    rng = np.random.default_rng(0)
    files = []
    for number, shape in enumerate([(32, 32, 3), (50, 33, 3), (20, 64, 3)]):
        files.append(tmp_path / f"{number}.png")
        files[-1].write_bytes(encoded(rng.integers(0, 256, shape, dtype=np.uint8)))
    encoder = dataclasses.replace(load_encoder(spec), precision="float32")
    assert (encoder.n_features, encoder.input_size) == (32, (32, 32))
    pixels = torch.stack([torch.from_numpy(encoder.prepare(file.read_bytes())) for file in files])
    features = torch.nn.functional.normalize(encoder.embed(pixels))
    tower, expected = load_text_tower(encoder.spec), theirs(model, folder, files, TEXTS)
    torch.testing.assert_close(features @ tower.embed(TEXTS).T, expected, rtol=0, atol=1e-5)
    for at, text in enumerate(TEXTS):  # short texts are computed without the rest of the context
        torch.testing.assert_close(features @ tower.embed([text])[0], expected[:, at], rtol=0, atol=1e-5)


@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
def test_images_are_prepared_as_open_clip_does(mode):
    config = {"size": (24, 24), "mode": "RGB", "mean": (0.0,) * 3, "std": (1.0,) * 3, "interpolation": "bicubic"}
    config |= {"resize_mode": mode, "fill_color": 0}
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 57, 3), dtype=np.uint8))
    expected = open_clip.transform.image_transform_v2(open_clip.transform.PreprocessCfg(**config), is_train=False)
    found = ClipPreparing(config).from_image(image)
    assert found.dtype == np.uint8
    np.testing.assert_allclose(found / 255, expected(image).numpy(), atol=1e-6)


def test_a_tag_says_how_its_weights_were_trained():
    tagged = {tag: ClipName.parse(f"open_clip:ViT-B-32:{tag}", own_weights=False) for tag in ("openai", "laion2b_e16")}
    assert [name.quick_gelu for name in tagged.values()] == [True, None]
    assert ClipName.parse("open_clip:ViT-B/32:openai", own_weights=False).model == "ViT-B-32"


def test_a_file_without_a_tag_is_taken_as_the_model_says():
    siglip = ClipName.parse("open_clip:ViT-B-16-SigLIP", own_weights=True)
    assert (siglip.published["mean"], siglip.quick_gelu) == ((0.5, 0.5, 0.5), None)
    assert ClipName.parse("open_clip:ViT-B-32", own_weights=True).quick_gelu is None


def test_the_activation_is_that_of_the_weights(clip):
    _, spec, folder = clip
    name = ClipName.parse(spec.name, own_weights=False)
    file = folder / "open_clip_model.safetensors"
    kinds = [dataclasses.replace(name, quick_gelu=quick).build(file) for quick in (None, False, True)]
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    own, plain, quick = (model.encode_image(images) for model in kinds)
    torch.testing.assert_close(own, plain, rtol=0, atol=0)
    assert (own - quick).abs().max() > 1e-4


def test_all_published_weights_are_looked_for_as_safetensors(monkeypatch):
    asked = {}

    def found(name, source):
        asked[name] = source
        return Path("model.safetensors")

    monkeypatch.setattr("shoal.features.clip.hub_file", found)
    for model, tag in open_clip.list_pretrained():
        if model.startswith("coca"):
            continue
        name = f"open_clip:{model}:{tag}"
        ClipName.parse(name, own_weights=False).weights(None, used=False)
        assert asked[name]["hf_hub_id"].count("/") == 1 or asked[name]["url"], name
    openai = {"hf_hub_id": "timm/vit_base_patch32_clip_224.openai", "hf_hub_filename": "open_clip_pytorch_model.bin"}
    assert asked["open_clip:ViT-B-32:openai"].items() >= openai.items()


def test_a_tokenizer_that_cannot_be_loaded_says_what_it_may_need(clip, monkeypatch):
    def refuse(_name):
        raise OSError("no such repository")

    monkeypatch.setattr(open_clip, "get_tokenizer", refuse)
    with pytest.raises(
        UserError, match=r"\(no such repository\): it may need 'pip install transformers sentencepiece'"
    ):
        load_text_tower(clip[1])


@pytest.mark.parametrize("content", ["{", "[]", '{"model_cfg": {}}', '{"model_cfg": {"embed_dim": 3}}'])
def test_damaged_configurations_are_refused(content, tmp_path):
    (tmp_path / "open_clip_config.json").write_text(content)
    (tmp_path / "open_clip_model.safetensors").touch()
    with pytest.raises(UserError, match="open_clip cannot build open_clip:/"):
        load_encoder(EncoderSpec("open_clip", f"open_clip:{tmp_path}"))


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("open_clip:ViT-B-33", "did you mean open_clip:ViT-B-32"),
        ("open_clip:", "has no open_clip_config.json: give open_clip:MODEL:TAG"),
        ("open_clip:/nowhere/at-all", "there is no folder of that name: open_clip.list_models"),
        ("open_clip:coca_ViT-B-32:laion2b_s13b_b90k", "makes more than one vector of an image"),
        ("open_clip:ViT-B-32:nobodys", "has no weights 'nobodys' of ViT-B-32: it has openai, "),
        ("open_clip:ViT-B-32", "give one of open_clip:ViT-B-32:openai, "),
        ("open_clip:ViT-M-32", "give some with --backbone.weights FILE"),
    ],
)
def test_names_that_lead_nowhere_are_refused(name, sentence):
    with pytest.raises(UserError, match=sentence):
        load_encoder(EncoderSpec("open_clip", name))


def test_weights_that_do_not_fit_are_refused(clip, tmp_path):
    _, spec, folder = clip
    other = new_clip(tmp_path / "other")
    del other.visual.proj
    save_clip(other, tmp_path / "other")
    with pytest.raises(UserError, match=r"do not fit .*visual\.proj"):
        load_encoder(EncoderSpec("open_clip", f"open_clip:{tmp_path / 'other'}"))
    (tmp_path / "w.pt").touch()
    with pytest.raises(UserError, match="pickles can run code: convert it with safetensors"):
        load_encoder(dataclasses.replace(spec, weights=str(tmp_path / "w.pt")))
    digest = load_encoder(spec).spec.digest
    (tmp_path / "other" / "open_clip_model.safetensors").write_bytes(b"torn")
    with pytest.raises(UserError, match="holds different weights"):
        load_text_tower(
            dataclasses.replace(spec, digest=digest, weights=str(tmp_path / "other" / "open_clip_model.safetensors"))
        )
    assert (folder / "open_clip_model.safetensors").exists()


def test_without_open_clip_the_extra_is_named(clip, monkeypatch):
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(UserError, match=r"needs open_clip: pip install 'shoal\[words\]'"):
        load_encoder(clip[1])


def test_what_open_clip_logs_stays_off_the_terminal(clip, capfd):
    handlers = [*logging.getLogger().handlers]
    load_text_tower(load_encoder(clip[1]).spec)
    assert capfd.readouterr() == ("", "")
    assert logging.getLogger().handlers == handlers
