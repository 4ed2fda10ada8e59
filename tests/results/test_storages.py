"""Whole commands on images in storages: an S3 server, and a web server that misbehaves."""

import logging

import fsspec
import numpy as np
import pytest
from tests.commands import complaint
from tests.storages import page, serving

from shoal.cli.main import main
from shoal.data import storage
from shoal.data.sources.find import find_source
from shoal.errors import UserError
from shoal.results.result import Result
from shoal.review.facts import UNKNOWN_DATE, Facts

SECRETS = ("pa55w0rd", "5ecret51gnature", "topsecrettoken")


@pytest.fixture(autouse=True)
def _alone(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr("shoal.data.storage._PAUSES", (0.01,) * 5)


def kept(folder):
    return np.fromfile(folder / "features/features.f32", np.float32)


def cluster(source, *more):
    return main(["cluster", str(source), "-k", "4", "--quiet", *map(str, more)])


# A web server


@pytest.fixture
def web(photos):
    """The photos on a web server, with a page of links to them, and all of them in an archive."""
    files = {f"/p/{file.name}": file.read_bytes() for file in sorted(photos.iterdir())}
    with serving(files | {"/p/": page(*(name.removeprefix("/p/") for name in files))}) as server:
        yield server


@pytest.mark.slow
def test_the_clusters_are_those_of_a_folder(web, photos, tmp_path, network):
    assert cluster(photos, *network, "--out", tmp_path / "local") == 0
    assert cluster(f"{web.home}/p/", *network, "--out", tmp_path / "stored") == 0
    for name in ("assignments.csv", "outliers.csv", "duplicates.csv"):
        assert (tmp_path / "stored" / name).read_bytes() == (tmp_path / "local" / name).read_bytes()
    assert np.array_equal(kept(tmp_path / "stored"), kept(tmp_path / "local"))


@pytest.mark.slow
def test_after_a_failure_the_same_command_resumes(web, tmp_path, network, capsys):
    names = sorted(path for path in web.files if path.endswith(".png"))
    web.faults |= dict.fromkeys(names[12:], ("503", -1))
    flags = [*network, "--out", tmp_path / "out"]
    assert cluster(f"{web.home}/p/", *flags) == 2
    told = complaint(capsys)
    assert "503 service unavailable" in told
    assert told.endswith("then run the same command again to resume: the features of the images before it are kept.")
    web.faults.clear()
    web.asked.clear()
    assert cluster(f"{web.home}/p/", *flags) == 0
    assert len(Result.load(tmp_path / "out").ids) == 32


@pytest.mark.slow
def test_a_few_failures_are_skipped_and_tried_again_by_an_update(web, tmp_path, network, capsys):
    name = next(path for path in sorted(web.files) if path.endswith(".png"))
    web.faults[name] = ("503", -1)
    out = tmp_path / "out"
    assert cluster(f"{web.home}/p/", *network, "--out", out) == 0
    assert "not reached: 503 service unavailable" in (out / "skipped.csv").read_text()
    web.faults.clear()
    assert main(["update", str(out), "--quiet"]) == 0
    assert len(Result.load(out).ids) == 32
    capsys.readouterr()


@pytest.mark.slow
def test_images_are_downloaded_where_files_are_needed(web, photos, tmp_path, network, capsys):
    out, goal = tmp_path / "out", tmp_path / "sorted"
    assert cluster(f"{web.home}/p/", *network, "--out", out) == 0
    capsys.readouterr()
    for how in ("--move", "--link"):
        assert main(["sort", str(out), how, str(goal), "--yes"]) == 2
        assert f"the images are in {web.home}/p/, and only files on this machine are" in complaint(capsys)
    assert not goal.exists()
    capsys.readouterr()
    assert main(["sort", str(out), "--copy", str(goal), "--yes"]) == 0
    expected = {file.name: file.read_bytes() for file in photos.iterdir()}
    said = capsys.readouterr().out
    assert f"copy 32 files ({sum(map(len, expected.values())) / 1e6:.1f} MB)" in said
    assert "on top of" not in said
    assert {file.name: file.read_bytes() for file in goal.glob("*/*.png")} == expected
    assert main(["sort", "--undo", str(goal / "sorted.jsonl")]) == 0
    for name, inner in (("label-studio", "images"), ("fiftyone", "data")):
        assert main(["export", str(out), str(tmp_path / name), "--to", name]) == 0
        copies = {file.read_bytes() for file in (tmp_path / name / inner).iterdir()}
        assert copies == {*expected.values()}
    assert main(["export", str(out), str(tmp_path / "xmp"), "--to", "xmp"]) == 0
    assert {file.name for file in (tmp_path / "xmp").iterdir()} == {f"{name}.xmp" for name in expected}


@pytest.mark.slow
def test_a_review_shows_images_of_storages(web, photos, tmp_path, network):
    assert cluster(f"{web.home}/p/", *network, "--out", tmp_path / "out") == 0
    facts = Facts(Result.load(tmp_path / "out"))
    for row, name in enumerate(facts.ids):
        assert facts.full(row) == ((photos / name).read_bytes(), "image/png")
    assert all(facts.thumbs([*range(len(facts.ids))]))
    assert (facts.dates == UNKNOWN_DATE).all()  # neither the images nor the server say any


@pytest.mark.slow
def test_no_secret_is_written(web, tmp_path, network, capfd):
    """Nothing that a command prints or writes has the password, the signature or the token of an address."""
    password, signature, token = SECRETS
    web.key = signature
    host = web.home.removeprefix("http://")
    spec = f"http://me:{password}@{host}/p/?X-Amz-Signature={signature}&token={token}"
    web.files["/p/"] = page(*(f"{path[3:]}?X-Amz-Signature={signature}" for path in web.files if path != "/p/"))
    names = sorted(path for path in web.files if path.endswith(".png"))
    web.faults[names[0]] = ("404", -1)
    web.faults[names[1]] = ("drop", -1)
    out = tmp_path / "out"
    assert main(["cluster", spec, "-k", "4", *network, "--out", str(out)]) == 0
    assert main(["update", str(out), spec]) == 0
    assert main(["predict", str(out), spec, "--out", str(tmp_path / "new.csv")]) == 0
    web.key = "revoked"
    storage._connected.cache_clear()
    assert main(["update", str(out), spec]) == 2
    assert main(["cluster", f"{spec}x", "-k", "4", *network]) == 2
    assert main(["cluster", f"http://me:{password}/@{host}/x.zip", "-k", "4", *network]) == 2
    said = capfd.readouterr()
    written = b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
    for secret in SECRETS:
        assert secret not in said.out + said.err
        assert secret.encode() not in written
        assert not [file for file in tmp_path.rglob("*") if secret in file.name]
    assert web.home.encode() in written


# S3


@pytest.fixture(scope="module")
def s3():
    """A client of an S3 server on this machine, which all commands use."""
    boto3 = pytest.importorskip("boto3")
    server = pytest.importorskip("moto.server").ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server.start()
    host, port = server.get_host_and_port()
    known = {"AWS_ACCESS_KEY_ID": "AKIDOFTHETEST", "AWS_SECRET_ACCESS_KEY": "keyofthetest"}
    known |= {"AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_DEFAULT_REGION": "us-east-1"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in known.items():
            patch.setenv(name, value)
        _forget()
        yield boto3.client("s3", endpoint_url=known["AWS_ENDPOINT_URL"])
    server.stop()
    _forget()


def _forget():
    storage._connected.cache_clear()
    fsspec.get_filesystem_class("s3").clear_instance_cache()


@pytest.fixture
def bucket(s3, photos):
    """The photos in a bucket, under photos/, among keys that are odd or beside them."""
    s3.create_bucket(Bucket="pictures")
    files = sorted(photos.iterdir())
    for file in files:
        s3.put_object(Bucket="pictures", Key=f"photos/{file.name}", Body=file.read_bytes())
    for key in ("photos/", "photos/sub/", "photos/zero.jpg", "photos-old/a.png", "photos/.hidden.png"):
        s3.put_object(Bucket="pictures", Key=key, Body=b"")
    for key in ("photos/../up.png", "photos//lead.png", "photos/ü ö.png", "photos/q?x=1&y#z%20+.png", "photos/RED.PNG"):
        s3.put_object(Bucket="pictures", Key=key, Body=files[0].read_bytes())
    yield "s3://pictures/photos/"
    while found := s3.list_objects_v2(Bucket="pictures").get("Contents"):
        s3.delete_objects(Bucket="pictures", Delete={"Objects": [{"Key": each["Key"]} for each in found]})
    s3.delete_bucket(Bucket="pictures")


warnings = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.mark.slow
@warnings
def test_a_bucket(bucket, s3, tmp_path, network, capfd):
    out = tmp_path / "out"
    assert cluster(bucket, *network, "--out", out) == 0
    result = Result.load(out)
    assert {"../up.png", "/lead.png", "ü ö.png", "q?x=1&y#z%20+.png", "RED.PNG"} < set(result.ids)
    assert len(result.ids) == 37
    assert "zero.jpg,empty file" in (out / "skipped.csv").read_text()
    assert result.source == "s3://pictures/photos/"
    s3.put_object(Bucket="pictures", Key="photos/new.png", Body=b"\x89PNG")
    s3.delete_object(Bucket="pictures", Key="photos/ü ö.png")
    assert main(["update", str(out), "s3://pictures/photos"]) == 0
    changes = (out / "changes.csv").read_text()
    assert "ü ö.png" in changes
    assert "RED.PNG" not in changes
    assert main(["sort", str(out), "--move", str(tmp_path / "sorted"), "--yes"]) == 2
    said = capfd.readouterr()
    assert "keyofthetest" not in said.out + said.err
    assert not any(b"keyofthetest" in file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())


@warnings
@pytest.mark.slow
def test_other_commands_read_buckets(bucket, tmp_path, network, capsys):
    out = tmp_path / "out"
    assert cluster(bucket, *network, "--out", out) == 0
    assert main(["predict", str(out), bucket, "--out", str(tmp_path / "new.csv")]) == 0
    assert len((tmp_path / "new.csv").read_text().splitlines()) == 38
    flags = ["--data.path", bucket, "--data.size", "16", "--n-clusters", "3", "--max-steps", "2", "--quiet"]
    assert main(["train", "propos-folder", *flags, "--out", str(tmp_path / "run")]) == 0
    assert main(["update", str(tmp_path / "run"), "--quiet"]) == 0
    capsys.readouterr()


@warnings
@pytest.mark.slow
@pytest.mark.usefixtures("bucket")
def test_listing_goes_from_page_to_page(s3):
    for number in range(1005):
        s3.put_object(Bucket="pictures", Key=f"many/{number:04}.png", Body=b"")
    assert len(find_source("s3://pictures/many").listing().ids) == 1005


@warnings
@pytest.mark.slow
@pytest.mark.usefixtures("bucket")
def test_objects_that_change_after_they_are_listed(s3):
    listing = find_source("s3://pictures/photos/").listing()
    first, second = (f"photos/{listing.ids[row]}" for row in (-1, -2))
    s3.put_object(Bucket="pictures", Key=first, Body=b"longer than it was" * 1000)
    s3.delete_object(Bucket="pictures", Key=second)
    *_, gone, changed = listing.blobs()
    assert changed.read() == b"longer than it was" * 1000
    with pytest.raises(FileNotFoundError):
        gone.read()


@warnings
@pytest.mark.slow
@pytest.mark.usefixtures("bucket")
def test_what_there_is_not():
    for spec, says in (
        ("s3://nowhere/photos/", "there is no such bucket at s3://nowhere/photos/: check the address"),
        ("s3://pictures/none/", "there is nothing at s3://pictures/none/: check the address"),
        ("s3://pictures/none.zip", "there is nothing at s3://pictures/none.zip: check the address"),
        ("s3://", "s3:// names no bucket"),
    ):
        with pytest.raises(UserError) as told:
            find_source(spec).listing()
        assert says in str(told.value)


@pytest.fixture
def bad_s3(monkeypatch):
    """A server that answers as S3 does where something is wrong."""
    with serving({}) as server:
        for name, value in (("ENDPOINT_URL", server.home), ("ACCESS_KEY_ID", "x"), ("SECRET_ACCESS_KEY", "y")):
            monkeypatch.setenv(f"AWS_{name}", value)
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        _forget()
        yield server
    _forget()


@warnings
@pytest.mark.slow
def test_answers_of_s3(bad_s3, monkeypatch):
    for fault, says in (
        ("403", r"was denied \(403 Forbidden\): check its name and the credentials, which are those of fsspec"),
        ("503", r"cannot be reached \(503 Service Unavailable\): check the network"),
    ):
        bad_s3.faults["*"] = (fault, -1)
        bad_s3.faults.pop("/bucket", None)
        with pytest.raises(UserError, match=says):
            find_source("s3://bucket/photos/")
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY"):
        monkeypatch.delenv(f"AWS_{name}")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    _forget()
    with pytest.raises(UserError, match=r"was denied \(Unable to locate credentials\)"):
        find_source("s3://bucket/photos/")


@pytest.mark.slow
def test_a_list_of_addresses_on_standard_input(web, tmp_path, network, capsys, monkeypatch):
    names = sorted(path for path in web.files if path.endswith(".png"))
    places = [f"{web.home}{name}?token={SECRETS[2]}" for name in names]
    monkeypatch.setattr("shoal.data.sources.find._stdin_paths", lambda: places)
    out = tmp_path / "out"
    assert cluster("-", *network, "--out", out) == 0
    assert Result.load(out).source == [f"{web.home}{name}" for name in names]
    assert main(["update", str(out)]) == 0
    assert "nothing has changed" in capsys.readouterr().out
    assert main(["sort", str(out), "--link", str(tmp_path / "sorted")]) == 2
    assert "only files on this machine are linked to" in complaint(capsys)
    assert not any(SECRETS[2].encode() in file.read_bytes() for file in out.rglob("*") if file.is_file())


def test_what_has_become_another_image_is_not_sorted_for_it(web, tmp_path, network, capsys):
    names = sorted(path for path in web.files if path.endswith(".png"))
    (tmp_path / "list.csv").write_text("\n".join(["path", *(f"{web.home}{name}" for name in names)]))
    assert cluster(tmp_path / "list.csv", *network, "--out", tmp_path / "out") == 0
    before = dict(web.files)
    web.files |= {names[0]: before[names[1]], names[2]: b"please log in"}
    assert main(["sort", str(tmp_path / "out"), "--copy", str(tmp_path / "sorted"), "--yes"]) == 0
    said = capsys.readouterr().err
    assert said.count("it is another image than was clustered") == 2
    assert {file.read_bytes() for file in (tmp_path / "sorted").glob("*/*.png")} == {
        *(before[name] for name in names[1:2] + names[3:])
    }
    web.files |= dict.fromkeys(names, before[names[0]] + b" ")
    assert main(["sort", str(tmp_path / "out"), "--copy", str(tmp_path / "none"), "--yes"]) == 2
    assert "no image could be read as it was clustered" in complaint(capsys)
    assert not [*(tmp_path / "none").glob("*/*")]
    assert main(["export", str(tmp_path / "out"), str(tmp_path / "tasks"), "--to", "label-studio"]) == 2
    assert "it is another image than was clustered" in complaint(capsys)


def test_addresses_whose_keys_are_not_kept_are_told(web, tmp_path, network, capsys, caplog, monkeypatch):
    names = sorted(path for path in web.files if path.endswith(".png"))
    web.key = SECRETS[2]
    places = [f"{web.home}{name}?token={web.key}" for name in names]
    monkeypatch.setattr("shoal.data.sources.find._stdin_paths", lambda: places)
    assert cluster("-", *network, "--out", tmp_path / "out") == 0
    assert "addresses are kept without what follows '?'" in caplog.text
    monkeypatch.setattr("shoal.data.urls._private", {})  # as in another process
    assert main(["sort", str(tmp_path / "out"), "--copy", str(tmp_path / "sorted"), "--yes"]) == 2
    assert "no image could be read as it was clustered" in complaint(capsys)
