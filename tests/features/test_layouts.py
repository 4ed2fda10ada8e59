"""Published checkpoints: the table of their layouts, with made-up tensors of the right names and shapes."""

import argparse
import collections
import datetime
import os
import pickle
import re
from itertools import pairwise

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from shoal.cli.main import main
from shoal.errors import UserError
from shoal.features import EncoderSpec, load_encoder
from shoal.features.convert import convert, read_checkpoint
from shoal.features.layouts import LAYOUTS
from shoal.models.backbone import use_stem
from shoal.results.chosen import chosen_networks

NAME = "resnet18.tv_in1k"


def backbone(name=NAME, stem="native", seed=0, num_classes=0):
    """A network of timm, which has torchvision's names, with random statistics."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = timm.create_model(name, num_classes=num_classes)
        use_stem(network, stem, name)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
    return network.eval()


class MadeUp:
    """Tensors of a network of timm, each of one value, so that their files are small."""

    def __init__(self, name=NAME, stem="native", seed=0):
        with torch.device("meta"):
            network = timm.create_model(name, num_classes=0)
            use_stem(network, stem, name)
        self.maxpool = getattr(network, "maxpool", None)
        self.tensors = {
            key: torch.full((1,), seed + i / 1000).expand(value.shape) if value.ndim else torch.tensor(seed)
            for i, (key, value) in enumerate(network.state_dict().items())
        }

    def state_dict(self):
        return self.tensors


def numbered(network):
    """As ``nn.Sequential`` of its children, which is how ProPos and lightly keep a ResNet of torchvision."""
    small = isinstance(network.maxpool, nn.Identity)
    parts = ["conv1", "bn1", "relu", *([] if small else ["maxpool"]), "layer1", "layer2", "layer3", "layer4"]
    place = {part: str(i) for i, part in enumerate(parts)}
    state = network.state_dict().items()
    return {place[name.partition(".")[0]] + "." + name.partition(".")[2]: value for name, value in state}


def under(prefix, tensors):
    return {prefix + name: value for name, value in tensors.items()}


def head(prefix, *widths):
    """Linear layers of a projector."""
    return under(prefix, {f"{i}.weight": torch.zeros(b, a) for i, (a, b) in enumerate(pairwise(widths))})


def propos(good, other):
    """``torch.save(BYOLWrapper.state_dict())`` of Hzzone/ProPos: the encoder is there three times."""
    tensors = {**under("encoder_q.", numbered(other)), **head("projector_q.", 512, 64, 16)}
    tensors |= {**under("encoder_k.", numbered(good)), **head("projector_k.", 512, 64, 16)}
    tensors |= {**under("encoder.0.", numbered(good)), **head("encoder.1.", 512, 64, 16)}
    return {**tensors, **head("predictor.", 16, 64, 16)}


def moco(good, other):
    tensors = {**under("encoder_q.", good.state_dict()), **head("encoder_q.fc.", 512, 128)}
    tensors |= {**under("encoder_k.", other.state_dict()), **head("encoder_k.fc.", 512, 128)}
    tensors |= {"queue": torch.zeros(128, 64), "queue_ptr": torch.zeros(1, dtype=torch.int64)}
    return {"epoch": 200, "arch": "resnet18", "state_dict": under("module.", tensors), "optimizer": {"state": {}}}


def query_alone(good, _other):
    """As published: only what is needed to use it."""
    return {"state_dict": under("module.encoder_q.", {**good.state_dict(), **head("fc.", 512, 128)})}


def simsiam(good, _other):
    tensors = {**under("encoder.", good.state_dict()), **head("encoder.fc.", 512, 512), **head("predictor.", 512, 8)}
    return {"epoch": 100, "state_dict": under("module.", tensors)}


def moco_v3(good, other):
    tensors = {**under("base_encoder.", good.state_dict()), **under("momentum_encoder.", other.state_dict())}
    return {"state_dict": under("module.", tensors | head("predictor.", 8, 8))}


def cc(good, _other):
    heads = head("instance_projector.", 512, 128) | head("cluster_projector.", 512, 10)
    return {"net": under("resnet.", good.state_dict()) | heads, "optimizer": {}, "epoch": 1000}


def solo_learn(good, other, name="backbone."):
    tensors = under(name, good.state_dict()) | under(f"momentum_{name}", other.state_dict())
    tensors |= head("projector.", 512, 64) | {
        "classifier.weight": torch.zeros(10, 512),
        "classifier.bias": torch.ones(1),
    }
    return {"state_dict": tensors, "hyper_parameters": {"lr": 0.1}, "pytorch-lightning_version": "1.6.4"}


def lightly(good, other):
    tensors = under("backbone.", numbered(good)) | under("backbone_momentum.", numbered(other))
    return {"state_dict": tensors | head("projection_head.layers.", 512, 128)}


def lightly_dino(good, other):
    tensors = under("teacher_backbone.", numbered(good)) | under("student_backbone.", numbered(other))
    return {"state_dict": tensors | head("teacher_head.layers.", 512, 128)}


def vissl(good, _other):
    trunk, heads = under("_feature_blocks.", good.state_dict()), head("0.clf.", 512, 128)
    return {"classy_state_dict": {"base_model": {"model": {"trunk": trunk, "heads": heads}}}, "phase_idx": 3}


def dino(good, other):
    heads = head("head.mlp.", 512, 64) | {"head.last_layer.weight_v": torch.zeros(3, 64)}
    student = under("module.", under("backbone.", other.state_dict()) | heads)
    args = argparse.Namespace(arch="resnet18", lr=0.1, more=collections.defaultdict(list, a=[slice(3)]))
    return {"student": student, "teacher": under("backbone.", good.state_dict()) | heads, "epoch": 100, "args": args}


def supcontrast(good, _other):
    """ResNets for CIFAR that call the downsampling a shortcut."""
    tensors = {name.replace("downsample", "shortcut"): value for name, value in good.state_dict().items()}
    return {"model": under("encoder.", tensors) | head("head.", 512, 128)}


def run_of_shoal(good, other):
    tensors = under("method.target.network.0.network.", good.state_dict())
    return tensors | under("method.online.0.network.", other.state_dict()) | {"centers": torch.zeros(3, 8)}


CASES = [
    ("torchvision, timm or DINO", lambda good, _: good.state_dict() | {"fc.weight": torch.zeros(1000, 512)}, "native"),
    ("ProPos or its BYOL", propos, "native"),
    ("ProPos or its BYOL", propos, "cifar"),
    ("MoCo or PCL", moco, "native"),
    ("MoCo or PCL", moco, "cifar"),
    ("MoCo or PCL", query_alone, "native"),
    ("MoCo v3", moco_v3, "native"),
    ("CC", cc, "native"),
    ("solo-learn", solo_learn, "native"),
    ("solo-learn", solo_learn, "cifar-pad2"),
    ("solo-learn", lambda good, other: solo_learn(good, other, "encoder."), "cifar-pad2"),
    ("DINO", dino, "native"),
    ("lightly or mmselfsup", lightly, "native"),
    ("lightly or mmselfsup", lightly, "cifar"),
    ("lightly or mmselfsup", lightly_dino, "native"),
    ("SimSiam or SupContrast", simsiam, "native"),
    ("SimSiam or SupContrast", supcontrast, "cifar"),
    ("VISSL", vissl, "native"),
    ("VISSL", lambda good, _: {"model_state_dict": under("trunk._feature_blocks.", good.state_dict())}, "native"),
    ("Lightning", lambda good, _: {"state_dict": under("model.", good.state_dict())}, "native"),
    ("Lightning", lambda good, _: {"model": under("model.backbone.", good.state_dict())}, "native"),
    ("a run of shoal", run_of_shoal, "cifar"),
    ("a run of shoal", lambda good, _: under("method.online.0.network.", good.state_dict()), "native"),
    ("a run of shoal", lambda good, _: under("method.backbone.network.", good.state_dict()), "native"),
]


@pytest.fixture(scope="module")
def networks():
    """Of each stem the backbone that is meant, and the other one that a checkpoint has as well."""
    return {stem: (MadeUp(stem=stem), MadeUp(stem=stem, seed=1)) for stem in ("native", "cifar", "cifar-pad2")}


@pytest.mark.parametrize(("publisher", "write", "stem"), CASES, ids=[f"{c[0]}-{c[2]}-{i}" for i, c in enumerate(CASES)])
def test_a_published_layout_is_read(publisher, write, stem, networks, tmp_path):
    good, _ = networks[stem]
    torch.save(write(*networks[stem]), tmp_path / "published.pth.tar")
    found = convert(tmp_path / "published.pth.tar")
    assert (found.note.origin, found.note.architecture, found.note.stem) == (publisher, NAME, stem)
    assert found.tensors.keys() == good.state_dict().keys()
    for name, value in good.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            torch.testing.assert_close(found.tensors[name], value, rtol=0, atol=0, msg=name)


def test_every_layout_of_the_table_has_a_case():
    cases = collections.Counter(publisher for publisher, _, _ in CASES)
    rows = collections.Counter(row.publisher for row in LAYOUTS)
    assert cases.keys() == rows.keys()
    assert all(cases[publisher] >= count for publisher, count in rows.items())


@pytest.mark.slow
@pytest.mark.parametrize("stem", ["cifar", "cifar-pad2"])
def test_converted_weights_give_the_publishers_features(stem, tmp_path, capsys):
    good, other = backbone(stem=stem), MadeUp(stem=stem)
    torch.save((propos if stem == "cifar" else solo_learn)(good, other), tmp_path / "published.ckpt")
    given = ["--backbone.mean", "0.5", "0.4", "0.3", "--backbone.std", "0.2", "0.3", "0.4"]
    assert main(["convert", str(tmp_path / "published.ckpt"), *given]) == 0
    said = capsys.readouterr().out
    assert NAME in said
    assert f"--backbone.weights {tmp_path / 'published.safetensors'}" in said
    (spec,) = chosen_networks(None, str(tmp_path / "published.safetensors"))
    encoder = load_encoder(spec)
    assert (spec.name, encoder.input_size, encoder.n_features) == (NAME, (32, 32), 512)
    pixels = torch.rand(3, 3, 32, 32)
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in ((0.5, 0.4, 0.3), (0.2, 0.3, 0.4)))
    with torch.no_grad():
        torch.testing.assert_close(encoder.module(pixels), good((pixels - mean) / std), rtol=1e-5, atol=1e-5)


def test_weights_in_any_layout_are_taken_as_they_are(tmp_path):
    good, other = backbone(stem="cifar"), MadeUp(stem="cifar")
    path = tmp_path / "w.safetensors"
    save_file({name: value.clone().contiguous() for name, value in propos(good, other).items()}, path)
    encoder = load_encoder(EncoderSpec("timm", "resnet18", str(path)))
    pixels = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        expected = good((pixels - encoder.module.mean) / encoder.module.std)
        torch.testing.assert_close(encoder.module(pixels), expected, rtol=1e-5, atol=1e-5)


def test_a_vision_transformer_is_found_by_its_shapes(tmp_path):
    network = MadeUp("vit_tiny_patch16_224")
    torch.save({"teacher": under("backbone.", network.state_dict()), "student": {}}, tmp_path / "vit.pth")
    assert convert(tmp_path / "vit.pth").note.architecture == "vit_tiny_patch16_224"


def test_converted_again_nothing_is_forgotten(networks, tmp_path):
    torch.save(solo_learn(*networks["cifar-pad2"]), tmp_path / "w.ckpt")
    convert(tmp_path / "w.ckpt", size=48).save(tmp_path / "w.safetensors")
    assert main(["convert", str(tmp_path / "w.safetensors")]) == 0
    note = convert(tmp_path / "w-backbone.safetensors").note
    assert (note.stem, note.size, note.origin) == ("cifar-pad2", (48, 48), "solo-learn")
    assert load_file(tmp_path / "w.safetensors").keys() == load_file(tmp_path / "w-backbone.safetensors").keys()


class Bomb:
    """Runs a program when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


