"""A file that is replaced while an embedding is interrupted, by one of the same size and time."""

import os
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image

from shoal.data import find_source
from shoal.features import embed, filling
from shoal.features import extract as pipeline

N = 12


def bitmap(seed):
    """A file whose size does not depend on what it shows."""
    file = BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(file, "BMP")
    return file.getvalue()


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """Twelve images, of which batches of 4 are computed one after the other, each committed at once."""
    monkeypatch.setattr(filling, "_COMPUTING", 1)
    monkeypatch.setattr(pipeline, "choose_batch_size", lambda _encoder: 4)
    monkeypatch.setattr(filling, "_COMMIT_SECONDS", 0)
    (tmp_path / "photos").mkdir()
    for number in range(N):
        (tmp_path / "photos" / f"{number:02}.bmp").write_bytes(bitmap(number))
    return tmp_path / "photos"


def replace(file, *, as_new_file):
    """Put another image in the place of one, with its size and times."""
    before = file.stat()
    if as_new_file:
        file.unlink()
    file.write_bytes(bitmap(99))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    now = file.stat()
    assert (now.st_size, now.st_mtime_ns) == (before.st_size, before.st_mtime_ns)


@pytest.mark.parametrize(("row", "as_new_file"), [(0, False), (3, True)])
def test_an_image_that_was_replaced_before_an_embedding_goes_on_is_computed_anew(
    photos, vit, tmp_path, row, as_new_file
):
    def stop(done, _total):
        if done == 9:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        embed(find_source(photos), vit, tmp_path / "f", progress=stop)
    before = pipeline.open_embedded(tmp_path / "f", unfinished=True)
    assert row in before.rows.tolist()
    old = before.features.clone()
    replace(photos / f"{row:02}.bmp", as_new_file=as_new_file)
    found = embed(find_source(photos), vit, tmp_path / "f")
    right = embed(find_source(photos), vit, tmp_path / "right")
    assert found.rows.tolist() == list(range(N))
    torch.testing.assert_close(found.features, right.features, rtol=0, atol=1e-5)  # batches of another size
    assert torch.equal(found.fingerprints, right.fingerprints)
    assert (found.features[row] - old[row]).abs().max() > 1e-3
    others = [each for each in range(len(old)) if each != row]
    assert torch.equal(found.features[others], old[others])  # taken over as they were
    assert {path.name for path in tmp_path.iterdir()} == {"photos", "f", "right"}


def test_of_a_finished_embedding_the_replaced_image_alone_is_computed_anew(photos, vit, tmp_path, monkeypatch):
    first = embed(find_source(photos), vit, tmp_path / "f")
    replace(photos / "05.bmp", as_new_file=True)
    computed, real = [], filling.decode_blob
    monkeypatch.setattr(filling, "decode_blob", lambda *given, **how: computed.append(1) or real(*given, **how))
    again = embed(find_source(photos), vit, tmp_path / "f")
    assert len(computed) == 1
    assert not torch.equal(again.features[5], first.features[5])
