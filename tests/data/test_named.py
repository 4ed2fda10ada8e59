"""Data sets by name: what comes out of each format, from where, and what is said when it cannot be had."""

import dataclasses
import io
import tarfile
import time

import numpy as np
import pytest
import torch
from PIL import Image
from tests.archives import WRITERS, publish, records, write_cifar10
from tests.packing import write_tar
from tests.runs import tiny_recipe

import shoal
from shoal.cli.main import main
from shoal.cli.train import TrainCommand
from shoal.data import DATA_SETS, DataConfig, load_images, to_images
from shoal.errors import UserError

every_archive = pytest.mark.parametrize("name", WRITERS)


@pytest.fixture
def root(tmp_path):
    (tmp_path / "files").mkdir()
    return tmp_path / "files"


# --- formats ---


@every_archive
def test_pixels_and_labels_are_the_published_ones(name, root, monkeypatch):
    pixels, labels = WRITERS[name](root)
    publish(monkeypatch, name, root)
    for _ in range(2):  # read, then from the cache
        images = load_images(DataConfig(path=name, root=str(root)))
        assert np.array_equal(images.pixels.numpy(), pixels)
        assert images.targets.tolist() == labels.tolist()
        assert len(set(images.ids)) == len(images)
        assert len(images.classes) == (3 if name == "tiny-imagenet" else DATA_SETS[name].n_classes)
        assert images.skipped == {}


@pytest.mark.parametrize(
    ("name", "parts"),
    [("cifar10", [15, 3]), ("cifar20", [3, 2]), ("mnist", [3, 2]), ("stl10", [2, 3, 2]), ("tiny-imagenet", [4])],
)
def test_the_test_part_is_held_out_and_the_unlabelled_not_clustered(name, parts, root, monkeypatch):
    WRITERS[name](root)
    publish(monkeypatch, name, root)
    expected = [part for part, n in enumerate(parts) for _ in range(n)]
    for _ in range(2):
        images = to_images(name, root=str(root))
        assert images.held_out.tolist() == [part == 1 for part in expected]
        assert images.clustered.tolist() == [part != 2 for part in expected]


def test_names_of_rows_and_classes(root, monkeypatch):
    WRITERS["stl10"](root)
    publish(monkeypatch, "stl10", root)
    images = to_images("stl10", root=str(root))
    assert images.ids == ["train#0", "train#1", "test#0", "test#1", "test#2", "unlabelled#0", "unlabelled#1"]
    assert images.classes[4] == "deer"
    WRITERS["tiny-imagenet"](root)
    publish(monkeypatch, "tiny-imagenet", root)
    images = to_images("tiny-imagenet", root=str(root))
    assert images.ids[0] == "n01443537/n01443537_0.JPEG"
    assert images.classes == ("n01443537", "n01629819", "n02056570")


def test_size_resizes_like_files(root, tmp_path, monkeypatch):
    pixels, _ = write_cifar10(root)
    publish(monkeypatch, "cifar10", root)
    (tmp_path / "png").mkdir()
    for i, image in enumerate(pixels):
        Image.fromarray(image.transpose(1, 2, 0)).save(tmp_path / "png" / f"{i:02}.png")
    small = load_images(DataConfig(path="cifar10", root=str(root), size=9))
    assert torch.equal(small.pixels, to_images(tmp_path / "png", size=9).pixels)


def test_facts_are_known_without_a_file():
    facts = {n: (d.n_images, d.n_clustered, d.n_classes, d.size) for n, d in DATA_SETS.items()}
    assert facts["stl10"] == (113_000, 13_000, 10, 96)
    assert facts["imagenet-dogs"] == (19_500, 19_500, 15, None)
    images = to_images("digits")
    assert facts["digits"] == (len(images), int(images.clustered.sum()), len(images.classes), images.pixels.shape[-1])
    for data_set in DATA_SETS.values():
        assert data_set.n_clustered <= data_set.n_images
        assert len(data_set.synsets) in (0, data_set.n_classes)
    with pytest.raises(AttributeError):
        DATA_SETS["digits"].n_images = 2


# --- archives that are odd ---


