"""Images in storages: in memory, and on a web server that misbehaves."""

import io
import itertools
import tarfile
import time
import zipfile
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from tests.storages import page, serving

from shoal.data import connecting, find_source, resolve_spec, to_images
from shoal.data.failures import failure_of
from shoal.data.file_stats import stat_of
from shoal.data.listing import Listing, Remote
from shoal.data.prefetch import Prefetched
from shoal.data.reach import LostError
from shoal.data.reading import map_blobs, read_blob
from shoal.data.sources.find import short_name
from shoal.data.sources.stored import StoredFolder
from shoal.data.storage import Storage, told
from shoal.data.urls import private, public, redacted
from shoal.errors import UserError

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)


def encoded(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


PICTURES = [encoded(each) for each in PIXELS]


def zipped(names=("a/0.png", "a/1.png", "b/2.png"), how=zipfile.ZIP_DEFLATED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", how) as archive:
        for name, picture in zip(names, PICTURES, strict=False):
            archive.writestr(name, picture)
    return file.getvalue()


def tarred(mode, n=3, bulk=0):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as archive:
        for number in range(n):
            for name, data in ((f"{number}.png", PICTURES[number]), (f"{number}.bin.txt", bytes(bulk))):
                entry = tarfile.TarInfo(name)
                entry.size = len(data)
                archive.addfile(entry, io.BytesIO(data))
    return file.getvalue()


@pytest.fixture(autouse=True)
def _alone(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr("shoal.data.storage._PAUSES", (0.01,) * 5)


@pytest.fixture
def memory():
    fs = fsspec.filesystem("memory")
    fs.store.clear()
    fs.pseudo_dirs[:] = [""]
    yield fs
    fs.store.clear()


def shown(images, *rows):
    return np.array_equal(images.pixels.numpy(), PIXELS[list(rows)].transpose(0, 3, 1, 2))


# Listing


def test_a_folder_is_listed_as_one_on_a_disk(memory):
    names = ["a/2.png", "a/ü ö.png", "b/../x.png", "b/a#b?c%20.png", "b/.hidden.png", "@eadir/t.png", "b/readme.txt"]
    memory.pipe({f"/p/{name}": PICTURES[0] for name in names} | {"/p-other/no.png": PICTURES[1]})
    for name in names:  # as they are, unlike those that fsspec would tidy
        memory.store[f"/p/{name}"] = memory.store.pop(memory._strip_protocol(f"/p/{name}"))
    source = find_source("memory://p/")
    listing = source.listing()
    assert [*listing.ids] == ["a/2.png", "a/ü ö.png", "b/../x.png", "b/a#b?c%20.png"]
    assert listing.classes == ("a", "b") or listing.classes == ()
    assert sum(source.others.counts.values()) == 3
    assert listing.stats.shape == (4, 3)
    assert [stat_of(blob) for blob in listing.blobs()] == [tuple(row) for row in listing.stats.tolist()]
    assert not any(read_blob(blob)[0] != PICTURES[0] for blob in listing.blobs())


def test_an_empty_object_may_mark_a_folder(memory, monkeypatch):
    memory.pipe({"/p/in/0.png": PICTURES[0], "/p/none.png": b""})
    monkeypatch.setattr(Storage, "described", lambda _: {"type": "file", "size": 0})  # of S3
    assert [*find_source("memory://p/in").listing().ids] == ["0.png"]
    with pytest.raises(UserError, match="empty file"):
        to_images("memory://p/none.png")


def test_listing_reads_no_image(memory, monkeypatch):
    memory.pipe({f"/p/{number}.png": PICTURES[0] for number in range(5)})
    monkeypatch.setattr(type(memory), "cat_file", lambda *_, **__: pytest.fail("it was read"))
    assert len(find_source("memory://p").listing().ids) == 5


def test_its_version_follows_the_files(memory):
    memory.pipe({"/p/0.png": PICTURES[0]})
    before = find_source("memory://p")
    assert find_source("memory://p/").version == before.version
    memory.pipe({"/p/0.png": PICTURES[1]})
    assert find_source("memory://p").version != before.version


def test_training_reads_unchanged_images_from_the_cache(memory, monkeypatch):
    memory.pipe({f"/p/{number}.png": PICTURES[number] for number in range(3)})
    assert shown(to_images("memory://p"), 0, 1, 2)
    with monkeypatch.context() as patch:
        patch.setattr(type(memory), "cat_file", lambda *_, **__: pytest.fail("it was read"))
        found = to_images("memory://p")
    assert shown(found, 0, 1, 2)
    assert found.file_stats.shape == (3, 3)
    memory.pipe({"/p/1.png": PICTURES[5]})
    assert shown(to_images("memory://p"), 0, 5, 2)


def test_patterns(memory):
    memory.pipe({f"/p/{name}.png": PICTURES[0] for name in ("a1", "a2", "b1", "c/a3", "x [1]/d")})
    assert [*find_source("memory://p/a*.png").listing().ids] == ["a1.png", "a2.png"]
    assert [*find_source("memory://p/**/a?.png").listing().ids] == ["a1.png", "a2.png", "c/a3.png"]
    assert [*find_source("memory://p/{b1,a2}.png").listing().ids] == ["a2.png", "b1.png"]
    assert [*find_source("memory://p/x [1]").listing().ids] == ["d.png"]
    with pytest.raises(UserError, match=r"there is no file memory://p/b2.png"):
        find_source("memory://p/b{1,2}.png")
    with pytest.raises(UserError, match="no file matches"):
        find_source("memory://p/z*.png")


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ("s3://bucket/photos/", "photos"),
        ("s3://bucket", "bucket"),
        ("s3://bucket/photos/**/*.jpg", "photos"),
        ("https://host:8080/?key=1", "host-8080"),
        ("https://host/a/moths.tar.gz?X-Amz-Signature=1", "moths"),
        ("sftp://me:word@host/a/..", "a"),
    ],
)
def test_short_names(spec, name):
    assert short_name(spec) == name


# Archives and tables


@pytest.mark.parametrize("how", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_zip_is_read_entry_by_entry(memory, how):
    memory.pipe("/z.zip", b"begins late" + zipped(how=how))
    found = to_images("memory://z.zip")
    assert shown(found, 0, 1, 2)
    assert [*found.ids] == ["z.zip/a/0.png", "z.zip/a/1.png", "z.zip/b/2.png"]


def test_a_damaged_entry_of_a_zip_is_skipped(memory):
    data = bytearray(zipped(how=zipfile.ZIP_STORED))
    at = data.find(PICTURES[1])
    data[at + 40] ^= 0xFF
    memory.pipe("/z.zip", bytes(data))
    found = to_images("memory://z.zip")
    assert shown(found, 0, 2)
    assert "Bad CRC" in found.skipped["z.zip/a/1.png"]


def test_a_zip_that_changes_after_it_was_listed(memory):
    memory.pipe("/z.zip", zipped(how=zipfile.ZIP_STORED))
    blobs = [*find_source("memory://z.zip").listing().blobs()]
    memory.pipe("/z.zip", bytes(20) + zipped(how=zipfile.ZIP_STORED))
    assert all(read_blob(blob)[0].startswith("damaged: the archive has changed") for blob in blobs)


@pytest.mark.parametrize(("name", "mode"), [("t.tar", "w"), ("t.tar.gz", "w:gz"), ("t.tar.xz", "w:xz")])
@pytest.mark.parametrize("bulk", [0, 300_000])
def test_tars_are_streamed(memory, name, mode, bulk):
    memory.pipe(f"/{name}", tarred(mode, bulk=bulk))
    assert shown(to_images(f"memory://{name}"), 0, 1, 2)


def test_a_tar_is_listed_by_few_requests(memory, monkeypatch):
    memory.pipe("/t.tar", tarred("w", 6, bulk=500_000))  # 3 MB
    ranges, cat = [], type(memory).cat_file
    monkeypatch.setattr(type(memory), "cat_file", lambda *args, **how: ranges.append(how) or cat(*args, **how))
    assert len(find_source("memory://t.tar").listing().ids) == 6
    assert len(ranges) < 16
    # How much is asked for in advance depends on how long an answer takes.
    assert sum(each["end"] - each["start"] for each in ranges) < 3 * 3_000_000


def test_shards_are_joined(memory):
    memory.pipe({f"/s/{number}.tar": tarred("w", n) for number, n in ((0, 2), (1, 3))})
    assert shown(to_images("memory://s"), 0, 1, 0, 1, 2)
    assert shown(to_images("memory://s/{0..1}.tar"), 0, 1, 0, 1, 2)


def test_parquet(memory):
    file = io.BytesIO()
    rows = [{"bytes": picture, "path": f"{number}.png"} for number, picture in enumerate(PICTURES)]
    pq.write_table(pa.table({"image": rows, "label": [0, 1, 0, 1, 0, 1]}), file, row_group_size=2)
    memory.pipe("/q/train.parquet", file.getvalue())
    for spec in ("memory://q/train.parquet", "memory://q"):
        found = to_images(spec)
        assert shown(found, *range(6))
        assert found.targets.tolist() == [0, 1, 0, 1, 0, 1]


def test_tables_and_lists_of_addresses(memory, tmp_path, paint):
    memory.pipe({"/p/0.png": PICTURES[0], "/p/1.png": PICTURES[1]})
    memory.pipe("/t/t.csv", b"path,label\n../p/0.png,x\nmemory://p/1.png,y\n../p/2.png,y\n")
    found = to_images("memory://t/t.csv")
    assert shown(found, 0, 1)
    assert found.classes == ("x", "y")
    assert found.skipped == {"../p/2.png": "no such file or directory"}
    paint(tmp_path / "own.png", "red", size=(8, 8))
    (tmp_path / "t.csv").write_text("path\nmemory://p/1.png\nown.png\n")
    assert len(to_images(tmp_path / "t.csv")) == 2
    found = to_images(["memory://p/1.png", str(tmp_path / "own.png"), "memory://p/0.png"])
    assert np.array_equal(found.pixels[[0, 2]].numpy(), PIXELS[[1, 0]].transpose(0, 3, 1, 2))


# A web server


def test_a_page_with_links():
    files = {
        "/p/": page("?C=N", "../", "a%20b.png", "in/", "/other/x.png", "readme.txt#top"),
        "/p/a b.png": PICTURES[0],
    }
    files |= {"/p/in/": page("/p/", "1.png", "1.png?size=2", "http://else.where/2.png"), "/p/in/1.png": PICTURES[1]}
    files = {path.replace(" ", "%20"): data for path, data in files.items()}
    with serving(files | {"/p/readme.txt": b"x"}) as server:
        found = to_images(f"{server.home}/p/")
        assert [*found.ids] == ["a b.png", "in/1.png"]
        assert shown(found, 0, 1)
        assert server.asked["/other/x.png"] == 0


def test_links_that_differ_in_their_query():
    names = [f"img?id={number}" for number in range(12)]
    with serving({"/g/": page(*names, "?C=N", "b.png", "b.png?size=2")}) as server:
        server.files |= {"/g/img": PICTURES[0], "/g/b.png": PICTURES[1]}
        found = to_images(f"{server.home}/g/")
        assert sorted(found.ids) == sorted(["b.png", "img", *(f"img#{number}" for number in range(2, 13))])
        assert {target.partition("?")[2] for target in server.targets if "/img" in target} == {
            f"id={number}" for number in range(12)
        }


def test_a_server_without_ranges_gives_first_bytes_as_well():
    with serving({"/g/": page("a", "b.bin", "c.png", "d")}) as server:
        server.ranges = False
        server.files |= {"/g/a": PICTURES[0], "/g/b.bin": PICTURES[1], "/g/c.png": PICTURES[2], "/g/d": b"text"}
        found = to_images(f"{server.home}/g/")
        assert [*found.ids] == ["a", "b.bin", "c.png"]
        assert shown(found, 0, 1, 2)


def test_first_bytes_that_do_not_come_make_no_other_file_of_an_image():
    with serving({"/g/": page("a", "b.png")}) as server:
        server.files |= {"/g/a": PICTURES[0], "/g/b.png": PICTURES[1]}
        server.faults["/g/a"] = ("503", -1)
        found = to_images(f"{server.home}/g/")
        assert dict(found.skipped) == {"a": "not reached: 503 service unavailable"}


def test_one_address_of_a_list_that_nobody_answers(tmp_path):
    with serving({f"/{number}.png": PICTURES[number] for number in range(3)}) as server:
        odd = ["ftp://joe:secret@127.0.0.1:9/x.png", "http://[::1]:9/x.png", "nothing://x/x.png"]
        rows = [*odd, *(f"{server.home}/{number}.png" for number in range(3))]
        (tmp_path / "list.csv").write_text("\n".join(["path", *rows]))
        found = to_images(tmp_path / "list.csv")
        assert shown(found, 0, 1, 2)
        assert len(found.skipped) == 3
        assert "secret" not in str(found.skipped)


def test_a_scheme_in_capitals():
    with serving({"/a.png": PICTURES[0]}) as server:
        assert shown(to_images(f"{server.home}/a.png".replace("http", "HTTP")), 0)


def test_an_index_of_a_web_server():
    """As Apache and nginx write them: ways to sort, absolute addresses, letters written in two ways, other places."""
    links = ("?C=N;O=D", "/~me/", "0.png", "/%7Eme/p/1.png", "{home}/~me/p/2.png", "//else.where/~me/p/3.png")
    links += ("a&amp;b%20%23%3F%25.png", "in/", "closed/", "gone/", "mailto:me@host", "javascript:x()", "http://[x/")
    with serving({"/~me/p/in/": page("../0.png", "./5.png", "../../p2/6.png", "../in/")}) as server:
        server.files["/~me/p/"] = page(*links).replace(b"{home}", server.home.encode())
        names = ("0.png", "1.png", "2.png", "a&b%20%23%3F%25.png", "in/5.png")
        server.files |= {f"/~me/p/{name}": PICTURES[row] for row, name in enumerate(names)}
        server.faults["/~me/p/closed/"] = ("403", -1)
        found = to_images(f"{server.home}/~me/p/")
    assert [*found.ids] == ["0.png", "1.png", "2.png", "a&b #?%.png", "in/5.png"]
    assert shown(found, *range(5))


def test_pages_that_may_not_be_read_are_passed_over_as_folders_are(caplog):
    with serving({"/p/": page("0.png", "in/"), "/p/in/": page("1.png")} | {"/p/0.png": PICTURES[0]}) as server:
        server.faults["/p/in/"] = ("403", -1)
        assert [*find_source(f"{server.home}/p/").listing().ids] == ["0.png"]
        assert "/p/in/ was denied (403 Forbidden)" in caplog.text
        server.faults["/p/in/"] = ("503", -1)
        with pytest.raises(UserError, match="cannot be reached"):
            find_source(f"{server.home}/p/")


def test_pages_that_lead_round_in_circles(monkeypatch):
    monkeypatch.setattr("shoal.data.sources.webpage._MOST", 20)
    with serving({"/p/": page("0.png", "a/", "b/")}) as server:
        for depth in range(1, 6):
            for path in itertools.product("ab", repeat=depth):
                server.files[f"/p/{'/'.join(path)}/"] = page("a/", "b/")
        with pytest.raises(UserError, match=r"more than 20 pages below http://.*/p/: give one of them"):
            find_source(f"{server.home}/p/")


@pytest.mark.parametrize("fault", ["503", "429", "500", "drop", "truncated"])
def test_what_fails_for_a_time_is_asked_for_again(fault):
    with serving({"/p/": page("0.png", "1.png"), "/p/0.png": PICTURES[0], "/p/1.png": PICTURES[1]}) as server:
        server.faults |= {"/p/0.png": (fault, 3), "/p/": (fault, 2)}
        assert shown(to_images(f"{server.home}/p/"), 0, 1)
        assert server.faults["/p/0.png"][1] == 0


def test_redirections_are_followed():
    with serving({"/p/": page("0.png"), "/p/0.png": PICTURES[0]}) as server:
        server.faults["/p/0.png"] = ("redirect", -1)
        assert shown(to_images(f"{server.home}/p/"), 0)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("503", "not reached: 503 service unavailable"),
        ("drop", "not reached: the connection broke off"),
        ("404", "no such file or directory"),
        ("403", "permission denied by the storage: 403 forbidden"),
        ("401", "not reached: 401 unauthorized"),
    ],
)
def test_what_fails_on_and_on_is_skipped_and_listed(fault, reason):
    with serving({"/p/": page("0.png", "1.png"), "/p/0.png": PICTURES[0], "/p/1.png": PICTURES[1]}) as server:
        server.faults["/p/0.png"] = (fault, -1)
        found = to_images(f"{server.home}/p/")
        assert shown(found, 1)
        assert found.skipped == {"0.png": reason}


