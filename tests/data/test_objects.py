"""Objects of S3 that obstore reads, and those that are left to s3fs."""

from types import SimpleNamespace

import pytest
from fsspec.asyn import get_loop, sync

from shoal.data.objects import Objects
from shoal.data.storage import Storage

CONTENT = bytes(range(100))


class Store:
    """What stands for obstore's: one object under each key."""

    def __init__(self, broken=False):
        self.asked, self.broken = [], broken

    async def get_async(self, key):
        self.asked.append(key)
        if self.broken:
            raise OSError("no such region")

        async def bytes_async():
            return CONTENT

        return SimpleNamespace(bytes_async=bytes_async)

    async def get_range_async(self, key, *, start, end):
        self.asked.append(key)
        return CONTENT[start:end]


def objects(monkeypatch, store, **told):
    fs = SimpleNamespace(**{"req_kw": {}, "version_aware": False, "client_kwargs": {}, **told})
    fs.split_path = lambda path: (*path.split("/", 1), None)

    async def known(_self, _bucket):
        return store

    monkeypatch.setattr(Objects, "_store", known)
    return Objects(fs)


def read(found, path, start=None, end=None):
    """As a storage does, in the loop of fsspec's own thread."""
    return sync(get_loop(), found.read, path, start, end)


@pytest.mark.parametrize("key", ["a.jpg", "IMG_1 (2).jpg", "a/b-c/d+e,f=g@h.jpg", ".hidden/x", "a..b/c"])
def test_simple_keys_are_asked_for_as_they_are(monkeypatch, key):
    pytest.importorskip("obstore")
    store = Store()
    found = objects(monkeypatch, store)
    assert read(found, f"bucket/{key}") == CONTENT
    assert read(found, f"bucket/{key}", 3, 7) == CONTENT[3:7]
    assert store.asked == [key, key]


@pytest.mark.parametrize(
    "key",
    ["a#b.jpg", "a%23b.jpg", "a?b", "é.jpg", "a//b", "/a", "a/", "../a", "a/./b", "a/..", "a~b", "a*b", "a\nb", ""],
)
def test_keys_that_obstore_would_encode_are_left_to_s3fs(monkeypatch, key):
    store = Store()
    assert read(objects(monkeypatch, store), f"bucket/{key}") is None
    assert store.asked == []


@pytest.mark.parametrize(
    "told", [{"req_kw": {"RequestPayer": "requester"}}, {"version_aware": True}, {"client_kwargs": {"verify": False}}]
)
def test_what_s3fs_was_told_and_obstore_was_not_is_left_to_s3fs(monkeypatch, told):
    assert read(objects(monkeypatch, Store(), **told), "bucket/a.jpg") is None


def test_parts_from_the_end_are_left_to_s3fs(monkeypatch):
    found = objects(monkeypatch, Store())
    assert read(found, "bucket/a.jpg", -5, None) is None
    assert read(found, "bucket/a.jpg", 5, None) is None


def test_a_bucket_that_obstore_cannot_read_is_not_tried_again_and_again(monkeypatch):
    pytest.importorskip("obstore")
    store = Store(broken=True)
    found = objects(monkeypatch, store)
    assert [read(found, f"bucket/{name}") for name in "abc"] == [None] * 3
    assert store.asked == ["a"]
    store.broken = False
    assert read(found, "other/a") == CONTENT


SIMPLE_KEYS = ["p/a.bin", "p/b c.bin", "p/g+h.bin"]
ODD_KEYS = ["p/d#e.bin", "p/d%23e.bin", "p/é.bin", "p//f.bin", "p/i&j.bin"]


@pytest.mark.slow
@pytest.mark.parametrize("anonymous", [False, True])
def test_every_object_of_a_server_is_read_by_one_or_the_other(monkeypatch, anonymous):
    pytest.importorskip("obstore")
    boto3, fsspec = pytest.importorskip("boto3"), pytest.importorskip("fsspec")
    server = pytest.importorskip("moto.server").ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        home = "http://{}:{}".format(*server.get_host_and_port())
        for name, value in {"ENDPOINT_URL": home, "ACCESS_KEY_ID": "k", "SECRET_ACCESS_KEY": "s"}.items():
            monkeypatch.setenv(f"AWS_{name}", value)
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        monkeypatch.setenv("no_proxy", "*")
        monkeypatch.setitem(fsspec.config.conf, "s3", {"anon": anonymous})
        client = boto3.client("s3")
        client.create_bucket(Bucket=f"bucket{anonymous}".lower(), ACL="public-read")
        for key in SIMPLE_KEYS + ODD_KEYS:
            client.put_object(Bucket=f"bucket{anonymous}".lower(), Key=key, Body=key.encode(), ACL="public-read")
        storage = Storage(f"s3://bucket{anonymous}".lower())
        for key in SIMPLE_KEYS + ODD_KEYS:
            path = f"{storage.path}/{key}"
            assert storage.read(path) == key.encode()
            assert storage.read(path, 1, 4) == key.encode()[1:4]
        with pytest.raises(FileNotFoundError):
            storage.read(f"{storage.path}/p/nothing.bin")
        assert storage._objects._read[storage.path] == 2 * len(SIMPLE_KEYS)
    finally:
        server.stop()
