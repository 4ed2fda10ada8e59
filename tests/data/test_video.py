"""Frames of videos: which are taken, their pixels, and what becomes of odd and broken files."""

import json
import os
import re
import shutil
import zipfile
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image
from tests.pictures import png
from tests.videos import RATE, SIZE, colour_of, encode, plain

from shoal.data import find_source, to_images
from shoal.data.file_stats import stat_of
from shoal.data.greys import Samples
from shoal.data.reading import read_blob, select
from shoal.data.sources.joined import files_source
from shoal.data.sources.video import check_has_videos
from shoal.data.video import every as every_module
from shoal.data.video.every import SCENE, frame_name, parse_every, time_in_name
from shoal.data.video.scenes import SceneDetector
from shoal.errors import UserError

pytestmark = pytest.mark.usefixtures("own_cache")

H264 = {"codec": "libx264", "pixels": "yuv444p", "options": {"qp": "0"}}


def read(path, every="500ms"):
    """Name behind the file's, and pixels or the reason why there are none, of each image."""
    listing = find_source(str(path), every=every).listing()
    return [(name, read_blob(blob)[0]) for name, blob in zip(listing.ids, listing.blobs(), strict=True)]


def numbers_of(found, n=40):
    """Numbers of plain frames, by their colours."""
    known = [colour_of(number).astype(int) for number in range(n)]
    middles = [pixels[:, pixels.shape[1] // 2, pixels.shape[2] // 2].astype(int) for _, pixels in found]
    return [int(np.argmin([np.abs(each - middle).sum() for each in known])) for middle in middles]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2s", 2_000_000),
        ("500ms", 500_000),
        ("1min", 60_000_000),
        ("1.5", 1_500_000),
        (" .25 S", 250_000),
        ("1h", 36 * 10**8),
    ],
)
def test_intervals(text, expected):
    assert parse_every(text) == expected
    assert parse_every("scene") == SCENE


@pytest.mark.parametrize("text", ["0", "0.1ms", "-2s", "two", "2 days", "nan", "inf", "1e3s", "9999999999h", "scenes"])
def test_what_is_no_interval(text):
    with pytest.raises(UserError, match="is not an interval: give one such as 2s"):
        parse_every(text)


@pytest.mark.parametrize("time", [0, 12_000_000, 500_000, 1, 3600_000_001])
def test_names_hold_times(time):
    assert time_in_name(frame_name("a/clip.mp4", time)) == time
    assert frame_name("clip.mp4", 12_000_000) == "clip.mp4#t=12.0"
    assert time_in_name("clip.mp4") == -1


