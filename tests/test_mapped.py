"""Arrays in files: what is written stays when pages are released, and without room all is in memory."""

import mmap
from io import FileIO
from pathlib import Path

import numpy as np
import pytest
import torch

from shoal import mapped
from shoal.clustering.inputs import tensor_on


def resident():
    """Bytes of files that this process has mapped and holds in memory."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith(("Pss_File", "Pss_Shmem")))


def test_a_scratch_array_keeps_what_was_written_and_takes_no_memory(monkeypatch):
    monkeypatch.setattr(mapped, "SMALL", 2**20)
    before = resident()
    array = mapped.scratch((2**22, 2), torch.float32)
    array[:] = torch.arange(2**22)[:, None]
    assert resident() - before > 2**24
    mapped.release(array[5:])  # a part is of the whole
    assert resident() - before < 2**22
    assert array[[0, 7, -1], 1].tolist() == [0, 7, 2**22 - 1]
    assert mapped.scratch((3,), torch.int64).tolist() == [0, 0, 0]


def test_without_room_a_scratch_array_is_in_memory(monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(mapped, "SMALL", 16)
    monkeypatch.setattr(mapped.os, "posix_fallocate", full)
    array = mapped.scratch((100,), torch.int64)
    assert array.untyped_storage().data_ptr() not in mapped._MAPS
    assert array.tolist() == [0] * 100


def test_only_maps_that_cannot_have_been_written_to_are_released(tmp_path):
    np.arange(2**20, dtype=np.float32).tofile(tmp_path / "rows")
    mine = np.memmap(tmp_path / "rows", np.float32, "c")
    tensor = tensor_on(mine)
    tensor[3] = -1
    mapped.release(tensor, torch.ones(5))
    assert tensor[3] == -1
    shared = tensor_on(np.memmap(tmp_path / "rows", np.float32, "r"))
    assert shared.untyped_storage().data_ptr() in mapped._MAPS
    assert isinstance(mapped._MAPS[shared.untyped_storage().data_ptr()], mmap.mmap)


@pytest.mark.parametrize("size", [1, 1000])
def test_pages_are_released_on_the_way(tmp_path, size, monkeypatch):
    monkeypatch.setattr(mapped, "AT_ONCE", 2**20)
    np.ones((2**20, 8), np.float32).tofile(tmp_path / "rows")
    rows = tensor_on(np.memmap(tmp_path / "rows", np.float32, "r", shape=(2**20, 8)))
    before, most, total = resident(), 0, 0.0
    step = 4096 * size
    parts = (slice(start, min(start + step, 2**20)) for start in range(0, 2**20, step))
    for part in mapped.released(parts, rows):
        total += float(rows[part].sum())
        most = max(most, resident() - before) if size == 1 and part.start % 2**17 == 0 else most
    assert total == 2**23
    assert most < 2**23
    assert resident() - before < 2**20


def test_what_is_made_of_rows_by_parts_is_what_is_made_of_them_at_once(monkeypatch):
    monkeypatch.setattr(mapped, "SMALL", 16)
    monkeypatch.setattr(mapped, "_ROWS", 7)
    one, other = torch.arange(100), torch.arange(300).view(100, 3) % 5
    found = mapped.by_parts(lambda x, y: (x[:, None] * y).float(), one, other)
    assert found.untyped_storage().data_ptr() in mapped._MAPS
    assert torch.equal(found, (one[:, None] * other).float())
    assert mapped.by_parts(torch.neg, one[:0]).tolist() == []


def test_a_spool_whose_disk_fills_has_all_bytes_in_memory(monkeypatch, tmp_path):
    class Disk(FileIO):
        room = 40

        def write(self, data):
            if self.room == 0:
                raise OSError(28, "No space left on device")
            n = super().write(bytes(data)[: self.room])
            self.room -= n
            return n

        def read(self, n=-1):
            return super().read(min(n, 7) if n >= 0 else 7)  # the system's own reads end after two gigabytes

    monkeypatch.setattr(mapped, "SMALL", 8)
    monkeypatch.setattr(mapped.tempfile, "TemporaryFile", lambda **_: Disk(tmp_path / "spool", "w+"))
    with mapped.Spool() as spool:
        for start in range(0, 200, 10):
            spool.write(bytes(range(start, start + 10)))
        assert spool.array().tolist() == list(range(200))
