"""Downloads: from a server that behaves, one that does not, and none at all."""

import hashlib
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from tests.archives import publish, write_cifar10, write_mnist
from tests.storages import running

from shoal.cli.main import main
from shoal.data import DATA_SETS, to_images
from shoal.errors import UserError

ARCHIVE = "cifar-10-binary.tar.gz"


class Handler(BaseHTTPRequestHandler):
    """Serves a folder, as its server's ``how`` says; remembers what was asked for."""

    def do_GET(self):
        server = self.server
        start = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").removesuffix("-")
        server.asked.append((self.path.removeprefix("/"), int(start)))
        if server.how == "error":
            self.send_error(503, "Service Unavailable")
            return
        data = (server.folder / self.path.removeprefix("/")).read_bytes()
        at = int(start) if server.how != "no ranges" else 0
        if at and at >= len(data):
            self.send_error(416)
            return
        self.send_response(206 if at else 200)
        if server.how != "no length":
            self.send_header("Content-Length", str(len(data) - at))
        self.end_headers()
        stop = (at + len(data)) // 2 if server.how == "truncated" else len(data)
        self.wfile.write(data[at:stop])

    def log_message(self, *_):
        pass


@contextmanager
def serving(folder, how=""):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.folder, server.how, server.asked = folder, how, []
    server.home = f"http://127.0.0.1:{server.server_port}/"
    with running(server):
        yield server


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def place(tmp_path):
    """The official place of the archive, as a folder."""
    (tmp_path / "place").mkdir()
    write_cifar10(tmp_path / "place")
    return tmp_path / "place"


@pytest.fixture
def downloads(cache_folder):
    return cache_folder / "downloads"


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_an_archive_is_downloaded_once(place, downloads, monkeypatch, caplog):
    with serving(place) as server:
        publish(monkeypatch, "cifar10", place, server.home)
        shares = []
        assert len(to_images("cifar10", progress=lambda done, total: shares.append((done, total)))) == 18
        assert server.asked == [(ARCHIVE, 0)]
        assert caplog.messages == [f"downloading cifar10 from {server.home} to {downloads}"]
        assert (60_000, 60_000) in shares
        assert shares[-1] == (18, 18)
        assert names(downloads) == [ARCHIVE]
        assert (downloads / ARCHIVE).read_bytes() == (place / ARCHIVE).read_bytes()
        to_images("cifar10")
        to_images("cifar10", size=8)
        assert server.asked == [(ARCHIVE, 0)]


def test_several_files_are_one_progress(tmp_path, monkeypatch, downloads):
    write_mnist(tmp_path)
    downloads.mkdir()
    (downloads / "train-labels-idx1-ubyte.gz").write_bytes((tmp_path / "train-labels-idx1-ubyte.gz").read_bytes())
    with serving(tmp_path) as server:
        publish(monkeypatch, "mnist", tmp_path, server.home)
        shares = []
        to_images("mnist", progress=lambda done, total: shares.append(done) if total == 70_000 else None)
    assert shares == sorted(shares)
    assert shares[-1] == 70_000
    files = list(DATA_SETS["mnist"].published.files)
    assert [file for file, _ in server.asked] == [files[0], *files[2:]]


def test_a_file_that_the_user_placed_is_not_downloaded(place, downloads, monkeypatch, caplog):
    publish(monkeypatch, "cifar10", place)
    downloads.mkdir()
    (place / ARCHIVE).rename(downloads / ARCHIVE)
    assert len(to_images("cifar10")) == 18
    assert caplog.messages == []


def test_a_download_that_broke_off_goes_on(place, downloads, monkeypatch):
    whole = (place / ARCHIVE).read_bytes()
    half = len(whole) // 2
    with serving(place, "truncated") as server:
        publish(monkeypatch, "cifar10", place, server.home)
        with pytest.raises(UserError, match=rf"\(the connection broke off after {half} of {len(whole)} bytes\): place"):
            to_images("cifar10")
        assert names(downloads) == [f"{ARCHIVE}.part"]
        server.how = ""
        assert len(to_images("cifar10")) == 18
    assert server.asked == [(ARCHIVE, 0), (ARCHIVE, half)]
    assert names(downloads) == [ARCHIVE]


@pytest.mark.parametrize("how", ["no ranges", "no length"])
def test_a_server_that_begins_again(place, downloads, monkeypatch, how):
    with serving(place, how) as server:
        publish(monkeypatch, "cifar10", place, server.home)
        downloads.mkdir()
        (downloads / f"{ARCHIVE}.part").write_bytes((place / ARCHIVE).read_bytes()[:100])
        assert len(to_images("cifar10")) == 18
    assert server.asked == [(ARCHIVE, 100)]