@pytest.mark.parametrize(
    ("suffix", "codec", "pixels"),
    [
        *(
            (".mp4", "libx264", "yuv420p"),
            (".mov", "libx264", "yuv444p"),
            (".mkv", "ffv1", "bgr0"),
            (".avi", "mpeg4", "yuv420p"),
        ),
        *((".webm", "libvpx-vp9", "yuv420p"), (".ts", "libx264", "yuv420p"), (".mpg", "mpeg2video", "yuv420p")),
        *(
            (".flv", "libx264", "yuv420p"),
            (".wmv", "wmv2", "yuv420p"),
            (".mxf", "mpeg2video", "yuv422p"),
            (".3gp", "mpeg4", "yuv420p"),
        ),
    ],
)
def test_frames_of_every_format(tmp_path, suffix, codec, pixels):
    rate = 25 if suffix in (".mpg", ".mxf") else RATE
    path = encode(tmp_path / f"clip{suffix}", 2 * rate, codec=codec, pixels=pixels, rate=rate, size=(64, 48))
    found = read(path)
    assert [name for name, _ in found] == [f"clip{suffix}#t={time}" for time in (0.0, 0.5, 1.0, 1.5)]
    assert numbers_of(found, 2 * rate) == [0, rate // 2, rate, rate + rate // 2]


def test_a_video_is_known_by_its_content(tmp_path):
    path = encode(tmp_path / "in" / "clip.mp4", **H264)
    path.rename(tmp_path / "in" / "clip")
    encode(tmp_path / "in" / "b.ts", **H264)
    ids = find_source(str(tmp_path / "in"), every="1s").listing().ids
    assert list(ids) == ["b.ts#t=0.0", "b.ts#t=1.0", "clip#t=0.0", "clip#t=1.0"]


def test_lossless_pixels_are_exact(tmp_path):
    def noise(number):
        return np.random.default_rng(number).integers(0, 256, (SIZE[1], SIZE[0], 3), np.uint8)

    for (_, pixels), number in zip(read(encode(tmp_path / "a.mkv", draw=noise)), (0, 5, 10, 15), strict=True):
        assert np.array_equal(pixels.transpose(1, 2, 0), noise(number))


MATRICES = {1: (0.2126, 0.0722), 5: (0.299, 0.114), 6: (0.299, 0.114), 7: (0.212, 0.087), 9: (0.2627, 0.0593)}
"""Kr and Kb of the matrices of H.273, table 4."""


def rgb_of(yuv, matrix, bits=8, *, full=False):
    """RGB by the equations of H.273 in float64; ``yuv`` is (3, h, w)."""
    kr, kb = MATRICES[matrix]
    y, u, v = yuv.astype(float) / 2 ** (bits - 8)
    top = (2**bits - 1) / 2 ** (bits - 8)
    if full:
        y, u, v = y / top, (u - 128) / top, (v - 128) / top
    else:
        y, u, v = (y - 16) / 219, (u - 128) / 224, (v - 128) / 224
    red, blue = y + 2 * (1 - kr) * v, y + 2 * (1 - kb) * u
    green = (y - kr * red - kb * blue) / (1 - kr - kb)
    return np.clip(255 * np.stack([red, green, blue]), 0, 255)


@pytest.mark.parametrize("matrix", MATRICES)
@pytest.mark.parametrize("full", [False, True])
def test_matrix_and_range_are_those_of_the_video(tmp_path, matrix, full):
    yuv = np.random.default_rng(0).integers(16, 236, (3, SIZE[1], SIZE[0]), np.uint8)
    tags = {"colorspace": matrix, "color_range": 2 if full else 1}
    path = encode(tmp_path / "a.mkv", 1, draw=lambda _: yuv, pixels="yuv444p", source="yuv444p", tags=tags)
    ((_, pixels),) = read(path)
    assert np.abs(pixels - rgb_of(yuv, matrix, full=full)).max() <= 1


@pytest.mark.parametrize(("size", "matrix"), [((48, 32), 6), ((1280, 16), 1), ((16, 578), 1), ((720, 576), 6)])
def test_without_a_matrix_it_is_told_by_the_size(tmp_path, size, matrix):
    yuv = np.broadcast_to(np.array([81, 90, 220], np.uint8)[:, None, None], (3, size[1], size[0]))
    path = encode(tmp_path / "a.mkv", 1, draw=lambda _: yuv, pixels="yuv444p", source="yuv444p", size=size)
    ((_, pixels),) = read(path)
    assert np.abs(pixels[:, 4, 4] - rgb_of(yuv[:, :1, :1], matrix)[:, 0, 0]).max() <= 1


def test_ten_bits_are_rounded_to_eight(tmp_path):
    yuv = np.random.default_rng(0).integers(64, 940, (3, SIZE[1], SIZE[0]), np.uint16)
    tags = {"colorspace": 1, "color_range": 1}
    path = encode(tmp_path / "a.mkv", 1, draw=lambda _: yuv, pixels="yuv444p10le", source="yuv444p10le", tags=tags)
    ((_, pixels),) = read(path)
    assert np.abs(pixels - rgb_of(yuv, 1, 10)).max() <= 1


def pq(nits):
    """The code of a luminance, of 0 to 1, by SMPTE ST 2084."""
    m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
    power = (nits / 10000) ** m1
    return ((c1 + c2 * power) / (1 + c3 * power)) ** m2


@pytest.mark.slow
def test_hdr_keeps_its_greys(tmp_path):
    """Diffuse white of PQ, 203 cd/m² by BT.2408, is white, and a fifth of it is the grey of a fifth."""
    codes = [round(64 + 876 * pq(nits)) for nits in (203.0, 203 / 5, 0.0, 1000.0)]
    yuv = np.full((3, SIZE[1], SIZE[0]), 512, np.uint16)
    yuv[0] = np.repeat(codes, SIZE[0] // 4)
    tags = {"colorspace": 9, "color_range": 1, "color_trc": 16, "color_primaries": 9}
    path = encode(tmp_path / "a.mkv", 1, draw=lambda _: yuv, pixels="yuv444p10le", source="yuv444p10le", tags=tags)
    ((_, pixels),) = read(path)
    assert np.ptp(pixels.astype(int), axis=0).max() <= 3  # grey
    white, grey, black, bright = pixels[1, 4, 6::12].astype(int)
    assert white >= 250
    assert black <= 2
    assert bright == 255
    assert 100 <= grey <= 135  # (1/5)^(1/2.4) to 1.099 (1/5)^0.45 − 0.099 of 255


def test_deep_grey_is_scaled_as_that_of_images(tmp_path):
    grey = np.linspace(7000, 9000, SIZE[0] * SIZE[1]).astype(np.uint16).reshape(SIZE[1], SIZE[0])
    path = encode(tmp_path / "in" / "a.mkv", 1, draw=lambda _: grey, pixels="gray16le", source="gray16le")
    ((_, samples),) = read(path)
    assert isinstance(samples, Samples)
    assert np.array_equal(samples.values, grey)
    pixels = to_images(tmp_path / "in", every="1s").pixels[0]
    assert (int(pixels.min()), int(pixels.max())) == (0, 255)


def test_transparency_is_white(tmp_path):
    def half(_):
        pixels = np.zeros((SIZE[1], SIZE[0], 4), np.uint8)
        pixels[:, : SIZE[0] // 2] = (255, 0, 0, 255)
        return pixels

    path = encode(tmp_path / "a.mov", 1, draw=half, codec="qtrle", pixels="argb", source="rgba")
    ((_, pixels),) = read(path)
    assert pixels[:, 3, 3].tolist() == [255, 0, 0]
    assert pixels[:, 3, -3].tolist() == [255, 255, 255]


@pytest.mark.parametrize(("degrees", "corner"), [(0, (0, 0)), (90, (-1, 0)), (180, (-1, -1)), (-90, (0, -1))])
def test_a_video_is_turned_upright(tmp_path, degrees, corner):
    """Anticlockwise, as the players do it: the corner at the top left goes to the bottom left at 90°."""

    def marked(_):
        pixels = np.zeros((SIZE[1], SIZE[0], 3), np.uint8)
        pixels[:8, :8] = 255
        return pixels

    ((_, pixels),) = read(encode(tmp_path / "a.mp4", 1, draw=marked, degrees=degrees, **H264))
    assert pixels.shape[1:] == (SIZE if degrees in (90, -90) else SIZE[::-1])
    assert pixels[1][corner] > 250
    assert (pixels[1] > 128).sum() == 64


def test_pixels_that_are_not_square_are_made_so(tmp_path):
    path = encode(tmp_path / "a.mp4", 1, size=(40, 32), tags={"sample_aspect_ratio": Fraction(16, 10)}, **H264)
    ((_, pixels),) = read(path)
    assert pixels.shape[1:] == (32, 64)


@pytest.mark.parametrize("size", [(2, 2), (17, 9), (3, 33)])
def test_odd_sizes(tmp_path, size):
    ((_, pixels),) = read(encode(tmp_path / "a.mkv", 1, size=size, draw=lambda n: plain(n, size)))
    assert pixels.shape[1:] == size[::-1]


def test_of_an_interlaced_frame_one_moment_is_shown(tmp_path):
    def combed(_):
        pixels = np.zeros((SIZE[1], SIZE[0], 3), np.uint8)
        pixels[::2] = 200  # one field, of a bright moment
        return pixels

    path = encode(
        *(tmp_path / "a.mpg", 25),
        draw=combed,
        codec="mpeg2video",
        pixels="yuv420p",
        rate=25,
        options={"flags": "+ildct+ilme", "qmin": "1", "qmax": "1"},
    )
    _, pixels = read(path)[0]
    assert np.ptp(pixels.astype(int)) < 25  # the first field alone, which of both it may be


def test_frames_of_a_variable_rate_are_those_on_screen(tmp_path):
    """At 1.5 s the frame of 0.12 s is still there, and is not taken again."""
    path = encode(tmp_path / "a.mkv", 6, stamps=[0, 100, 120, 3000, 3050, 3400], base=Fraction(1, 1000))
    found = read(path)
    assert [time_in_name(name) for name, _ in found] == [0, 500_000, 3_000_000]
    assert numbers_of(found) == [0, 2, 3]


def test_an_interval_shorter_than_a_frame_takes_each_once(tmp_path):
    found = read(encode(tmp_path / "a.mkv", 8), every="1ms")
    assert numbers_of(found) == [*range(8)]


def test_times_begin_at_the_first_frame(tmp_path):
    found = read(encode(tmp_path / "a.mkv", stamps=[1000 + number for number in range(20)]))
    assert [name for name, _ in found] == [f"a.mkv#t={time}" for time in (0.0, 0.5, 1.0, 1.5)]
    assert numbers_of(found) == [0, 5, 10, 15]


def test_a_video_of_one_frame(tmp_path):
    assert [name for name, _ in read(encode(tmp_path / "a.mkv", 1))] == ["a.mkv#t=0.0"]


def test_a_stream_that_does_not_say_how_long_it_is(tmp_path):
    path = encode(tmp_path / "a.webm", codec="libvpx-vp9", pixels="yuv420p", container={"live": "1"}, size=(64, 48))
    assert len(read(path)) == 4


@pytest.mark.parametrize("gop", [1, 30, 1000])
def test_frames_far_apart_are_those_of_decoding_all(tmp_path, gop):
    """Some are reached by passing over what is before a key frame, some by decoding on."""
    path = encode(tmp_path / "a.mp4", 300, gop=gop, size=(16, 16), draw=lambda n: plain(n, (16, 16)), **H264)
    listing = find_source(str(path), every="100ms").listing()
    whole = [read_blob(blob) for blob in listing.blobs()]
    for rows in ([0, 299], [7, 8, 150, 151, 152, 290], [299], [*range(0, 300, 50)]):
        some = [read_blob(blob) for blob in select(listing, rows)]
        assert [print_ for _, print_ in some] == [whole[row][1] for row in rows]
    assert numbers_of([("", pixels) for pixels, _ in whole[:40]]) == [*range(40)]


def test_sound_and_covers_are_no_frames(tmp_path):
    encode(tmp_path / "in" / "film.mp4", sound=True, **H264)
    import av

    with av.open(str(tmp_path / "in" / "song.mp4"), "w") as file:
        stream = file.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        file.mux(stream.encode(frame))
        file.mux(stream.encode())
    source = find_source(str(tmp_path / "in"), every="1s")
    assert list(source.listing().ids) == ["film.mp4#t=0.0", "film.mp4#t=1.0"]
    assert source.listing().others.counts == {"sound": 1}
    with pytest.raises(UserError, match="only sound"):
        find_source(str(tmp_path / "in" / "song.mp4"), every="1s").listing()


def noisy(number):
    return np.random.default_rng(number).integers(0, 256, (SIZE[1], SIZE[0], 3), np.uint8)


@pytest.mark.parametrize(
    ("suffix", "codec", "pixels"),
    [(".mkv", "ffv1", "bgr0"), (".mp4", "libx264", "yuv420p"), (".avi", "mpeg4", "yuv420p")],
)
def test_of_a_video_that_was_cut_off_the_frames_before_are_kept(tmp_path, suffix, codec, pixels):
    header_first = {"movflags": "faststart"} if suffix == ".mp4" else None
    path = encode(tmp_path / f"a{suffix}", 100, draw=noisy, codec=codec, pixels=pixels, container=header_first)
    whole = [pixels for _, pixels in read(path, "1s")]
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    *found, (name, reason) = read(path, "1s")
    assert 5 <= len(found) <= 6
    assert all(np.array_equal(pixels, known) for (_, pixels), known in zip(found, whole, strict=False))
    assert name == f"a{suffix}"
    assert "a damaged video, or one that was cut off: kept up to" in reason


@pytest.mark.parametrize("suffix", [".mkv", ".mp4", ".avi", ".ts"])
@pytest.mark.parametrize("rate", [1, 2, 25])
def test_frames_that_are_stored_out_of_order_are_no_new_start(tmp_path, suffix, rate):
    path = encode(tmp_path / f"a{suffix}", 6 * rate, codec="libx264", pixels="yuv420p", rate=rate, options={"bf": "3"})
    assert len(read(path, "1s")) == 6


@pytest.mark.parametrize("suffix", [".ts", ".mpg"])
@pytest.mark.parametrize("every", ["500ms", "scene"])
def test_of_recordings_that_were_joined_byte_by_byte_the_first_is_read_and_the_rest_told(tmp_path, suffix, every):
    path = encode(tmp_path / f"a{suffix}", 50, codec="mpeg2video", pixels="yuv420p", rate=25, size=(64, 48))
    alone = read(path, every)
    path.write_bytes(path.read_bytes() * 2)
    *found, (name, reason) = read(path, every)
    assert [place for place, _ in found] == [place for place, _ in alone]
    assert name == f"a{suffix}"
    assert re.match(r"its time stamps start again: kept up to 2\.\d s; 'ffmpeg -i FILE", reason)


def test_frames_within_damage_are_listed(tmp_path):
    path = encode(tmp_path / "a.mp4", 100, draw=noisy, codec="libx264", pixels="yuv420p")
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + len(data) // 10] = bytes(len(data) // 10)
    path.write_bytes(bytes(data))
    found = read(path, "1s")
    lost = [name for name, pixels in found if isinstance(pixels, str)]
    assert len(found) == 10
    assert 1 <= len(lost) <= 3
    assert all("frames are missing here" in pixels for _, pixels in found if isinstance(pixels, str))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty file"),
        (bytes(range(256)) * 9, "a damaged video, or no video"),
        (b"\0\0\0\x18ftypisom\0\0\2\0isom", "a damaged video, or"),
        (b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nSECRET\n#EXT-X-ENDLIST\n", "no video"),
        (b"ffconcat version 1.0\nfile SECRET\n", "no video"),
        (b"<?xml version='1.0'?><MPD><BaseURL>SECRET</BaseURL></MPD>", "no video"),
    ],
)
def test_what_is_no_video_is_listed_and_opens_nothing_else(tmp_path, content, reason):
    secret = encode(tmp_path / "secret.mkv")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.mp4").write_bytes(content.replace(b"SECRET", str(secret).encode()))
    ((name, found),) = read(tmp_path / "in")
    assert name == "a.mp4"
    assert reason in found


def test_names_that_look_like_protocols_or_are_no_utf8(tmp_path):
    (tmp_path / "in").mkdir()
    film = encode(tmp_path / "a.mp4", **H264).read_bytes()
    for name in (b"http:evil.mp4", b"concat:a|b.mp4", b"\xff\xfe.mp4", b"-i.mp4"):
        (tmp_path / "in" / os.fsdecode(name)).write_bytes(film)
    found = read(tmp_path / "in", "1s")
    assert len(found) == 8
    assert not any(isinstance(pixels, str) for _, pixels in found)


def test_a_video_larger_than_any_camera_makes(tmp_path, monkeypatch):
    from shoal.data.video import opening

    path = encode(tmp_path / "a.mkv")
    monkeypatch.setattr(opening, "_MOST_PIXELS", 1000)
    assert read(path) == [("a.mkv", "too many pixels, perhaps a decompression bomb")]


def test_frames_have_the_place_of_their_video_among_images(tmp_path):
    for name in ("a/1.png", "a/3.png", "b/1.png"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", SIZE, "red").save(tmp_path / "in" / name)
    encode(tmp_path / "in" / "a" / "2.mkv")
    source = find_source(str(tmp_path / "in"), every="1s")
    listing = source.listing()
    assert list(listing.ids) == ["a/1.png", "a/2.mkv#t=0.0", "a/2.mkv#t=1.0", "a/3.png", "b/1.png"]
    assert [listing.path(row) is None for row in range(5)] == [False, True, True, False, False]
    assert np.asarray(listing.targets).tolist() == [0, 0, 0, 0, 1]
    assert len(source.files) == 4
    images = to_images(tmp_path / "in", every="1s")
    assert list(images.ids) == list(listing.ids)
    assert images.pixels[1, :, 0, 0].tolist() == colour_of(0).tolist()


def test_a_video_is_gone_through_once(tmp_path, monkeypatch):
    from shoal.data.video import timeline

    path = encode(tmp_path / "a.mkv")
    before = read(path, "scene")
    monkeypatch.setattr(timeline, "_scan", None)
    assert [name for name, _ in read(path, "scene")] == [name for name, _ in before]
    path.touch()
    with pytest.raises(TypeError):
        read(path, "scene")


def test_without_the_interval_a_video_is_named_with_what_to_do(tmp_path):
    path = encode(tmp_path / "in" / "a.mkv")
    with pytest.raises(
        UserError, match=r"a\.mkv is a video: say how often to take a frame of it, as with --every 2s\."
    ):
        find_source(str(path))
    with pytest.raises(UserError, match=r"only 1 video; --every 2s takes frames of videos\."):
        find_source(str(tmp_path / "in"))
    Image.new("RGB", SIZE).save(tmp_path / "in" / "b.png")
    listing = find_source(str(tmp_path / "in")).listing()
    assert list(listing.ids) == ["b.png"]
    assert listing.others.reasons == {"a.mkv": "video: take frames of it with --every 2s"}


def test_without_pyav_images_go_on_and_frames_are_refused_in_a_sentence(tmp_path, monkeypatch):
    from shoal.data import kinds

    encode(tmp_path / "a.mkv")
    Image.new("RGB", SIZE).save(tmp_path / "b.png")
    is_installed = kinds._is_installed
    monkeypatch.setattr(kinds, "_is_installed", lambda package: package != "av" and is_installed(package))
    monkeypatch.setattr(every_module, "can_read_videos", lambda: False)
    listing = find_source(str(tmp_path)).listing()
    assert list(listing.ids) == ["b.png"]
    assert listing.others.reasons["a.mkv"].startswith("video: pip install 'shoal[video]'")
    with pytest.raises(UserError, match=r"needs PyAV: pip install 'shoal\[video\]'\.$"):
        find_source(str(tmp_path), every="2s")


def test_where_there_are_no_videos_the_interval_is_refused(tmp_path):
    Image.new("RGB", SIZE).save(tmp_path / "b.png")
    with pytest.raises(UserError, match=r"--every 2s takes frames of videos, and there are none in .*: leave it out\."):
        to_images(tmp_path, every="2s")


def test_an_animation_is_an_image_and_no_video(tmp_path):
    frames = [Image.new("RGB", SIZE, color) for color in ("red", "lime", "blue")]
    for suffix in ("gif", "webp", "png"):
        frames[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:], duration=1000)
    found = read(tmp_path)
    assert [name for name, _ in found] == ["a.gif", "a.png", "a.webp"]


def scenery(seed):
    """A picture of large patches, (3, 16, 16)."""
    return np.repeat(np.repeat(np.random.default_rng(seed).uniform(0, 255, (3, 4, 4)), 4, 1), 4, 2)


def scenes_in(frames, rate=25):
    detector = SceneDetector(rate)
    for frame in frames:
        detector.add_thumbnail(frame)
    return detector.starts().tolist()


def test_cuts_are_found_where_they_are():
    rng = np.random.default_rng(0)
    frames = [scenery(scene) + rng.normal(0, 4, (3, 16, 16)) for scene in (0, 1, 2) for _ in range(40)]
    assert scenes_in(frames) == [0, 40, 80]


def test_a_cross_fade_is_one_change():
    weights = np.clip((np.arange(120) - 50) / 20, 0, 1)
    (_, cut) = scenes_in([scenery(0) * (1 - weight) + scenery(1) * weight for weight in weights])
    assert 55 <= cut <= 65


def test_flashes_noise_and_moving_cameras_are_no_changes():
    rng = np.random.default_rng(0)
    still = [scenery(0) + rng.normal(0, 8, (3, 16, 16)) for _ in range(120)]
    still[60] = still[61] = np.full((3, 16, 16), 255.0)
    assert scenes_in(still) == [0]
    wide = np.concatenate([scenery(seed) for seed in range(12)], 2)  # a pan over 192 columns in 4 s
    assert scenes_in([wide[:, :, at : at + 16] for at in np.linspace(0, 170, 100).astype(int)]) == [0]


def test_the_middle_frame_stands_for_a_scene(tmp_path):
    def draw(number):
        return plain(number // 20)

    found = read(encode(tmp_path / "a.mkv", 60, draw=draw), "scene")
    assert [name for name, _ in found] == ["a.mkv#t=0.9", "a.mkv#t=2.9", "a.mkv#t=4.9"]
    assert numbers_of(found) == [0, 1, 2]


def test_the_cache_of_another_version_is_read_anew(tmp_path):
    path = encode(tmp_path / "a.mkv")
    before = [name for name, _ in read(path)]
    for kept in (tmp_path / "cache").glob("*.video"):
        kept.write_text(json.dumps({"times": [0], "unknown": 1}))
    assert [name for name, _ in read(path)] == before


def test_videos_in_lists_and_tables(tmp_path):
    film, photo = encode(tmp_path / "a.mkv"), tmp_path / "b.png"
    Image.new("RGB", SIZE).save(photo)
    listing = find_source([film, photo], every="1s").listing()
    assert list(listing.ids) == [f"{film}#t=0.0", f"{film}#t=1.0", str(photo)]
    (tmp_path / "table.csv").write_text("path,label,id\na.mkv,cat,film\nb.png,dog,photo\n")
    listing = find_source(str(tmp_path / "table.csv"), every="1s").listing()
    assert list(listing.ids) == ["film#t=0.0", "film#t=1.0", "photo"]
    assert np.asarray(listing.targets).tolist() == [0, 0, 1]
    assert numbers_of([("", read_blob(blob)[0]) for blob in list(listing.blobs())[:2]]) == [0, 10]


def test_frames_that_were_listed_are_found_again_by_their_names(tmp_path):
    film, photo = str(encode(tmp_path / "a.mkv")), str(tmp_path / "b.png")
    Image.new("RGB", SIZE).save(photo)
    names = ["x#t=0.0", "x#t=1.0", "x#t=7.0", "photo", "x#t=1.5"]
    listing = files_source([film, film, film, photo, film], names, "500ms").listing()
    found = [read_blob(blob)[0] for blob in listing.blobs()]
    assert numbers_of([("", found[row]) for row in (0, 1, 4)]) == [0, 10, 15]
    assert "no frame at this time" in found[2]
    assert not isinstance(found[3], str)
    assert [read_blob(blob)[1] for blob in select(listing, [1, 3])] == [
        read_blob(blob)[1] for row, blob in enumerate(listing.blobs()) if row in (1, 3)
    ]


# In archives and storages


def contents(spec, every="500ms"):
    """Names and fingerprints of all images, and of some that are selected."""
    listing = find_source(str(spec), every=every).listing()
    found = [read_blob(blob)[1] for blob in listing.blobs()]
    some = range(0, len(found), 2)
    assert [read_blob(blob)[1] for blob in select(listing, some)] == [found[row] for row in some]
    assert [read_blob(blob)[1] for blob in listing.blobs_from(1)] == found[1:]
    return [*listing.ids], found


@pytest.fixture
def films(tmp_path):
    """Files by their names: videos, of which one has its index at its end, and images between."""
    folder = tmp_path / "films"
    encode(folder / "a.mkv", 30)
    encode(folder / "c.mp4", **H264)
    (folder / "b.png").write_bytes(png("red", SIZE))
    (folder / "d.png").write_bytes(png("blue", SIZE))
    (folder / "e").write_bytes((folder / "a.mkv").read_bytes())
    return folder


@pytest.mark.parametrize("pack", ["zip", "tar"])
def test_videos_in_archives(films, tmp_path, pack):
    from tests.packing import write_tar, write_zip

    path = tmp_path / f"in.{pack}"
    {"zip": write_zip, "tar": write_tar}[pack](path, {each.name: each.read_bytes() for each in sorted(films.iterdir())})
    ids, expected = contents(films)
    found = contents(path)
    assert found == ([f"in.{pack}/{name}" for name in ids], expected)
    assert len(ids) == 18
    shutil.copy(path, tmp_path / "films" / f"0.{pack}")  # beside others it is passed over, and alone it is read
    assert contents(films)[0] == ids
    assert contents(tmp_path / f"*.{pack}")[1] == expected


def test_videos_in_a_compressed_tar_are_named_with_what_to_do(films, tmp_path):
    from tests.packing import write_tar

    path = write_tar(tmp_path / "in.tar.gz", {each.name: each.read_bytes() for each in sorted(films.iterdir())})
    source = find_source(str(path), every="1s")
    assert source.listing().others.reasons["in.tar.gz/c.mp4"] == (
        "video in a compressed tar: unpack the archive, or pack it as .zip or .tar"
    )
    with pytest.raises(UserError, match=r"the videos in in\.tar\.gz are in a compressed tar, .*: unpack the archive"):
        check_has_videos(source, "1s", "in.tar.gz")


def test_videos_at_addresses_in_lists_are_named_with_what_to_do():
    source = find_source(["memory://p/a.mp4", "memory://p/b.png"], every="1s")
    with pytest.raises(UserError, match="not read by addresses in a list or a table such as -: give their folder"):
        check_has_videos(source, "1s", "-")


def test_what_is_wrong_with_videos_in_archives(films, tmp_path):
    from tests.packing import write_zip

    video = (films / "a.mkv").read_bytes()
    members = {"a.mkv": video, "b.mp4": b"text" * 99, "c.mkv": b"", "d.png": png("red", SIZE)}
    path = write_zip(tmp_path / "in.zip", members, zipfile.ZIP_STORED)
    data = bytearray(path.read_bytes())
    data[data.index(video[-900:-800]) + 50] ^= 0xFF  # stored, as ffv1 does not compress
    path.write_bytes(data)
    listing = find_source(str(path), every="1s").listing()
    reasons = [read_blob(blob)[0] for blob in listing.blobs()][:3]
    assert reasons[0].startswith("damaged: bad crc-32")
    assert reasons[1].startswith("a damaged video, or no video")
    assert reasons[2] == "empty file"


def test_videos_in_storages(films):
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.store.clear()
    memory.pipe({f"/films/{each.name}": each.read_bytes() for each in films.iterdir()})
    expected = contents(films)
    assert contents("memory://films") == expected
    listing = find_source("memory://films", every="500ms").listing()
    assert listing.stats.shape == (18, 3)
    assert [stat_of(blob) for blob in listing.blobs()] == [tuple(row) for row in listing.stats.tolist()]
    assert len(contents("memory://films/c.mp4")[0]) == len(contents("memory://films/c*")[0]) == 4
    with pytest.raises(UserError, match=r"c\.mp4 is a video: say how often"):
        find_source("memory://films/c.mp4")
    assert find_source("memory://films").others.counts["video"] == 3
    memory.store.clear()


def test_videos_behind_a_bad_connection(films, monkeypatch):
    from tests.storages import page, serving

    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr("shoal.data.storage._PAUSES", (0.01,) * 5)
    names = sorted(each.name for each in films.iterdir())
    files = {f"/p/{name}": (films / name).read_bytes() for name in names}
    with serving(files | {"/p/": page(*names)}) as server:
        spec = f"{server.home}/p/"
        server.faults |= {"/p/a.mkv": ("503", 3), "/p/c.mp4": ("drop", -1)}
        listing = find_source(spec, every="500ms").listing()
        reasons = dict(zip(listing.ids, (read_blob(blob)[0] for blob in listing.blobs()), strict=True))
        assert reasons["c.mp4"] == "not reached: the connection broke off"
        assert len(listing.ids) == 15
        server.faults.clear()
        assert contents(spec) == contents(films)  # that it was away is not kept


def test_frames_that_were_read_are_not_kept(tmp_path):
    """Not even until cycles are collected: hours of video would fill the memory."""
    import gc

    import av

    path = encode(tmp_path / "a.mkv", 60)
    gc.collect()
    gc.disable()
    try:
        for blob in find_source(str(path), every="100ms").listing().blobs():
            read_blob(blob)
        assert sum(type(each) is av.VideoFrame for each in gc.get_objects()) < 10
    finally:
        gc.enable()


def test_a_drive_that_goes_away_is_told_from_damage(tmp_path, monkeypatch):
    import errno

    from shoal.data.video.opening import VideoFile

    path = encode(tmp_path / "a.mkv", 100, draw=noisy)
    whole = read(path, "1s")
    gone, size = path.stat().st_size // 2, path.stat().st_size

    class Failing:
        def __init__(self, file):
            self.file = file

        def read(self, n):
            if self.file.tell() + n > gone and size > gone:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return self.file.read(n)

        def __getattr__(self, name):
            return getattr(self.file, name)

    begin = VideoFile.__init__
    monkeypatch.setattr(VideoFile, "__init__", lambda self, file: begin(self, Failing(file)))
    monkeypatch.setattr("shoal.data.video.opening._BUFFER", 4096)
    found = read(path, "1s")
    assert [name for name, _ in found] == [name for name, _ in whole]  # of the cache
    lost = [pixels for _, pixels in found if isinstance(pixels, str)]
    assert 3 <= len(lost) <= 7
    assert set(lost) == {"input/output error"}
    assert read(path, "2s") == [("a.mkv", "input/output error")]
    monkeypatch.undo()
    monkeypatch.setenv("SHOAL_CACHE", str(tmp_path / "cache"))
    assert len(read(path, "2s")) == 5  # it was not kept that there was none


def test_what_is_no_regular_file(tmp_path):
    os.mkfifo(tmp_path / "a.mp4")
    assert read(tmp_path) == [("a.mp4", "not a regular file")]


def test_of_several_streams_the_default_one_is_read(tmp_path):
    import av

    with av.open(str(tmp_path / "a.mkv"), "w") as file:
        streams = [file.add_stream("ffv1", rate=RATE) for _ in range(2)]
        for stream, size in zip(streams, ((64, 48), SIZE), strict=True):
            stream.width, stream.height = size
            stream.pix_fmt = "bgr0"
        streams[0].disposition, streams[1].disposition = 0, av.stream.Disposition.default
        for number in range(10):
            for stream, size, shift in zip(streams, ((64, 48), SIZE), (5, 0), strict=True):
                frame = av.VideoFrame.from_ndarray(plain(number + shift, size), format="rgb24")
                frame.pts, frame.time_base = number, Fraction(1, RATE)
                file.mux(stream.encode(frame))
        for stream in streams:
            file.mux(stream.encode())
    found = read(tmp_path / "a.mkv")
    assert [pixels.shape[1:] for _, pixels in found] == [SIZE[::-1]] * 2
    assert numbers_of(found) == [0, 5]