class Caller:
    """Calls a function when it is unpickled."""

    def __reduce__(self):
        return getattr, ("text", "upper")


def truncated(path, _):
    torch.save({"state_dict": {"conv1.weight": torch.zeros(9999)}}, path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def shape_of_another(path, networks):
    torch.save(dict(networks["native"][0].state_dict()) | {"layer3.0.conv1.weight": torch.zeros(256, 64, 3, 3)}, path)


def diverged(path, networks):
    state = networks["native"][0].state_dict()
    torch.save(dict(state) | {"conv1.weight": torch.full_like(state["conv1.weight"], torch.nan)}, path)


def sparse(path, networks):
    state = networks["native"][0].state_dict()
    torch.save(dict(state) | {"conv1.weight": state["conv1.weight"].to_sparse()}, path)


def preact(path, networks):
    """The pre-activation ResNet of ProPos, whose blocks work otherwise."""
    state = {n.replace("downsample.0", "shortcut.0"): v for n, v in networks["cifar"][0].state_dict().items()}
    torch.save({n: v for n, v in state.items() if "downsample.1" not in n}, path)


def without_stem_relu(path, networks):
    names = {"0": "0", "1": "1", "3": "2", "4": "3", "5": "4", "6": "5"}
    tensors = {
        names[n.partition(".")[0]] + "." + n.partition(".")[2]: v for n, v in numbered(networks["cifar"][0]).items()
    }
    torch.save({"state_dict": under("backbone.", tensors)}, path)


WRONG = {
    "no checkpoint": (lambda path, _: path.write_text("weights"), "is not a checkpoint .* or it is damaged"),
    "empty": (lambda path, _: path.write_bytes(b""), "is not a checkpoint .* or it is damaged"),
    "truncated": (truncated, "is not a checkpoint .* or it is damaged"),
    "code": (
        lambda path, _: torch.save({"state_dict": Bomb(path.parent / "ran")}, path),
        "system, which could run code",
    ),
    "code, plain pickle": (
        lambda path, _: path.write_bytes(pickle.dumps(Bomb(path.parent / "ran"))),
        "not a checkpoint",
    ),
    "code, by a function": (
        lambda path, _: torch.save({"a": Caller()}, path),
        "builtins.getattr, which could run code",
    ),
    "a whole network": (
        lambda path, _: torch.save(timm.create_model("test_resnet"), path),
        r"timm\.\S+, which could run code",
    ),
    "no weights": (lambda path, _: torch.save({"epoch": 3, "arch": "x"}, path), "no weights by name.*epoch, arch"),
    "a list": (lambda path, _: torch.save([torch.zeros(3)], path), "it holds a list"),
    "another width": (
        shape_of_another,
        r"layer3.0.conv1.weight has shape \(256, 64, 3, 3\) instead of \(256, 128, 3, 3\)",
    ),
    "unknown layout": (
        lambda path, _: torch.save(under("encodr_q.", {"w": torch.zeros(2)}), path),
        r"in no layout that is known: the nearest is that of MoCo or PCL \(encoder_q\.\)",
    ),
    "diverged": (diverged, r"hold NaN or infinity \(conv1.weight\): give weights of training that did not diverge"),
    "sparse": (sparse, "not plain floating-point numbers, such as sparse"),
    "pre-activation": (preact, "downsample.1.weight is missing"),
    "lightly's generator": (without_stem_relu, "without a ReLU in the stem"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_checkpoint_is_told_in_a_sentence(case, networks, tmp_path, capsys):
    write, sentence = WRONG[case]
    path = tmp_path / "published.pth"
    write(path, networks)
    assert main(["convert", str(path)]) == 2
    said = capsys.readouterr().err
    assert re.search(sentence, said), said
    assert said.count("\n") == 1
    assert sorted(each.name for each in tmp_path.iterdir()) == ["published.pth"]  # nothing was run or written


@pytest.mark.parametrize("kind", ["omegaconf.nodes AnyNode", "pytorch_lightning.utilities AttributeDict"])
def test_settings_beside_the_weights_are_forgotten(kind, tmp_path):
    (tmp_path / "w.ckpt").write_bytes(_pickled_as(*kind.split()))
    assert read_checkpoint(tmp_path / "w.ckpt")["lr"] == 0.5


def test_numbers_paths_and_the_like_beside_the_weights_are_forgotten(tmp_path):
    beside = {
        "best": np.float64(0.5),
        "all": np.ones(3),
        "at": tmp_path,
        "when": datetime.datetime(2024, 1, 2),
        "of": {1},
    }
    torch.save({"state_dict": {"w": torch.ones(2)}, **beside}, tmp_path / "w.ckpt")
    assert torch.equal(read_checkpoint(tmp_path / "w.ckpt")["state_dict"]["w"], torch.ones(2))


def _pickled_as(module, name):
    """A checkpoint in the format of before torch 1.6 with an object of a class that there is not."""
    magic, protocol = 0x1950A86A20F9469CFC6C, 1001
    parts = [pickle.dumps(magic, 2), pickle.dumps(protocol, 2), pickle.dumps({"little_endian": True}, 2)]
    own = b"\x80\x02}(X\x02\x00\x00\x00lrG?\xe0\x00\x00\x00\x00\x00\x00X\x01\x00\x00\x00s"
    item = b"X\x01\x00\x00\x00aK\x01s"
    own += f"c{module}\n{name}\n".encode() + b")\x81" + (item if name.endswith("Dict") else b"}" + item + b"b") + b"u."
    return b"".join([*parts, own, pickle.dumps([], 2)])


def test_a_pickle_is_refused_elsewhere_with_the_command(networks, tmp_path):
    torch.save(networks["native"][0].state_dict(), tmp_path / "my weights.pth")
    with pytest.raises(UserError, match=r"shoal convert '.*my weights.pth'"):
        load_encoder(EncoderSpec("timm", "resnet18", str(tmp_path / "my weights.pth")))
