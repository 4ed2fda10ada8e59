"""Data sets of the Hugging Face hub, from a place on this machine that answers as the hub does."""

import json
import os
import subprocess
import sys
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import huggingface_hub
import pytest
from tests.pictures import png, shard

from shoal.data import to_images
from shoal.errors import UserError

FILES = {
    "owner/plain": {
        "main": [
            "README.md",
            "data/train-00000-of-00002.parquet",
            "data/train-00001-of-00002.parquet",
            "data/test-00000-of-00001.parquet",
        ],
    },
    "owner/several": {"main": ["big/train-0.parquet", "small/train-0.parquet", "small/valid-0.parquet"]},
    "owner/converted": {
        "main": ["images.zip"],
        "refs/convert/parquet": ["default/train/0000.parquet", "default/test/0000.parquet"],
    },
    "owner/nothing": {"main": ["images.zip"]},
}


class Hub(BaseHTTPRequestHandler):
    """The hub's three answers: what a revision is, which files it has, a file."""

    def __init__(self, folder, *args):
        self.folder = folder
        super().__init__(*args)

    def do_GET(self):
        parts = self.path.partition("?")[0].replace("%2F", "/").strip("/").removeprefix("api/").split("/")
        name = "/".join(parts[1:3])
        rest = "/".join(parts[3:])
        if name not in FILES:
            return self.answer(404, b"{}", "RepoNotFound")
        revisions = FILES[name]
        for verb in ("tree", "revision", "resolve"):
            for number, (revision, files) in enumerate(revisions.items()):
                for alias in (revision, str(number) * 40):
                    if f"{rest}/".startswith(f"{verb}/{alias}/"):
                        return getattr(self, verb)(name, str(number) * 40, files, rest[len(f"{verb}/{alias}/") :])
        return self.answer(404, b"{}", "RevisionNotFound")

    do_HEAD = do_GET  # noqa: N815 - the base class's name

    def tree(self, _name, _commit, files, _path):
        rows = [{"type": "file", "path": file, "oid": "0" * 40, "size": 1} for file in files]
        self.answer(200, json.dumps(rows).encode())

    def revision(self, name, commit, files, _path):
        about = {"id": name, "sha": commit, "siblings": [{"rfilename": file} for file in files]}
        self.answer(200, json.dumps(about).encode())

    def resolve(self, name, commit, _files, path):
        data = (self.folder / name / path).read_bytes()
        self.answer(200, data, None, {"ETag": f'"{hash(data):x}"', "X-Repo-Commit": commit})

    def answer(self, status, data, error=None, headers=None):
        self.send_response(status)
        for key, value in {**(headers or {}), **({"X-Error-Code": error} if error else {})}.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The address of a hub that has the data sets; it can be shut down."""
    red = 0
    for name, revisions in FILES.items():
        for file in (file for files in revisions.values() for file in files if file.endswith(".parquet")):
            red += 1
            shard(tmp_path / "hub" / name / file, [png((red, 0, 0))])
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Hub, tmp_path / "hub"))
    Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    for place in ("ENDPOINT", "HUGGINGFACE_CO_URL_TEMPLATE"):
        suffix = "/{repo_id}/resolve/{revision}/{filename}" if place != "ENDPOINT" else ""
        monkeypatch.setattr(f"huggingface_hub.constants.{place}", endpoint + suffix)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hf"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_PROGRESS_BARS", True)
    yield server
    server.shutdown()
    server.server_close()


def reds(spec):
    images = to_images(spec)
    return images.pixels[:, 0, 0, 0].tolist(), list(images.ids), images.held_out.tolist()


@pytest.mark.usefixtures("hub")
def test_all_splits_or_one():
    train = ["data/train-00000-of-00002.parquet#0", "data/train-00001-of-00002.parquet#0"]
    assert reds("hf://owner/plain") == ([3, 1, 2], ["data/test-00000-of-00001.parquet#0", *train], [True, False, False])
    assert reds("hf://owner/plain@train") == ([1, 2], train, [False, False])
    with pytest.raises(UserError, match="hf://owner/plain has no split dev: give one of test, train, as in hf://owner"):
        to_images("hf://owner/plain@dev")


@pytest.mark.usefixtures("hub")
def test_a_config_where_there_are_several():
    assert reds("hf://owner/several/small")[0] == [5, 6]
    assert reds("hf://owner/several/small@valid")[0] == [6]
    with pytest.raises(UserError, match="several configs: give one of big, small, as in hf://owner/several/big"):
        to_images("hf://owner/several")
    with pytest.raises(UserError, match="no config huge: give one of big, small"):
        to_images("hf://owner/several/huge")


@pytest.mark.usefixtures("hub")
def test_what_the_hub_has_converted():
    assert reds("hf://owner/converted")[::2] == ([8, 7], [True, False])
    assert reds("hf://owner/converted/default@train")[0] == [7]
    with pytest.raises(UserError, match="owner/nothing has no Parquet files"):
        to_images("hf://owner/nothing")


def test_what_was_downloaded_is_found_without_the_hub(hub, monkeypatch, caplog):
    first = reds("hf://owner/plain@train"), reds("hf://owner/converted")
    hub.shutdown()
    hub.server_close()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert (reds("hf://owner/plain@train"), reds("hf://owner/converted")) == first
    said = "the hub cannot be reached: using the files of hf://owner/plain that were downloaded before"
    assert caplog.messages[0] == said
    with pytest.raises(UserError, match=r"cannot reach the hub for hf://owner/several \(.*\): connect to the network"):
        to_images("hf://owner/several/small")


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("hf://owner/missing", "the hub has no data set owner/missing: check the name"),
        ("hf://owner", "is not a data set: write hf://owner/name"),
        ("hf://owner/name/config/more", "is not a data set"),
        ("hf://owner/..", "the hub has no data set"),
    ],
)
def test_mistakes(spec, sentence):
    with pytest.raises(UserError, match=sentence):
        to_images(spec)


@pytest.mark.usefixtures("hub")
def test_a_download_that_breaks_off(monkeypatch):
    def broken(*_, **__):
        raise ConnectionError("the line broke\nin two")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", broken)
    with pytest.raises(UserError, match="cannot download hf://owner/plain: the line broke; try again"):
        to_images("hf://owner/plain")


@pytest.mark.slow
def test_without_a_network_a_sentence_is_all(tmp_path):
    """In a process of its own, where nothing has imported the parts of the hub's package yet."""
    place = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path)}
    code = "from shoal.data import find_source; find_source('hf://owner/name')"
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | place, capture_output=True, text=True)
    assert "shoal.errors.UserError: cannot reach the hub for hf://owner/name" in done.stderr
    assert "Retrying" not in done.stderr


def test_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"pip install 'shoal\[hub\]'"):
        to_images("hf://owner/plain")
