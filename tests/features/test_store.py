"""Features on the disk: what is there, what is refused, and what a crash leaves."""

import dataclasses
import errno
import json
import os
import subprocess
import sys
from hashlib import blake2b

import pytest
import torch
from PIL import Image

from shoal.data.sources.folder import folder_source, walk
from shoal.errors import UserError
from shoal.features import embed, filling, load_encoder, open_embedded, store
from shoal.features import extract as pipeline
from shoal.files import try_lock
from tests.features.examples import pictures, source_of, write_weights

FILES = (
    "features.f32",
    "rows.i64",
    "fingerprints.bin",
    "looks.i64",
    "sketches.bin",
    "names.txt",
    "names.i64",
    "labels.i64",
)


@pytest.fixture
def small_batches(monkeypatch):
    """Batches of 4, one after the other, each of which is committed."""
    monkeypatch.setattr(filling, "_COMPUTING", 1)
    monkeypatch.setattr(pipeline, "choose_batch_size", lambda _encoder: 4)
    monkeypatch.setattr(filling, "_COMMIT_SECONDS", 0)


def same(a, b):
    for name in FILES:
        assert (a / name).read_bytes() == (b / name).read_bytes(), name


@pytest.mark.usefixtures("small_batches")
def test_a_folder_holds_all_that_is_needed_later(vit, tmp_path):
    blobs = pictures(11)
    blobs[3], blobs[10] = b"text", None
    seen = []
    labels = [i % 2 for i in range(11)]
    source = source_of(blobs, labels, ("a", "b"))
    embed(source, vit, tmp_path / "f", progress=lambda done, total: seen.append((done, total)))
    found = open_embedded(tmp_path / "f")
    rows = [0, 1, 2, 4, 5, 6, 7, 8, 9]
    assert seen == [(i + 1, 11) for i in range(11)]
    assert found.rows.tolist() == rows
    assert list(found.ids) == [f"bilder/{i}ü.png" for i in rows]
    assert (found.ids[-1], found.ids[1:3]) == ("bilder/9ü.png", ["bilder/1ü.png", "bilder/2ü.png"])
    assert found.targets.tolist() == [i % 2 for i in rows]
    assert (found.classes, found.spec) == (("a", "b"), vit.spec)
    assert dict(found.skipped) == {"bilder/3ü.png": "not an image", "bilder/10ü.png": "no bytes in the table"}
    prints = [blake2b(blobs[i], digest_size=16).digest() for i in rows]
    assert [bytes(row.tolist()) for row in found.fingerprints] == prints
    one_by_one = torch.cat([vit.embed(torch.from_numpy(vit.prepare(blobs[i]))[None]) for i in rows])
    torch.testing.assert_close(found.features, one_by_one, rtol=2e-2, atol=2e-2)


def test_a_finished_folder_is_not_computed_again(vit, tmp_path, monkeypatch):
    source = source_of(pictures(5))
    first = embed(source, vit, tmp_path)
    monkeypatch.setattr(filling, "map_rows", None)
    assert torch.equal(embed(source, vit, tmp_path).features, first.features)


def refused(vit, tmp_path, source, sentence):
    with pytest.raises(UserError, match=sentence):
        embed(source, vit, tmp_path)


def test_other_things_in_the_folder_are_refused(vit, tmp_path):
    folder = tmp_path / "f"
    embed(source_of(pictures(5)), vit, folder)
    refused(vit, folder, source_of(pictures(12)[5:]), "features of other images")
    weights = write_weights(tmp_path / "w.safetensors", "test_vit", change=lambda t: t["norm.bias"].add_(1))
    refused(load_encoder(weights), folder, source_of(pictures(5)), "features of other weights of test_vit")
    moved = dataclasses.replace(vit, spec=dataclasses.replace(vit.spec, weights="/moved.safetensors"))
    assert len(embed(source_of(pictures(5)), moved, folder).rows) == 5
    header = json.loads((folder / "header.json").read_text())
    (folder / "header.json").write_text(json.dumps({**header, "format": 99}))
    refused(vit, folder, source_of(pictures(5)), "newer version of shoal")
    (folder / "header.json").write_text("{}")
    refused(vit, folder, source_of(pictures(5)), "damaged")
    (tmp_path / "g").mkdir()
    (tmp_path / "g" / "notes.txt").write_text("mine")
    refused(vit, tmp_path / "g", source_of(pictures(5)), "holds other things, such as notes.txt")
    with pytest.raises(UserError, match="holds no features"):
        open_embedded(tmp_path / "g")