def test_many_that_fail_in_a_row_are_an_error():
    names = [f"{number:02}.png" for number in range(30)]
    with serving({"/p/": page(*names)} | {f"/p/{name}": PICTURES[0] for name in names}) as server:
        source = find_source(f"{server.home}/p/")
        server.faults |= {f"/p/{name}": ("503", -1) for name in names[5:]}
        with pytest.raises(LostError, match=r"503 service unavailable\): check the network and .* the same command"):
            to_images(f"{server.home}/p/")
        server.faults.clear()
        assert len([*source.listing().blobs()]) == 30
        assert len(to_images(f"{server.home}/p/")) == 30


def test_an_archive_needs_ranges():
    with serving({"/z.zip": zipped()}) as server:
        assert shown(to_images(f"{server.home}/z.zip"), 0, 1, 2)
        server.ranges = False
        with pytest.raises(UserError, match=r"z\.zip in place: .* download it"):
            find_source(f"{server.home}/z.zip").listing()


@pytest.mark.parametrize("fault", ["503", "drop"])
def test_an_archive_behind_a_bad_connection(fault):
    with serving({"/z.zip": zipped(), "/t.tar": tarred("w")}) as server:
        for name in ("z.zip", "t.tar"):
            server.faults[f"/{name}"] = (fault, 4)
            assert shown(to_images(f"{server.home}/{name}"), 0, 1, 2)
        server.faults["/z.zip"] = (fault, -1)
        with pytest.raises(UserError, match=r"z\.zip cannot be reached \(.*\): check the network .* to resume"):
            find_source(f"{server.home}/z.zip").listing()


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("/none.zip", "there is nothing at {home}/none.zip: check the address."),
        ("/none/", "there is nothing at {home}/none/: check the address."),
        ("/empty/", "there is nothing at {home}/empty/: check the address."),
        ("/a.npy", "{home}/a.npy would have to be mapped into memory: download it"),
        ("/thing", "is not a web page but application/octet-stream: give the address of"),
        ("/bad.zip", "cannot read {home}/bad.zip: it is damaged, or not a zip archive"),
        ("/text.xyz", "cannot take images from {home}/text.xyz: give"),
    ],
)
def test_what_leads_to_no_images_is_told_in_a_sentence(path, says):
    files = {"/empty/": page(), "/a.npy": b"x", "/thing": b"x", "/bad.zip": b"x" * 100, "/text.xyz": b"x"}
    with serving(files) as server, pytest.raises(UserError) as told:
        find_source(f"{server.home}{path}").listing()
    assert says.format(home=server.home) in str(told.value)


