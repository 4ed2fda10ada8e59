"""Features in .npy files keep their digits, and are mapped where they can be."""

import numpy as np
import pytest
import torch

from shoal.data.features import read_features
from shoal.errors import UserError

FAR = 1_700_000_000


def saved(folder, array):
    path = folder / "x.npy"
    np.save(path, array)
    return path


@pytest.mark.parametrize(
    ("dtype", "kept"),
    [
        ("<f2", torch.float16),
        ("<f4", torch.float32),
        ("<f8", torch.float64),
        (">f8", torch.float64),
        (">f2", torch.float16),
        (np.longdouble, torch.float64),
        ("u1", torch.float32),
        ("<i2", torch.float32),
        (">u2", torch.float32),
        ("<i4", torch.float64),
        ("<u4", torch.float64),
        ("<i8", torch.float64),
        ("<u8", torch.float64),
    ],
)
def test_numbers_of_every_type_keep_their_digits(tmp_path, dtype, kept):
    largest = 2048 if np.dtype(dtype).itemsize == 2 else 255 if np.dtype(dtype).itemsize == 1 else FAR
    array = np.array([[largest - 1, 3], [largest, 2]])
    if kept is torch.float32 and dtype == "<f4":
        array = array // 128 * 128 + [[0, 3], [128, 2]]
    rows = read_features(saved(tmp_path, array.astype(dtype)), cosine=True)
    assert rows.dtype == kept
    np.testing.assert_array_equal(rows.double().numpy(), array)


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_floats_are_mapped(tmp_path, dtype):
    array = np.arange(12, dtype=dtype).reshape(4, 3)
    path = saved(tmp_path, array)
    rows = read_features(path, cosine=False)
    with path.open("r+b") as file:
        file.seek(-np.dtype(dtype).itemsize, 2)
        file.write(np.array([50], dtype=dtype).tobytes())
    assert rows[3, 2] == 50  # it is the file, not a copy


def test_columns_first(tmp_path):
    array = np.asfortranarray(np.arange(12.0).reshape(4, 3))
    np.testing.assert_array_equal(read_features(saved(tmp_path, array), cosine=False).numpy(), array)


def test_whole_numbers_that_float64_cannot_tell_apart(tmp_path):
    path = saved(tmp_path, np.array([[1], [20], [500]]) + 10**9 * FAR)
    with pytest.raises(UserError, match=r"x\.npy holds whole numbers from 1700000000000000001 to .*: subtract 17"):
        read_features(path, cosine=False)


def test_every_bad_row_is_counted_however_long_the_file(tmp_path):
    array = np.ones((300_000, 8), dtype=np.float32)
    array[[0, 150_000, 299_999]] = 0
    with pytest.raises(UserError, match="3 rows of zeros"):
        read_features(saved(tmp_path, array), cosine=True)
    array[150_000, 3] = np.nan
    with pytest.raises(UserError, match="NaN or infinity in 1 of 300000 rows"):
        read_features(saved(tmp_path, array), cosine=True)