@pytest.fixture
def paint_folder(tmp_path):
    def paint(n):
        folder = tmp_path / "pictures"
        folder.mkdir()
        for i, data in enumerate(pictures(n)):
            (folder / f"{i}.png").write_bytes(data)
        return folder

    return paint


@pytest.mark.usefixtures("small_batches")
def test_a_file_that_lost_committed_rows_is_not_filled_with_zeros(vit, tmp_path):
    def stop(done, _total):
        if done == 9:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        embed(source_of(pictures(12)), vit, tmp_path, progress=stop)
    os.truncate(tmp_path / "features.f32", 7)
    refused(vit, tmp_path, source_of(pictures(12)), r"damaged \(.*\): remove the folder")


@pytest.mark.usefixtures("small_batches")
def test_what_an_earlier_version_began_goes_on_without_sketches(vit, tmp_path):
    def stop(done, _total):
        if done == 9:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        embed(source_of(pictures(12)), vit, tmp_path, progress=stop)
    (tmp_path / "sketches.bin").unlink()
    found = embed(source_of(pictures(12)), vit, tmp_path)
    assert found.sketches is None
    assert len(found.features) == 12


def test_links_are_noted_and_must_name_rows(vit, tmp_path, paint_folder):
    folder = paint_folder(3)
    (folder / "3.png").symlink_to(folder / "1.png")
    found = embed(folder_source(folder, list(walk(folder))), vit, tmp_path / "f")
    assert found.links.tolist() == [[3, 1]]
    for i, width in enumerate(found.sketches["width"].tolist()):
        with Image.open(folder / f"{i}.png") as image:
            assert width == image.width
    for content in (b"12345", (7).to_bytes(8, "little"), (7).to_bytes(8, "little") * 2):
        (tmp_path / "f" / "links.i64").write_bytes(content)
        with pytest.raises(UserError, match="damaged"):
            open_embedded(tmp_path / "f")


def test_one_process_at_a_time(vit, tmp_path):
    source = source_of(pictures(5))

    def another(_done, _total):
        refused(vit, tmp_path, source, "another process is embedding images into .*: wait until it is done")

    embed(source, vit, tmp_path, progress=another)
    (tmp_path / "begun").mkdir()
    with (tmp_path / "begun" / "journal.jsonl").open("ab") as journal:
        assert try_lock(journal)
        refused(vit, tmp_path / "begun", source, "another process is embedding images")


def test_a_folder_that_cannot_be(vit, tmp_path):
    (tmp_path / "file").touch()
    refused(vit, tmp_path / "file" / "f", source_of(pictures(1)), r"\(Not a directory\): give another --out\.$")


@pytest.mark.parametrize("name", FILES)
def test_a_short_file_is_damage(vit, tmp_path, name):
    embed(source_of(pictures(5)), vit, tmp_path)
    os.truncate(tmp_path / name, 7)
    with pytest.raises(UserError, match="damaged"):
        open_embedded(tmp_path)


def test_nothing_readable_and_strict(vit, tmp_path):
    source = source_of([b"text", b""])
    for _ in range(2):
        refused(vit, tmp_path / "a", source, "none of the 2 images could be read")
    with pytest.raises(UserError, match="cannot read the image bilder/1ü"):
        embed(source_of([*pictures(1), b""]), vit, tmp_path / "b", strict=True)
    embed(source_of([*pictures(1), b""]), vit, tmp_path / "c")
    with pytest.raises(UserError, match="cannot read the image bilder/1ü"):
        embed(source_of([*pictures(1), b""]), vit, tmp_path / "c", strict=True)


def with_embed(encoder, function):
    """An encoder that computes something else."""

    class Other(type(encoder)):
        def embed(self, pixels):
            return function(pixels)

    return Other(**{field.name: getattr(encoder, field.name) for field in dataclasses.fields(encoder)})