def test_nobody_there():
    for spec in ("http://127.0.0.1:9/x.zip", "http://127.0.0.1:9/"):
        with pytest.raises(UserError, match=r"cannot be reached \(.*\): check the network"):
            find_source(spec)


@pytest.mark.parametrize("code", ["PermanentRedirect", "AuthorizationHeaderMalformed"])
def test_a_bucket_in_another_region_is_named_with_the_setting(code):
    botocore = pytest.importorskip("botocore.exceptions")
    meta = {"HTTPStatusCode": 301, "HTTPHeaders": {"x-amz-bucket-region": "eu-west-1"}}
    error = botocore.ClientError({"Error": {"Code": code}, "ResponseMetadata": meta}, "ListObjectsV2")
    said = str(told("s3://bucket/p/", failure_of(error)))
    assert said == "cannot read s3://bucket/p/: its bucket is in the region eu-west-1: set AWS_DEFAULT_REGION to that."


def test_a_page_of_a_listing_that_fails_is_asked_for_again_and_not_all_before_it(monkeypatch):
    botocore = pytest.importorskip("botocore.exceptions")
    pytest.importorskip("s3fs")
    storage, asked = Storage("s3://bucket/p"), []

    def answer(_method, Bucket, Prefix, ContinuationToken="0"):
        asked.append(int(ContinuationToken))
        assert (Bucket, Prefix) == ("bucket", "p/")
        if asked.count(asked[-1]) < 3:
            response = {"Error": {"Code": "SlowDown"}, "ResponseMetadata": {"HTTPStatusCode": 503}}
            raise botocore.ClientError(response, "ListObjectsV2")
        keys = [{"Key": f"p/{asked[-1]}{letter}.png", "Size": 3, "ETag": "x"} for letter in "ab"]
        more = {"NextContinuationToken": str(asked[-1] + 1)} if asked[-1] < 3 else {}
        return {"Contents": keys, "IsTruncated": bool(more), **more}

    monkeypatch.setattr(storage._fs, "call_s3", answer)
    folder = StoredFolder.listed(storage)
    assert [*folder.names] == [f"{number}{letter}.png" for number in range(4) for letter in "ab"]
    assert asked == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]


