"""Published archives in their exact formats, but of a few images, and a place that serves them."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import io
import struct
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from shoal.data import DATA_SETS
from shoal.data.sources.download import Published
from tests.packing import write_tar

RANDOM = np.random.default_rng(7)


def pixels(n, side, channels=3):
    return RANDOM.integers(0, 256, (n, channels, side, side), dtype=np.uint8)


def records(labels, images):
    """Label bytes and pixels of CIFAR's binary versions; ``labels`` is (n, label bytes)."""
    return np.hstack([np.array(labels, np.uint8), images.reshape(len(images), -1)]).tobytes()


def write_cifar10(folder, per_batch=3):
    """The archive, with its members in the order of the real one; and (pixels, labels) as they are to be read."""
    names = [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"]
    images, labels = pixels(6 * per_batch, 32), np.arange(6 * per_batch) % 10
    parts = [slice(i * per_batch, (i + 1) * per_batch) for i in range(6)]
    batches = {n: records(labels[p, None], images[p]) for n, p in zip(names, parts, strict=True)}
    members = {"cifar-10-batches-bin/batches.meta.txt": b"airplane\n"}
    members |= {f"cifar-10-batches-bin/{names[i]}": batches[names[i]] for i in (0, 2, 3, 5, 4, 1)}
    write_tar(folder / "cifar-10-binary.tar.gz", members)
    return images, labels


def write_cifar100(folder):
    images, coarse, fine = pixels(5, 32), np.array([19, 0, 7, 3, 11]), np.array([99, 4, 55, 60, 1])
    labels = np.stack([coarse, fine], 1)
    parts = {"train": slice(0, 3), "test": slice(3, 5)}
    members = {f"cifar-100-binary/{name}.bin": records(labels[part], images[part]) for name, part in parts.items()}
    write_tar(folder / "cifar-100-binary.tar.gz", members)
    return images, coarse


def write_stl10(folder):
    images, labels = pixels(7, 96), np.array([0, 9, 4, 3, 1])
    columns = images.transpose(0, 1, 3, 2)
    content = {
        "test_X.bin": columns[2:5].tobytes(),
        "test_y.bin": (labels[2:] + 1).astype(np.uint8).tobytes(),
        "train_X.bin": columns[:2].tobytes(),
        "train_y.bin": (labels[:2] + 1).astype(np.uint8).tobytes(),
        "unlabeled_X.bin": columns[5:].tobytes(),
        "fold_indices.txt": b"0 1\n",
    }
    write_tar(folder / "stl10_binary.tar.gz", {f"stl10_binary/{name}": data for name, data in content.items()})
    return images, np.concatenate([labels, [-1, -1]])


def write_mnist(folder):
    images, labels = pixels(5, 28, 1), np.array([5, 0, 4, 7, 2])
    for name, part in (("train", slice(0, 3)), ("t10k", slice(3, 5))):
        n = len(labels[part])
        data = struct.pack(">4B3I", 0, 0, 8, 3, n, 28, 28) + images[part].tobytes()
        (folder / f"{name}-images-idx3-ubyte.gz").write_bytes(gzip.compress(data))
        data = struct.pack(">4BI", 0, 0, 8, 1, n) + labels[part].astype(np.uint8).tobytes()
        (folder / f"{name}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(data))
    return images.repeat(3, axis=1), labels


def write_tiny_imagenet(folder):
    """PNG bytes in files called JPEG, so that pixels come back as they went in; and what is not to be read."""
    images, synsets = pixels(4, 64), ["n01443537", "n01443537", "n01629819", "n02056570"]
    with zipfile.ZipFile(folder / "tiny-imagenet-200.zip", "w") as archive:
        archive.writestr("tiny-imagenet-200/words.txt", "n00001740\tentity\n")
        for row in (3, 1, 0, 2):
            file = io.BytesIO()
            Image.fromarray(images[row].transpose(1, 2, 0)).save(file, "PNG")
            name = f"tiny-imagenet-200/train/{synsets[row]}/images/{synsets[row]}_{row}.JPEG"
            archive.writestr(name, file.getvalue())
            archive.writestr(f"tiny-imagenet-200/val/images/val_{row}.JPEG", file.getvalue())
        archive.writestr("tiny-imagenet-200/train/n01443537/n01443537_boxes.txt", "n01443537_0.JPEG\t0\t1\t2\t3\n")
        archive.writestr("tiny-imagenet-200/train/n01443537/images/../../../../evil.JPEG", b"evil")
    return images, np.array([0, 0, 1, 2])


WRITERS = {
    "cifar10": write_cifar10,
    "cifar20": write_cifar100,
    "stl10": write_stl10,
    "mnist": write_mnist,
    "tiny-imagenet": write_tiny_imagenet,
}


def publish(monkeypatch, name: str, folder: Path, home: str = "http://127.0.0.1:9/") -> None:
    """Let the files in ``folder`` be the published ones of a data set, and ``home`` the place that has them."""
    published = DATA_SETS[name].published
    md5 = {file: hashlib.md5((folder / file).read_bytes()).hexdigest() for file in published.files}
    changed = dataclasses.replace(DATA_SETS[name], published=Published(home, md5))
    monkeypatch.setitem(DATA_SETS, name, changed)
