"""Samples of more than 8 bits: what becomes black and white, by the file, by the source, by the user."""

import struct
from io import BytesIO

import numpy as np
import pytest
from PIL import Image
from tests.packing import write_tar, write_zip
from tests.pictures import shard

from shoal.data import find_source, read_pixels, to_images
from shoal.data.decode import decode
from shoal.data.greys import ANY, Extremes, Samples, Scale, chosen_ranges, describe, find_missing, fitting_range
from shoal.data.images import DataConfig, load_images
from shoal.data.reading import measured_ranges, source_scale
from shoal.errors import UserError

tifffile = pytest.importorskip("tifffile")
RNG = np.random.default_rng(0)


def encoded(values, kind):
    file = BytesIO()
    Image.fromarray(values).save(file, kind)
    return file.getvalue()


def tiff(values, **options):
    file = BytesIO()
    tifffile.imwrite(file, values, metadata=None, **options)
    return file.getvalue()


def ramps(top, n=5):
    """Greys from 0 up to a brightness of each image's own, at most ``top``."""
    ramp = np.linspace(0, 1, 256).reshape(8, 32)
    return [np.rint(ramp * top * (number + 1) / n).astype(np.uint16) for number in range(n)]


def expected(values, top):
    return np.rint(values / top * 255).astype(np.uint8)


@pytest.mark.parametrize(
    ("kind", "low", "high", "ends"),
    [
        ("uint16", 0, 1023, (0, 1023)),
        ("uint16", 3, 900, (0, 1023)),
        ("uint16", 0, 4095, (0, 4095)),
        ("uint16", 0, 16383, (0, 16383)),
        ("uint16", 10, 60000, (0, 65535)),
        ("uint16", 7000, 9000, (7000, 9000)),  # a thermal camera
        ("uint16", 0, 1, (0, 1)),  # a mask
        ("int16", -1000, 3000, (-1000, 3000)),
        ("int32", 0, 1_000_000, (0, 1_000_000)),
        ("float32", 0.1, 0.9, (0, 1)),
        ("float32", 0, 0.01, (0, 0.01)),
        ("float64", 0, 254, (0, 255)),
        ("float64", 300, 2500, (300, 2500)),
        ("uint16", 0, 0, (0, 1)),
    ],
)
def test_the_range_that_fits(kind, low, high, ends):
    assert fitting_range(kind, low, high) == ends


def test_a_few_hot_pixels_do_not_darken_the_rest():
    values = RNG.integers(0, 1024, (200, 200), dtype=np.uint16)
    values[0, :3] = 65535
    for dtype, ends in ((np.uint16, (0, 1023)), (np.int32, (0, 1023)), (np.float32, None)):
        extremes = Extremes()
        extremes.add(Samples(values.astype(dtype)))
        found = extremes.ranges()[np.dtype(dtype).name]
        assert found == ends if ends else found[1] < 1100


def folder_of(tmp_path, images, kind):
    for number, values in enumerate(images):
        (tmp_path / f"{number}.{kind}").write_bytes(encoded(values, {"tif": "TIFF", "png": "PNG"}[kind]))
    return tmp_path


def sources(tmp_path, images):
    files = {f"{number}.png": encoded(values, "PNG") for number, values in enumerate(images)}
    np.save(tmp_path / "a.npy", np.stack(images))
    for kind in ("tif", "png"):
        (tmp_path / kind).mkdir()
        yield folder_of(tmp_path / kind, images, kind)
    yield write_zip(tmp_path / "a.zip", files)
    yield write_tar(tmp_path / "a.tar.gz", files)
    yield shard(tmp_path / "p" / "a.parquet", list(files.values()))
    yield tmp_path / "a.npy"