@pytest.mark.usefixtures("small_batches")
def test_features_that_are_no_numbers_are_skipped(vit, tmp_path):
    def spoiled(pixels):
        features = vit.embed(pixels)
        features[0, 1] = float("nan")
        return features

    found = embed(source_of(pictures(6)), with_embed(vit, spoiled), tmp_path)
    assert found.rows.tolist() == [1, 2, 3, 5]
    assert set(found.skipped.values()) == {"its features hold NaN or infinity"}


@pytest.mark.usefixtures("small_batches")
def test_a_batch_that_does_not_fit_is_halved(vit, tmp_path):
    sizes = []

    def narrow(pixels):
        sizes.append(len(pixels))
        if len(pixels) > 2:
            raise torch.OutOfMemoryError
        return vit.embed(pixels)

    found = embed(source_of(pictures(9)), with_embed(vit, narrow), tmp_path)
    assert sizes == [4, 2, 2, 2, 2, 1]
    assert len(found.rows) == 9
    assert json.loads((tmp_path / "journal.jsonl").read_text().splitlines()[-1])["batch_size"] == 2


@pytest.mark.usefixtures("small_batches")
def test_no_memory_for_one_image(vit, tmp_path):
    def none(_pixels):
        raise torch.OutOfMemoryError

    with pytest.raises(UserError, match="no memory for a single image"):
        embed(source_of(pictures(3)), with_embed(vit, none), tmp_path)


@pytest.mark.usefixtures("small_batches")
def test_a_full_disk_keeps_what_was_done(vit, tmp_path, monkeypatch):
    embed(source_of(pictures(12)), vit, tmp_path / "whole")
    commit, calls = store.os.fsync, []

    def full(handle):
        calls.append(handle)
        if len(calls) == 17:  # ten at the start, six for each commit
            raise OSError(errno.ENOSPC, "No space left on device")
        commit(handle)

    monkeypatch.setattr(store.os, "fsync", full)
    with pytest.raises(UserError, match=r"No space left.*features of 4 images are kept: make room"):
        embed(source_of(pictures(12)), vit, tmp_path / "full")
    monkeypatch.setattr(store.os, "fsync", commit)
    with pytest.raises(UserError, match="features of 4 of 12 images"):
        open_embedded(tmp_path / "full")
    embed(source_of(pictures(12)), vit, tmp_path / "full")
    same(tmp_path / "whole", tmp_path / "full")


# One process that is ready to go forks those that are killed: starting Python five times would take half a minute.
SCRIPT = """
import os, random, signal, sys, time
from pathlib import Path
import torch
torch.set_num_threads(1)  # a fork has no others
from shoal.features import EncoderSpec, embed, load_encoder
from shoal.features import extract as pipeline
from shoal.features import filling
from tests.features.examples import pictures, source_of

filling._COMMIT_SECONDS = 0
pipeline.choose_batch_size = lambda _encoder: 4
folder, encoder = Path(sys.argv[1]), load_encoder(EncoderSpec("timm", "test_vit", sys.argv[2]))
blobs = pictures(120)
blobs[5] = blobs[77] = blobs[119] = b"text"
rng = random.Random(0)

def start(name):
    receive, send = os.pipe()
    child = os.fork()
    if child:
        os.close(send)
        return child, os.fdopen(receive, "rb", buffering=0)
    embed(source_of(blobs), encoder, folder / name, progress=lambda *_: os.write(send, b"."))
    os._exit(0)

def whole(name):
    assert os.waitpid(start(name)[0], 0)[1] == 0

whole("whole")
for _ in range(3):
    child, images = start("killed")
    for _ in range(rng.randrange(8, 35)):
        images.read(1)
    time.sleep(rng.random() * 0.02)
    os.kill(child, signal.SIGKILL)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    print((folder / "killed" / "journal.jsonl").read_bytes().count(b"\\n"))
whole("killed")
"""


@pytest.mark.slow
def test_killed_at_any_moment_it_goes_on_bit_by_bit(vit_spec, tmp_path):
    command = [sys.executable, "-c", SCRIPT, str(tmp_path), vit_spec.weights]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    lines = [int(count) for count in done.stdout.split()]
    assert 0 < lines[0] < lines[1] < lines[2] < 30  # it came further each time, and was killed before its end
    same(tmp_path / "whole", tmp_path / "killed")
    assert open_embedded(tmp_path / "killed").skipped.keys() == {f"bilder/{i}ü.png" for i in (5, 77, 119)}