def test_a_server_that_never_answers(monkeypatch):
    for module in ("connecting", "storage"):
        monkeypatch.setattr(f"shoal.data.{module}.SILENCE", 0.1)
    with serving({"/p/": page("0.png", "1.png"), "/p/0.png": PICTURES[0], "/p/1.png": PICTURES[1]}) as server:
        server.faults |= {"/p/0.png": ("hang", -1), "/q/": ("hang", -1)}
        with pytest.raises(UserError, match=r"/q/ cannot be reached \(it does not answer in time\): check the network"):
            find_source(f"{server.home}/q/")
        assert server.asked["/q/"] <= 4
        found = to_images(f"{server.home}/p/")
        assert found.skipped == {"0.png": "not reached: it does not answer in time"}


def test_a_server_of_a_patient_package_is_looked_for_first(monkeypatch):
    """gcsfs would ask for a minute whether somebody has come."""
    pytest.importorskip("gcsfs")
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:9")
    before = time.monotonic()
    with pytest.raises(UserError, match=r"gs://photos/x cannot be reached \(no connection to 127\.0\.0\.1\): check"):
        find_source("gs://photos/x")
    assert time.monotonic() - before < 10


def test_a_proxy_is_looked_for_in_place_of_the_server(monkeypatch):
    monkeypatch.setenv("no_proxy", "")
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with serving({}) as server:
        connecting._try_connection(server.home)
        monkeypatch.setenv("https_proxy", server.home)
        connecting._try_connection("https://no.such.host.invalid/x")
        monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
        with pytest.raises(OSError, match=r"no connection to 127\.0\.0\.1"):
            connecting._try_connection("https://storage.googleapis.com")


