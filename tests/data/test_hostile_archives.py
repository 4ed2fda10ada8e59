"""Archives that mean harm, or came to harm."""

import os
import struct
import tarfile
import warnings
import zipfile

import pytest
from tests.packing import write_tar, write_zip
from tests.pictures import png

from shoal.data import find_source, to_images
from shoal.data.decode import UnreadableError
from shoal.data.sources import tarred
from shoal.errors import UserError
from shoal.progress import counted

ODD = ["../../up.png", "/abs.png", "a/../b.png", "two\nlines.png", "./dot.png", "C:\\x\\y.png"]


@pytest.fixture(autouse=True)
def nothing_is_written(tmp_path, monkeypatch):
    """Wherever names lead to, no file comes to be, in the folder of the archive or in the one above."""
    inner = tmp_path / "one" / "two"
    inner.mkdir(parents=True)
    monkeypatch.chdir(inner)
    yield inner
    found = {path for path in tmp_path.rglob("*") if path.is_file()}
    assert {path.name for path in found} <= {"a.zip", "a.tar", "a.tar.gz"}


@pytest.mark.parametrize("write", [write_zip, write_tar])
def test_names_are_only_names(nothing_is_written, write):
    path = nothing_is_written / ("a.zip" if write is write_zip else "a.tar")
    write(path, {name: png("red") for name in ODD})
    images = to_images(path)
    assert images.ids == [f"{path.name}/{name}" for name in ODD]
    listing = find_source(path).listing()
    assert {listing.path(row) for row in range(len(ODD))} == {None}


@pytest.mark.parametrize("write", [write_zip, write_tar])
def test_the_same_name_twice(nothing_is_written, write):
    path = nothing_is_written / ("a.zip" if write is write_zip else "a.tar")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zipfile's, on writing
        write(path, [("a.png", png("red")), ("a.png", png("blue"))])
    images = to_images(path)
    assert images.ids == [f"{path.name}/a.png", f"{path.name}/a.png#2"]
    assert images.pixels[:, :, 0, 0].tolist() == [[255, 0, 0], [0, 0, 255]]


def test_names_that_are_no_utf8(nothing_is_written):
    path = write_tar(
        nothing_is_written / "a.tar", {"caf\udce9.png": png("red")}, format=tarfile.GNU_FORMAT, errors="surrogateescape"
    )
    assert to_images(path).ids == ["a.tar/caf\udce9.png"]
    path = write_zip(nothing_is_written / "a.zip", {"cafX.png": png("red")})
    path.write_bytes(path.read_bytes().replace(b"cafX", b"caf\xe9"))
    assert to_images(path).ids == ["a.zip/cafΘ.png"], "as code page 437, which the format says"


@pytest.mark.parametrize("ending", [".tar", ".tar.gz"])
def test_only_regular_files_are_read_from_a_tar(nothing_is_written, ending):
    (nothing_is_written.parent / "secret.png").symlink_to("/dev/null")
    members = {}
    kinds = {"char": tarfile.CHRTYPE, "block": tarfile.BLKTYPE, "pipe": tarfile.FIFOTYPE, "folder": tarfile.DIRTYPE}
    for name, kind in (kinds | {"hard": tarfile.LNKTYPE, "symbolic": tarfile.SYMTYPE}).items():
        info = tarfile.TarInfo(f"{name}.png")
        info.type = kind
        info.linkname = "../secret.png"
        members[name] = info
    members["a.png"] = png("red")
    images = to_images(write_tar(nothing_is_written / f"a{ending}", members))
    assert images.ids == [f"a{ending}/a.png"]
    assert images.skipped == {}


def test_links_in_a_zip_are_no_images(nothing_is_written):
    link = zipfile.ZipInfo("link.png")
    link.create_system, link.external_attr = 3, 0o120777 << 16
    path = write_zip(nothing_is_written / "a.zip", [(link, "/etc/passwd"), ("a.png", png("red"))])
    assert to_images(path).ids == ["a.zip/a.png"]


def test_an_encrypted_entry_is_skipped(nothing_is_written):
    path = write_zip(nothing_is_written / "a.zip", {"a.png": png("red"), "b.png": png("red")})
    data = bytearray(path.read_bytes())
    for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(signature) + flags] |= 1
    path.write_bytes(data)
    images = to_images(path)
    assert images.ids == ["a.zip/b.png"]
    assert images.skipped == {"a.zip/a.png": "encrypted"}


def test_a_zip_bomb_is_not_unpacked(nothing_is_written, monkeypatch):
    bomb = png("red") + bytes(2**25)
    path = write_zip(nothing_is_written / "a.zip", {"bomb.bmp": bomb, "a.png": png("red")})
    monkeypatch.setattr(zipfile.ZipExtFile, "_read1", lambda *_: pytest.fail("it was unpacked"))
    blobs = list(find_source(path).listing().blobs())
    with pytest.raises(UnreadableError, match=r"33\d{6} bytes unpacked, perhaps a decompression bomb"):
        blobs[0].read()