@pytest.mark.parametrize("bits", [10, 12, 14])
def test_all_images_of_a_source_share_one_scale(tmp_path, bits):
    top = 2**bits - 1
    images = ramps(top)
    wanted = np.stack([expected(values, top) for values in images])
    for source in sources(tmp_path, images):
        found = to_images(source)
        assert found.ranges == {"uint16": (0, top)}, source
        assert np.array_equal(found.pixels[:, 1].numpy(), wanted), source
        assert np.array_equal(to_images(source).pixels, found.pixels)  # from the cache, with its ranges
        assert to_images(source).ranges == found.ranges
        listing = find_source(source).listing()
        assert measured_ranges(listing) == found.ranges
        assert np.array_equal(read_pixels(listing, [0, 1], 8, found.ranges)[:, 0].shape, (2, 8, 8))
    assert np.array_equal(to_images(np.stack(images)).pixels[:, 2].numpy(), wanted)
    # New images keep the scale of the old ones.
    new = to_images(np.stack(images[:1]), ranges=found.ranges)
    assert np.array_equal(new.pixels[0, 0].numpy(), wanted[0])


def test_eight_bits_are_left_alone_and_read_once(tmp_path, monkeypatch):
    dark = RNG.integers(0, 20, (6, 7), dtype=np.uint8)
    for kind in ("png", "tif"):
        folder_of(tmp_path, [dark, dark], kind)
    monkeypatch.setattr("shoal.data.reading.measured_ranges", lambda _: pytest.fail("measured"))
    found = to_images(tmp_path)
    assert found.ranges == {}
    assert (found.pixels[:, 0].numpy() == dark).all()


def test_measuring_opens_only_what_may_be_deep(tmp_path, monkeypatch):
    Image.new("RGB", (8, 32)).save(tmp_path / "a.jpg")
    Image.new("RGB", (8, 32)).save(tmp_path / "b.png")
    folder_of(tmp_path, ramps(1023, 2), "png")
    listing, opened = find_source(tmp_path).listing(), []
    real = type(tmp_path).read_bytes
    monkeypatch.setattr(type(tmp_path), "read_bytes", lambda path: opened.append(path.name) or real(path))
    assert measured_ranges(listing) == {"uint16": (0, 1023)}
    assert sorted(opened) == ["0.png", "1.png"]


def test_each_type_of_number_has_its_own_range(tmp_path):
    ramp = np.linspace(0, 1, 256).reshape(8, 32)
    for name, values in {
        "a": (ramp * 4095).astype(np.uint16),
        "b": ramp.astype(np.float32),
        "c": (ramp * 2000 - 1000).astype(np.int16),
        "d": (ramp * 1e6).astype(np.uint32),
    }.items():
        (tmp_path / f"{name}.tif").write_bytes(tiff(values))
    found = to_images(tmp_path)
    assert set(found.ranges) == {"uint16", "float32", "int16", "uint32"}
    assert np.abs(found.pixels[:, 0].numpy() - ramp * 255).max() <= 1
    assert describe(found.ranges) == (
        "-1000 to 1000 of int16, 0 to 4095 of uint16, 0 to 1e+06 of uint32 are shown as black to white"
    )


def test_tags_say_what_is_white(tmp_path):
    for top in (1000, 1023, 700):  # rounded up to whole bits: some writers give the largest value of the image
        values = ramps(500, 1)[0]
        data = tiff(values, extratags=[(281, 3, 1, top, True)])
        assert np.array_equal(decode(data)[0], expected(values, 1023))
    lies = tiff(ramps(5000, 1)[0], extratags=[(281, 3, 1, 1023, True)])
    assert decode(lies).max() > 150
    assert len(np.unique(decode(lies))) > 150  # not clipped at 1023
    stated = [tiff(values, extratags=[(281, 3, 1, 1023, True)]) for values in ramps(1023, 3)]
    for number, data in enumerate(stated):
        (tmp_path / f"{number}.tif").write_bytes(data)
    (tmp_path / "9.tif").write_bytes(tiff(ramps(16383, 1)[0]))
    found = to_images(tmp_path)
    assert [int(image.max()) for image in found.pixels] == [85, 170, 255, 255]


@pytest.mark.parametrize("bits", [10, 12, 14])
def test_packed_bits_and_pgm_have_their_own_range(bits):
    pytest.importorskip("imagecodecs")
    values = ramps(2**bits - 1, 3)[0]
    body = f"P5 32 8 {2**bits - 1}\n".encode() + values.astype(">u2").tobytes()
    assert np.abs(decode(body)[0].astype(int) - expected(values, 2**bits - 1)).max() <= 1
    for scale in (Scale(chosen_ranges((0, 255))), Scale({"uint16": (0, 65535)})):
        shown = decode(body, scale=scale)[0]
        assert (shown.max() == 255) == (ANY in scale.ranges)