@pytest.mark.parametrize("scheme", ["az", "gdrive", "oss"])
def test_a_missing_package_is_named(scheme):
    with pytest.raises(UserError, match=f"{scheme}:// needs a package that is missing: ") as told:
        find_source(f"{scheme}://photos/x")
    assert scheme != "az" or "pip install 'shoal[azure]'" in str(told.value)


def test_what_is_no_single_place():
    with pytest.raises(UserError, match="does not read cloud://"):
        find_source("cloud://x")
    with pytest.raises(UserError, match="chains of addresses"):
        find_source("simplecache::memory://x".replace("simplecache::", "zip://x::"))


@pytest.mark.slow
def test_sftp(tmp_path):
    from tests.sftp import sftp_server

    (tmp_path / "p/in").mkdir(parents=True)
    for number, picture in enumerate(PICTURES):
        (tmp_path / f"p/in/{number}.png").write_bytes(picture)
    (tmp_path / "z.zip").write_bytes(zipped())
    with sftp_server(tmp_path) as host:
        found = to_images(f"sftp://me:{PASSWORD}@{host}/p")
        assert shown(found, *range(6))
        assert found.ids[0] == "in/0.png"
        assert shown(to_images(f"sftp://me:{PASSWORD}@{host}/z.zip"), 0, 1, 2)
        with pytest.raises(UserError, match=r"was denied \(Authentication failed\)") as told:
            find_source(f"sftp://me:{SIGNATURE}@{host}/p")
    assert SIGNATURE not in str(told.value)