def test_other_members_are_never_touched(root, tmp_path, monkeypatch):
    link = tarfile.TarInfo("cifar-100-binary/train.bin")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    pixel = np.full((1, 3, 32, 32), 9, np.uint8)
    members = {
        "../../evil.bin": b"evil",
        str(tmp_path / "evil.bin"): b"evil",
        "a link": link,
        "cifar-100-binary/test.bin": records([[1, 2]], pixel),
        "cifar-100-binary/train.bin": records([[3, 4]], pixel),
        "cifar-100-binary/meta": b"\x80\x04K\x01.",
    }
    write_tar(root / "cifar-100-binary.tar.gz", members)
    publish(monkeypatch, "cifar20", root)
    images = to_images("cifar20", root=str(root))
    assert images.targets.tolist() == [3, 1]
    assert (images.pixels == 9).all()
    assert sorted(path.name for path in root.parent.rglob("*")) == ["cifar-100-binary.tar.gz", "files"]


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ({"cifar-100-binary/train.bin": b""}, "it has no cifar-100-binary/test.bin"),
        ({"cifar-100-binary/train.bin": b"x" * 3073}, "cannot reshape"),
    ],
)
def test_an_archive_of_something_else(members, reason, root, monkeypatch):
    write_tar(root / "cifar-100-binary.tar.gz", members)
    publish(monkeypatch, "cifar20", root)
    with pytest.raises(UserError, match=f"cannot read .*cifar-100-binary.tar.gz: {reason}"):
        to_images("cifar20", root=str(root))


@every_archive
def test_what_is_no_archive_at_all(name, root, monkeypatch):
    for file in DATA_SETS[name].published.files:
        (root / file).write_bytes(b"neither tar nor zip nor gzip")
    publish(monkeypatch, name, root)
    with pytest.raises(UserError, match="cannot read "):
        to_images(name, root=str(root))


# --- files in a folder of the user's ---


def test_a_file_that_is_not_in_the_folder(root):
    with pytest.raises(UserError, match=rf"there is no stl10_binary\.tar\.gz of stl10 in {root}: .*--data\.root"):
        to_images("stl10", root=str(root))


