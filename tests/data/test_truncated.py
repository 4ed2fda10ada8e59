"""JPEGs that lack their last bytes, however they are turned and coloured, and what else a repair must keep."""

import re
import struct
from io import BytesIO

import numpy as np
import pytest
from PIL import Image, UnidentifiedImageError

from shoal.data.decode import UnreadableError, decode, open_noted

NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (26, 15, 3), dtype=np.uint8))
WIDTH, HEIGHT = 120, 208
PICTURE = NOISE.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
ORIENTATIONS = range(1, 9)
MODES = ["L", "RGB", "CMYK"]


def half_grey(mode):
    """The picture with a plain grey below its middle, which is also what stands for missing bytes."""
    values = np.asarray(PICTURE.convert(mode)).copy()
    values[HEIGHT // 2 :] = 128
    return Image.fromarray(values, mode) if mode == "CMYK" else Image.fromarray(values)


def jpeg(image, turn=1, **options):
    """A file whose Exif says how it is to be turned."""
    exif = Image.Exif()
    exif[0x0112] = turn
    file = BytesIO()
    image.save(file, "JPEG", exif=exif, quality=92, **options)
    return file.getvalue()


def upright(turn):
    """Size of the picture once it is turned."""
    return (HEIGHT, WIDTH) if turn > 4 else (WIDTH, HEIGHT)


@pytest.mark.parametrize("turn", ORIENTATIONS)
@pytest.mark.parametrize("mode", MODES)
def test_a_jpeg_that_lacks_most_of_its_bytes_is_refused_however_it_is_turned(mode, turn):
    data = jpeg(PICTURE.convert(mode), turn)
    with pytest.raises(UnreadableError, match=r"^truncated$"):
        decode(data[: int(0.35 * len(data))])


@pytest.mark.parametrize("turn", ORIENTATIONS)
@pytest.mark.parametrize("mode", MODES)
def test_a_jpeg_that_lacks_a_tenth_is_kept_with_the_share_however_it_is_turned(mode, turn):
    data = jpeg(PICTURE.convert(mode), turn)
    image, note = open_noted(data[: int(0.9 * len(data))])
    assert image.size == upright(turn)
    found = re.fullmatch(r"kept although truncated: (\d+) % of its rows are missing", note)
    assert found, note
    assert 5 <= int(found[1]) <= 20


@pytest.mark.parametrize("turn", ORIENTATIONS)
@pytest.mark.parametrize("mode", MODES)
def test_a_jpeg_that_ends_in_grey_and_lacks_only_its_end_mark_has_no_note(mode, turn):
    data = jpeg(half_grey(mode), turn)
    assert data.endswith(b"\xff\xd9")
    image, note = open_noted(data[:-2])
    assert note == ""
    assert image.tobytes() == open_noted(data)[0].tobytes()


def with_profile(data, body):
    """Put a segment into a JPEG that begins as that of a colour profile."""
    return data[:2] + b"\xff\xe2" + struct.pack(">H", 2 + len(body)) + body + data[2:]


@pytest.mark.parametrize("turn", ORIENTATIONS[1:])
@pytest.mark.parametrize("body", [b"ICC_PROFILE\0", b"ICC_PROFILE\0\1"])
def test_a_jpeg_with_a_broken_colour_profile_is_turned_all_the_same(body, turn):
    data = jpeg(PICTURE, turn)
    hurt = with_profile(data, body)
    with pytest.raises(UnidentifiedImageError):
        Image.open(BytesIO(hurt))
    assert open_noted(hurt)[0].size == upright(turn)
    assert np.array_equal(decode(hurt), decode(data))


def test_a_broken_colour_profile_does_not_hide_that_bytes_are_missing():
    data = with_profile(jpeg(PICTURE, 6), b"ICC_PROFILE\0")
    with pytest.raises(UnreadableError, match=r"^truncated$"):
        decode(data[: int(0.35 * len(data))])
    image, note = open_noted(data[: int(0.9 * len(data))])
    assert image.size == upright(6)
    assert "of its rows are missing" in note
    assert open_noted(data[:-2])[1] == ""