# Secrets

SIGNATURE, PASSWORD = "5ecret51gnature", "pa55w0rd"


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (f"https://me:{PASSWORD}@host/a.zip?X-Amz-Signature={SIGNATURE}#x", "https://host/a.zip"),
        (f"https://{SIGNATURE}@host/@here/a.zip", "https://host/@here/a.zip"),
        (f"https://me:{PASSWORD}/x@host/a.zip", "https://host/a.zip"),
        (f"sftp://me:{PASSWORD}@host:22/a@b", "sftp://me@host:22/a@b"),
        ("sftp://me@host/a", "sftp://me@host/a"),
        (f"s3://key:{PASSWORD}@bucket/a@b.jpg", "s3://bucket/a@b.jpg"),
        (f"s3://bucket/a.zip?X-Amz-Credential=x&X-Amz-Signature={SIGNATURE}", "s3://bucket/a.zip"),
        (f"abfs://container@account/x?sv=1&sig={SIGNATURE}", "abfs://container@account/x"),
        ("s3://bucket/IMG_?.jpg", "s3://bucket/IMG_?.jpg"),
        ("hf://datasets/a/b@main/x", "hf://datasets/a/b@main/x"),
        ("photos/me:a@b?token=1", "photos/me:a@b?token=1"),
    ],
)
def test_public_addresses(spec, expected):
    assert public(spec) == expected
    assert private(expected) == spec
    assert resolve_spec(spec) == expected or "://" not in spec
    for text in (f"GET {spec} failed", f"'{spec.partition('://')[2]}'"):
        assert SIGNATURE not in redacted(text)
        assert PASSWORD not in redacted(text)


