"""Images come as they were asked for, from memory and from maps; of a map nothing else is read."""

import ctypes
import mmap
import os
import sys
import threading
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch

from shoal.data import feed
from shoal.data.batches import _mapping
from shoal.data.images import digest
from shoal.data.listing import as_images

CPU = torch.device("cpu")
PARTS = [[5, 0, 5], [], [29, 1], [7, 8, 9, 10]]
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="Linux alone tells")
on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


def rows(parts):
    """As tensors."""
    return [torch.tensor(part, dtype=torch.int64) for part in parts]


def noise(*shape):
    """Random bytes."""
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def mapped(path, array):
    """The array as the pixels of ``Images`` whose file is mapped."""
    array.tofile(path)
    return np.memmap(path, np.uint8, mode="r", shape=array.shape)


def tensor(pixels):
    """As every source hands pixels on."""
    return as_images(pixels, [-1] * len(pixels), (), [str(i) for i in range(len(pixels))], {}).pixels


def layouts(folder):
    """Pixels that lie in different ways."""
    rows_last = mapped(folder / "last", np.ascontiguousarray(noise(30, 3, 16, 16).transpose(1, 2, 3, 0)))
    grey = mapped(folder / "grey", noise(30, 1, 16, 16))
    return {
        "in memory": noise(30, 3, 16, 16),
        "mapped": mapped(folder / "first", noise(30, 3, 16, 16)),
        "mapped, channels last": mapped(folder / "channels", noise(30, 16, 16, 3)).transpose(0, 3, 1, 2),
        "mapped, images last": rows_last.transpose(3, 0, 1, 2),
        "mapped, grey": np.broadcast_to(grey, (30, 3, 16, 16)),
    }


LAYOUTS = ("in memory", "mapped", "mapped, channels last", "mapped, images last", "mapped, grey")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("device", [CPU, pytest.param(torch.device("cuda"), marks=on_gpu)], ids=str)
def test_images_come_in_the_order_of_the_parts(tmp_path, layout, device):
    array = layouts(tmp_path)[layout]
    pixels = tensor(array)
    found = list(feed(pixels, rows(PARTS), device))
    assert [len(part) for part in found] == [3, 0, 2, 4]
    for part, images in zip(PARTS, found, strict=True):
        assert images.device.type == device.type
        assert np.array_equal(images.cpu().numpy(), array[part])


@on_linux
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_map_is_told_from_memory(tmp_path, layout):
    assert _mapping(tensor(layouts(tmp_path)[layout])) == ("shared" if layout.startswith("mapped") else None)


def resident_here(path):
    """Kilobytes of a file that count as this process's memory."""
    found, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.partition(" ")[0]:
            inside = line.endswith(str(path))
        elif inside and line.startswith("Rss:"):
            found += int(line.split()[1])
    return found


@on_linux
def test_pages_of_a_map_that_were_read_are_the_systems_again(tmp_path):
    path = tmp_path / "map"
    array = noise(400, 3, 16, 16)
    images = as_images(mapped(path, array), [-1] * 400, (), [str(i) for i in range(400)], {})
    assert resident_here(path) == 0
    (found,) = feed(images.pixels, rows([range(0, 400, 3)]), CPU)
    assert np.array_equal(found.numpy(), array[::3])
    assert resident_here(path) < array.nbytes // 1024 // 4
    digest(images)
    assert resident_here(path) < array.nbytes // 1024 // 4
    assert np.array_equal(images.pixels.numpy(), array)
    assert resident_here(path) >= array.nbytes // 1024  # as they were not without


@on_linux
def test_changes_of_a_private_map_are_not_lost(tmp_path):
    mapped(tmp_path / "map", noise(30, 3, 16, 16))
    array = np.memmap(tmp_path / "map", np.uint8, mode="c", shape=(30, 3, 16, 16))
    array[7] = 200
    images = as_images(array, [-1] * 30, (), [str(i) for i in range(30)], {})
    assert _mapping(images.pixels) == "private"
    digest(images)
    list(feed(images.pixels, rows([range(30)]), CPU))
    assert (array[7] == 200).all()


@pytest.mark.parametrize("device", [CPU, pytest.param(torch.device("cuda"), marks=on_gpu)], ids=str)
def test_what_cannot_be_read_is_told_in_its_turn(tmp_path, device):
    pixels = tensor(layouts(tmp_path)["mapped"])
    before = threading.active_count()
    images = feed(pixels, rows([[1], [2], [30], [3]]), device)
    assert len(next(images)) == len(next(images)) == 1
    with pytest.raises(IndexError, match="out of range"):
        next(images)
    assert threading.active_count() == before


def test_a_file_that_was_removed_is_read_on(tmp_path):
    array = noise(30, 3, 16, 16)
    images = feed(tensor(mapped(tmp_path / "map", array)), rows([[3], [4]]), CPU)
    next(images)
    (tmp_path / "map").unlink()
    assert np.array_equal(next(images).numpy(), array[[4]])


def resident(path):
    """Which pages of a file are in memory."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as whole:
        address = np.frombuffer(whole, np.uint8).ctypes.data
        flags = np.zeros(-(-len(whole) // mmap.PAGESIZE), np.uint8)
        mincore = ctypes.CDLL(None).mincore
        mincore.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p)
        assert mincore(address, len(whole), flags.ctypes.data) == 0
    return (flags & 1).nonzero()[0].tolist()


def forgotten(path):
    """Put the file out of memory; not every file system and kernel does."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if resident(path):
        pytest.skip("this file stays in memory")


@on_linux
def test_of_a_map_nothing_is_read_but_what_is_asked_for(tmp_path):
    side, n = 37, 2000  # 4 107 bytes: an image begins anywhere in a page and ends in the next but one at most
    path = tmp_path / "map"
    array = mapped(path, noise(n, 3, side, side))
    forgotten(path)
    wanted = [3, 500, 1999, 1200]
    (images,) = feed(tensor(array), rows([wanted]), CPU)
    pages = {page for row in wanted for page in (row * 4107 // mmap.PAGESIZE, (row * 4107 + 4106) // mmap.PAGESIZE)}
    assert set(resident(path)) == pages
    assert np.array_equal(images.numpy(), noise(n, 3, side, side)[wanted])


@on_gpu
def test_a_step_that_is_slower_than_reading_sees_the_right_images():
    pixels = torch.from_numpy(noise(64, 3, 64, 64))
    parts = torch.randperm(64 * 20).remainder(64).split(32)
    big = torch.randn(2048, 2048, device="cuda")
    sums = []
    for images in feed(pixels, parts, torch.device("cuda")):
        for _ in range(20):
            big = (big @ big).clamp(-1, 1)  # what follows waits on the GPU, while more images are copied
        sums.append(images.long().sum((1, 2, 3)))
    expected = [pixels[part].long().sum((1, 2, 3)) for part in parts]
    assert torch.equal(torch.cat(sums).cpu(), torch.cat(expected))


@on_gpu
def test_the_thread_ends_in_the_middle_of_an_epoch():
    before = threading.active_count()
    with closing(feed(torch.from_numpy(noise(30, 3, 16, 16)), rows(PARTS), torch.device("cuda"))) as images:
        next(images)
        assert threading.active_count() == before + 1
    assert threading.active_count() == before