def test_a_zip_bomb_that_lies_is_cut(nothing_is_written):
    path = write_zip(nothing_is_written / "a.zip", {"bomb.bmp": bytes(2**24), "a.png": png("red")})
    data = bytearray(path.read_bytes())
    for signature, at in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        struct.pack_into("<I", data, data.index(signature) + at, 1000)
    path.write_bytes(data)
    assert to_images(path).skipped == {"a.zip/bomb.bmp": "damaged: Bad CRC-32 for file 'bomb.bmp'"}


@pytest.mark.parametrize("ending", [".tar", ".tar.gz"])
def test_an_entry_that_is_too_large_is_not_read(nothing_is_written, monkeypatch, ending):
    path = write_tar(nothing_is_written / f"a{ending}", {"large.bmp": bytes(5000), "a.png": png("red")})
    monkeypatch.setattr(tarred, "MAX_BYTES", 4999)
    assert to_images(path).skipped == {f"a{ending}/large.bmp": "5000 bytes, too many for an image"}


def test_a_sparse_entry_is_skipped(nothing_is_written):
    path = write_tar(nothing_is_written / "a.tar", {"sparse.png": png("red"), "a.png": png("red")})
    data = bytearray(path.read_bytes())
    data[156:157] = b"S"  # GNU's sparse file: a map of 0 pieces, then its size
    data[257:265] = b"ustar  \0"
    data[386:] = bytes(512 - 386 - 29) + data[483:]
    struct.pack_into("12s", data, 483, b"77777777777\0")
    data[148:156] = b" " * 8
    data[148:156] = f"{sum(data[:512]):06o}\0 ".encode()
    path.write_bytes(data)
    assert to_images(path).skipped == {"a.tar/sparse.png": "a sparse entry"}


def damaged_after(n, reason):
    return f"damaged after {counted(n, 'image')}: {reason}"


@pytest.mark.parametrize("ending", [".tar", ".tar.gz"])
def test_of_a_tar_that_broke_off_the_beginning_is_kept(nothing_is_written, ending):
    noise = [os.urandom(3000) for _ in range(3)]
    members = {f"{i}.png": png((i, 9, 9)) + noise[i] for i in range(3)}
    path = write_tar(nothing_is_written / f"a{ending}", members)
    path.write_bytes(path.read_bytes()[: (9500 if ending == ".tar" else 7500)])
    for _ in range(2):
        images = to_images(path)
        assert images.ids == [f"a{ending}/0.png", f"a{ending}/1.png"]
        assert images.skipped[f"a{ending}/2.png"] == "truncated"
        assert images.skipped[f"a{ending}"].startswith("damaged after 3 images: ")
    with pytest.raises(UserError, match="truncated"):
        to_images(path, strict=True)


@pytest.mark.parametrize("ending", [".tar", ".tar.gz"])
def test_a_damaged_header_is_not_taken_for_the_end(nothing_is_written, ending):
    members = {f"{i}.png": png("red") for i in range(3)}
    plain = write_tar(nothing_is_written / "a.tar", members)
    data = bytearray(plain.read_bytes())
    data[2048 + 100] ^= 1
    if ending == ".tar.gz":
        import gzip

        (nothing_is_written / "a.tar.gz").write_bytes(gzip.compress(data))
    else:
        plain.write_bytes(data)
    images = to_images(nothing_is_written / f"a{ending}")
    assert images.ids == [f"a{ending}/0.png", f"a{ending}/1.png"]
    assert images.skipped == {f"a{ending}": damaged_after(2, "bad checksum")}


@pytest.mark.parametrize(
    ("kind", "size"), [(tarfile.GNUTYPE_LONGNAME, 2**40), (tarfile.XHDTYPE, 2**31), (tarfile.REGTYPE, -(2**20))]
)
def test_headers_that_lie_about_their_size(nothing_is_written, kind, size):
    path = write_tar(nothing_is_written / "a.tar", {"a.png": png("red")}, format=tarfile.GNU_FORMAT)
    info = tarfile.TarInfo("b.png")
    info.type, info.size = kind, size
    data = path.read_bytes()[:1024] + info.tobuf(tarfile.GNU_FORMAT) + bytes(2048)
    path.write_bytes(data)
    images = to_images(path)
    assert images.ids == ["a.tar/a.png"]
    assert images.skipped == {"a.tar": damaged_after(1, f"a header says {size} bytes")}


def test_a_size_in_an_extended_header_cannot_lead_back(nothing_is_written):
    info = tarfile.TarInfo("b.png")
    info.pax_headers = {"size": "-1024"}
    path = write_tar(nothing_is_written / "a.tar", {"a.png": png("red"), "b.png": info}, format=tarfile.PAX_FORMAT)
    assert to_images(path).skipped == {"a.tar": damaged_after(1, "a header says -1024 bytes")}


def test_nothing_but_damage(nothing_is_written):
    path = write_tar(nothing_is_written / "a.tar", {"a.txt": bytes(3000), "b.png": png("red")})
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(UserError, match=r"no image files in .*a\.tar, which is damaged after 0 images"):
        to_images(path)


def test_a_zip_that_broke_off_has_no_directory(nothing_is_written):
    path = write_zip(nothing_is_written / "a.zip", {"a.png": png("red")})
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(UserError, match="damaged, or not a zip archive"):
        to_images(path)