def test_credentials_in_an_address_of_s3_are_refused_and_not_told():
    pytest.importorskip("s3fs")
    with pytest.raises(
        UserError, match=r"no place for credentials: give s3://bucket/x/, and set AWS_ACCESS_KEY_ID"
    ) as told:
        find_source(f"s3://key:{PASSWORD}@bucket/x/")
    assert PASSWORD not in str(told.value)


def test_a_key_opens_and_is_never_told(caplog):
    with serving({"/z.zip": zipped()}) as server:
        server.key = SIGNATURE
        spec = f"{server.home}/z.zip?token={SIGNATURE}"
        source = find_source(spec)
        found = to_images(spec)
        assert shown(found, 0, 1, 2)
        assert shown(to_images(public(spec)), 0, 1, 2)  # as this process knows
        said = repr((source.origin, source.version, found.ids, found.skipped, caplog.text))
        server.key = "another"
        with pytest.raises(UserError, match="give it with it again") as told:
            find_source(f"{server.home}/z.zip?token={SIGNATURE}&x").listing()
    assert SIGNATURE not in said + str(told.value)


# Asking in advance


def slow_images(n, seconds):
    pool, running, most = ThreadPoolExecutor(64), [0], [0]

    def fetch(number):
        running[0] += 1
        most[0] = max(most[0], running[0])
        time.sleep(seconds)
        running[0] -= 1
        return b"%d" % number

    return [Remote(lambda number=number: pool.submit(fetch, number), 1) for number in range(n)], most


def test_waiting_is_shared():
    images, most = slow_images(96, 0.05)
    listing = Listing([*map(str, range(96))], [-1] * 96, (), lambda: iter(images))
    begun = time.monotonic()
    assert [*map_blobs(lambda blob: blob.read(), listing)] == [b"%d" % number for number in range(96)]
    assert time.monotonic() - begun < 96 * 0.05 / 4
    assert 16 <= most[0] <= 32


def test_bytes_asked_for_have_a_limit():
    begun = []

    def begin(number):
        begun.append(number)
        future = Future()
        future.set_result(b"x")
        return future

    images = [Remote(lambda number=number: begin(number), 2**24) for number in range(20)]
    ahead = Prefetched(iter(images))
    first = next(ahead)
    assert len(begun) == 4
    first.read()
    assert len(begun) == 5
    large = Prefetched(iter([Remote(lambda: begin(99), 2**40)]))
    assert next(large).read() == b"x"


def test_what_is_withdrawn_does_not_wait():
    images, _ = slow_images(40, 0.01)
    ahead = Prefetched(iter([Remote(image.begin, 2**26) for image in images]))
    blobs = [next(ahead) for _ in range(5)]
    ahead.close()
    with pytest.raises(CancelledError):
        blobs[4].read()