def test_a_file_with_another_checksum_is_refused_and_stays(root, capsys):
    write_cifar10(root)
    before = (root / "cifar-10-binary.tar.gz").read_bytes()
    assert main(["train", "propos-cifar10", "--data.root", str(root), "--out", str(root / "run")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert str(root / "cifar-10-binary.tar.gz") in line
    assert "c32a1d4ab5d03f1284b67883e8d87530" in line
    assert "remove it" in line
    assert [path.name for path in root.iterdir()] == ["cifar-10-binary.tar.gz"]
    assert (root / "cifar-10-binary.tar.gz").read_bytes() == before


def test_a_second_start_needs_no_archive(root, monkeypatch):
    write_cifar10(root, per_batch=1000)
    publish(monkeypatch, "cifar10", root)
    first = to_images("cifar10", root=str(root))
    (root / "cifar-10-binary.tar.gz").unlink()
    start = time.monotonic()
    assert torch.equal(to_images("cifar10").pixels, first.pixels)
    assert time.monotonic() - start < 1


def test_root_is_only_for_names(tmp_path, paint):
    paint(tmp_path / "a.png")
    with pytest.raises(UserError, match=r"--data\.root needs the name of a data set, which .* is not"):
        load_images(DataConfig(path=str(tmp_path), root=str(tmp_path)))


# --- names and paths ---


def test_a_name_wins_over_a_folder_and_says_so(root, tmp_path, monkeypatch, paint, caplog):
    WRITERS["mnist"](root)
    publish(monkeypatch, "mnist", root)
    monkeypatch.chdir(tmp_path)
    paint(tmp_path / "mnist" / "a.png")
    assert len(to_images("mnist", root=str(root))) == 5
    assert caplog.messages == ["reading the published mnist: to read the folder of that name, give ./mnist"]
    caplog.clear()
    for path in ("./mnist", "mnist/", tmp_path / "mnist"):
        assert len(to_images(path)) == 1
    assert caplog.messages == []


def test_a_name_that_is_nearly_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"no file or folder cifar-10: did you mean cifar10"):
        to_images("cifar-10")


def test_the_command_keeps_a_name_and_makes_the_root_absolute(root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cifar10").mkdir()
    data = TrainCommand.parse("train", ["propos-cifar10", "--data.root", "files"]).config.data
    assert (data.path, data.root) == ("cifar10", str(root))
    data = TrainCommand.parse("train", ["propos-cifar10", "--data.path", "./cifar10"]).config.data
    assert (data.path, data.root) == (str(tmp_path / "cifar10"), "")


def test_an_estimator_takes_a_name(root, monkeypatch):
    WRITERS["mnist"](root)
    publish(monkeypatch, "mnist", root)
    recipe = str(tiny_recipe(root.parent))
    model = shoal.ProPos(2, recipe=recipe, epochs=1, settings={"data.root": str(root)}).fit("mnist")
    assert model.labels_.shape == (5,)
    assert model._trained().config.data.path == "mnist"


# --- ImageNet ---


def write_imagenet(folder, synsets, n=2):
    for row, synset in enumerate(synsets):
        for i in range(n):
            path = folder / synset / f"{synset}_{i}.JPEG"
            path.parent.mkdir(parents=True, exist_ok=True)
            file = io.BytesIO()
            Image.new("RGB", (20 + i, 16), (row * 15, 0, 0)).save(file, "JPEG")
            path.write_bytes(file.getvalue())


@pytest.mark.parametrize("name", ["imagenet-10", "imagenet-dogs"])
@pytest.mark.parametrize("below", ["train", ""])
def test_a_part_of_imagenet(name, below, root):
    synsets = DATA_SETS[name].synsets
    write_imagenet(root / below, [*synsets, "n01440764", "n15075141"])
    images = load_images(DataConfig(path=name, root=str(root), size=8))
    assert images.pixels.shape == (2 * len(synsets), 3, 8, 8)
    assert images.classes == tuple(synsets.values())
    assert images.targets.tolist() == [label for label in range(len(synsets)) for _ in range(2)]
    first = next(iter(synsets))
    assert images.ids[:2] == [f"{first}/{first}_0.JPEG", f"{first}/{first}_1.JPEG"]
    assert (images.pixels[:, 0, 4, 4] - images.targets * 15).abs().max() <= 2
    with pytest.raises(UserError, match=r"differ in size .*--data\.size"):
        to_images(name, root=str(root))


def test_no_more_of_a_class_than_ilsvrc_has(root, monkeypatch):
    monkeypatch.setattr("shoal.data.sources.published._MAX_PER_CLASS", 3)
    write_imagenet(root, DATA_SETS["imagenet-10"].synsets, n=4)
    assert to_images("imagenet-10", root=str(root), size=4).targets.bincount().tolist() == [3] * 10


def test_all_of_imagenet(root, monkeypatch):
    write_imagenet(root / "train", ["n01440764", "n01443537"])
    write_imagenet(root / "train", ["not a synset"])
    with pytest.raises(UserError, match=r"imagenet has 1000 classes, but .*train has 2 classes"):
        to_images("imagenet", root=str(root))
    monkeypatch.setitem(DATA_SETS, "imagenet", dataclasses.replace(DATA_SETS["imagenet"], n_classes=2))
    images = to_images("imagenet", root=str(root), size=4)
    assert images.classes == ("n01440764", "n01443537")
    assert len(images) == 4


def test_missing_classes_are_named_in_one_sentence(root, capsys):
    synsets = list(DATA_SETS["imagenet-10"].synsets)
    write_imagenet(root / "train", synsets[:7])
    (root / "train" / synsets[7]).mkdir()
    args = ["train", "propos-digits", "--data.path", "imagenet-10", "--data.root", str(root)]
    assert main([*args, "--out", str(root / "run")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"has no images of {', '.join(synsets[7:])}: give the folder of ILSVRC 2012" in line


def test_imagenet_without_a_folder(tmp_path):
    with pytest.raises(UserError, match=r"imagenet-10 is not freely downloadable: .*--data\.root"):
        to_images("imagenet-10")
    with pytest.raises(UserError, match=r"there is no folder .*nowhere"):
        to_images("imagenet", root=str(tmp_path / "nowhere"))