def test_a_part_that_was_whole_already(place, downloads, monkeypatch):
    with serving(place) as server:
        publish(monkeypatch, "cifar10", place, server.home)
        downloads.mkdir()
        (downloads / f"{ARCHIVE}.part").write_bytes((place / ARCHIVE).read_bytes())
        assert len(to_images("cifar10")) == 18
    assert names(downloads) == [ARCHIVE]


def test_something_else_comes(place, downloads, monkeypatch):
    with serving(place) as server:
        publish(monkeypatch, "cifar10", place, server.home)
        expected = DATA_SETS["cifar10"].published.files[ARCHIVE]
        (place / ARCHIVE).write_bytes(b"a page that asks to log in")
        found = hashlib.md5(b"a page that asks to log in").hexdigest()
        with pytest.raises(
            UserError, match=rf"\(the downloaded file has the MD5 {found}, .* {expected}\): place {ARCHIVE}"
        ):
            to_images("cifar10")
    assert names(downloads) == [f"{ARCHIVE}.part"]
    assert (downloads / f"{ARCHIVE}.part").read_bytes() == b"", "the next start begins anew"


def test_a_placed_file_that_is_truncated(place, downloads, monkeypatch):
    publish(monkeypatch, "cifar10", place)
    downloads.mkdir()
    half = (place / ARCHIVE).read_bytes()[:500]
    (downloads / ARCHIVE).write_bytes(half)
    with pytest.raises(UserError, match=rf"{downloads / ARCHIVE} has the MD5 .* so remove it"):
        to_images("cifar10")
    assert (downloads / ARCHIVE).read_bytes() == half


def test_a_server_with_an_error(place, monkeypatch):
    with serving(place, "error") as server:
        publish(monkeypatch, "cifar10", place, server.home)
        with pytest.raises(UserError, match=rf"cannot download cifar10 \({server.home}{ARCHIVE} answers 503 Service"):
            to_images("cifar10")


def test_no_network_is_one_sentence_and_status_2(place, downloads, monkeypatch, capsys, tmp_path):
    publish(monkeypatch, "cifar10", place, "http://127.0.0.1:9/")  # where nobody listens
    assert main(["train", "propos-cifar10", "--quiet", "--out", str(tmp_path / "run")]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line == (
        f"shoal: cannot download cifar10 (Connection refused): place {ARCHIVE} (from http://127.0.0.1:9/{ARCHIVE}) in "
        f"{downloads}, or give the folder that holds the files of cifar10 as --data.root."
    )
    assert not (tmp_path / "run").exists()


def test_several_missing_files_are_all_named(tmp_path, monkeypatch):
    write_mnist(tmp_path)
    publish(monkeypatch, "mnist", tmp_path, "http://127.0.0.1:9/")
    files = ", ".join(DATA_SETS["mnist"].published.files)
    with pytest.raises(UserError, match=rf"place {files} \(from http://127\.0\.0\.1:9/\) in "):
        to_images("mnist")


def test_a_server_that_falls_silent(place, monkeypatch):
    import socket

    monkeypatch.setattr("shoal.data.sources.download._TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        publish(monkeypatch, "cifar10", place, f"http://127.0.0.1:{silent.getsockname()[1]}/")
        with pytest.raises(UserError, match=r"cannot download cifar10 \(timed out\)"):
            to_images("cifar10")


def test_a_cache_that_cannot_be_written(place, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("SHOAL_CACHE", str(tmp_path / "file"))
    publish(monkeypatch, "cifar10", place)
    with pytest.raises(UserError, match=r"cannot write .*\.part: Not a directory"):
        to_images("cifar10")


def test_two_starts_download_once(place, downloads, monkeypatch):
    with serving(place) as server:
        publish(monkeypatch, "cifar10", place, server.home)
        results = []
        threads = [threading.Thread(target=lambda: results.append(to_images("cifar10"))) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [len(images) for images in results] == [18] * 3
    assert server.asked == [(ARCHIVE, 0)]
    assert names(downloads) == [ARCHIVE]


def test_whoever_waited_goes_on_where_the_other_broke_off(place, downloads, monkeypatch):
    size, said = (place / ARCHIVE).stat().st_size, []

    def start():
        with pytest.raises(UserError) as error:
            to_images("cifar10")
        said.append(str(error.value))

    with serving(place, "truncated") as server:
        publish(monkeypatch, "cifar10", place, server.home)
        threads = [threading.Thread(target=start) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    half = size // 2
    assert server.asked == [(ARCHIVE, 0), (ARCHIVE, half)]
    assert all(any(f"after {at} of {size}" in text for text in said) for at in (half, (half + size) // 2))
    assert (downloads / f"{ARCHIVE}.part").read_bytes() == (place / ARCHIVE).read_bytes()[: (half + size) // 2]