def test_significant_bits_of_a_png():
    import zlib

    def with_sbit(values, bits):
        data = encoded(values, "PNG")
        chunk = struct.pack(">I", 1) + b"sBIT" + bytes([bits])
        return data[:33] + chunk + struct.pack(">I", zlib.crc32(chunk[4:])) + data[33:]

    low = ramps(1023, 3)[0]  # 341 at most
    assert np.array_equal(decode(with_sbit(low, 10))[0], expected(low, 1023))
    full = ramps(65535, 3)[0]  # scaled up, as the standard asks
    assert np.array_equal(decode(with_sbit(full, 10))[0], expected(full, 65535))


def test_a_user_sets_the_range(tmp_path):
    images = ramps(1023)
    for kind in ("tif", "png"):
        folder_of(tmp_path, images, kind)
    np.save(tmp_path / "a.npy", np.stack(images))
    np.save(tmp_path / "f.npy", np.stack(images).astype(np.float32) - 100)
    for path, low in ((tmp_path, 0), (tmp_path / "a.npy", 0), (tmp_path / "f.npy", -100)):
        found = load_images(DataConfig(path=str(path), range=(low, low + 511)))
        assert found.ranges == {ANY: (low, low + 511)}
        assert np.array_equal(found.pixels[0, 0].numpy(), np.rint(np.clip(images[0] / 511 * 255, 0, 255)))
    assert load_images(DataConfig(path=str(tmp_path))).ranges == {"uint16": (0, 1023)}  # not from the other's cache
    with pytest.raises(UserError, match=r"f.npy contains values from -100.*--data.range LOW HIGH"):
        to_images(tmp_path / "f.npy")
    for ends in ((5, 5), (9, 1), (float("nan"), 1), (0, float("inf"))):
        with pytest.raises(UserError, match="two numbers, the smaller one first"):
            load_images(DataConfig(path=str(tmp_path), range=ends))


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16, np.int32])
@pytest.mark.parametrize("fill", [-9999, -32768, "tag", np.nan, -3.4028234663852886e38, np.inf, 9.96921e36])
def test_pixels_without_data_leave_the_others_their_contrast(dtype, fill):
    values = np.tile(np.linspace(10, 640, 64), (64, 1)).astype(dtype)
    tags = []
    if fill == "tag":
        fill, tags = 5000, [(42113, 2, 5, "5000", True)]
    if not abs(fill) < 1e30 and np.dtype(dtype).kind != "f":
        pytest.skip("whole numbers have no such value")
    holes = values.copy()
    holes[:8] = fill
    shown, alone = decode(tiff(holes, extratags=tags)), decode(tiff(values))
    assert np.abs(shown[0, 8:].astype(int) - alone[0, 8:]).max() <= 1
    assert (shown[0, :8] == 0).all()


def test_values_that_belong_to_the_picture_are_data():
    depths = np.tile(np.linspace(-9999, 9000, 64), (64, 1)).astype(np.float32)
    assert find_missing(depths) is None
    assert find_missing(np.full((4, 4), -9999.0)) is None
    assert decode(tiff(np.full((4, 4), np.nan, np.float32))).shape == (3, 4, 4)


def test_a_transparent_grey_of_sixteen_bits_is_white():
    image = Image.fromarray(np.array([[0, 5000, 300, 65535]], np.uint16))
    file = BytesIO()
    image.save(file, "PNG", transparency=5000)
    assert decode(file.getvalue())[0].tolist() == [[0, 255, 1, 255]]


def test_the_source_is_measured_once_and_by_many_threads_at_a_time(tmp_path):
    calls = []
    scale = Scale(measure=lambda: calls.append(1) or {"uint16": (0.0, 1023.0)})
    for kind in ("uint16", "uint16", "float32"):
        scale.settle(kind)
    assert calls == [1]
    assert source_scale(find_source(folder_of(tmp_path, ramps(1023), "png")).listing(), {ANY: (0, 9)}).ranges == {
        ANY: (0, 9)
    }
