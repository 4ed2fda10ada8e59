"""Commands shared by two processes against one: whatever the images lie in, and what follows a clustering."""

from __future__ import annotations

import functools
import io
import logging
import os
import shutil
import tarfile
import zipfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.distributed.test_sharing import StoppedError, same
from tests.features.examples import encoded, pictures, write_weights
from tests.ranks import on_ranks

from shoal.cli.main import main
from shoal.clustering.temi import estimator
from shoal.features import EncoderSpec, extract, filling
from shoal.results.tables import read_csv

N = 56
BROKEN = (3, 40)


def contents() -> dict[str, bytes]:
    """Small images, two of them broken, in the order of their names."""
    return {
        f"{number:03}.png": b"text" if number in BROKEN else data for number, data in enumerate(pictures(N, side=8))
    }


def run(*args: str, environment: dict[str, str] | None = None, stop_at: int = 0) -> list[int]:
    """The command, with batches of four that are kept at once: its status, and how far this rank has told it was."""
    os.environ |= environment or {}
    filling._COMMIT_SECONDS, filling._COMPUTING = 0, 1
    extract.choose_batch_size = lambda _encoder: 4
    seen = []

    def count(self, done):
        seen.append(done)
        if stop_at and done >= stop_at:
            raise StoppedError
        return told(self, done)

    told, extract.job.Tally.count = extract.job.Tally.count, count
    try:
        return [main([*args]), *seen]
    except StoppedError:
        return [-1, *seen]


def by(n: int, *args: str | Path, **options) -> list[list[int]]:
    return on_ranks(n, functools.partial(run, *map(str, args), **options))


@pytest.fixture(scope="module")
def spec(tmp_path_factory) -> EncoderSpec:
    return write_weights(tmp_path_factory.mktemp("weights") / "w.safetensors", "test_vit")


@pytest.fixture
def network(spec) -> list[str]:
    return ["--backbone.name", spec.name, "--backbone.weights", spec.weights]


def in_folder(folder: Path, names: Iterable[str] | None = None) -> Path:
    folder.mkdir(parents=True)
    for name, data in contents().items():
        if names is None or name in names:
            (folder / name).write_bytes(data)
    return folder


def in_zip(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "photos.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in contents().items():
            archive.writestr(f"in/{name}", data)
    return folder / "photos.zip"


def in_tar(path: Path, names: Iterable[str] | None = None) -> Path:
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as archive:
        for name, data in contents().items():
            if names is None or name in names:
                entry = tarfile.TarInfo(name)
                entry.size = len(data)
                archive.addfile(entry, io.BytesIO(data))
    return path


def in_shards(folder: Path) -> Path:
    names = list(contents())
    (folder / "shards").mkdir()
    for number in range(5):
        in_tar(folder / "shards" / f"{number:02}.tar", set(names[number * 12 : (number + 1) * 12]))
    return folder / "shards"


def in_parquet(folder: Path) -> Path:
    rows = [
        {"image": {"bytes": data, "path": name}, "label": i % 3} for i, (name, data) in enumerate(contents().items())
    ]
    (folder / "data").mkdir()
    for number in range(2):
        part = rows[number * N // 2 : (number + 1) * N // 2]
        pq.write_table(pa.Table.from_pylist(part), folder / "data" / f"part-{number}.parquet", row_group_size=7)
    return folder / "data"


def in_table(folder: Path) -> Path:
    in_folder(folder / "photos")
    lines = [f"photos/{name},{number % 3}" for number, name in enumerate(contents())]
    (folder / "table.csv").write_text("\n".join(["path,label", *lines]))
    return folder / "table.csv"


def in_array(folder: Path) -> Path:
    np.save(folder / "photos.npy", np.random.default_rng(0).integers(0, 256, (N, 8, 8, 3), dtype=np.uint8))
    return folder / "photos.npy"


def as_features(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    np.save(folder / "rows.npy", rng.normal(size=(300, 20)) + 4 * rng.integers(0, 3, (300, 1)))
    return folder / "rows.npy"


SOURCES = {
    "zip": in_zip,
    "tar": lambda folder: in_tar(folder / "photos.tar"),
    "tar.gz": lambda folder: in_tar(folder / "photos.tar.gz"),
    "tar shards": in_shards,
    "parquet": in_parquet,
    "table": in_table,
    "array": in_array,
    "features": as_features,
    "pattern": lambda folder: f"{in_folder(folder / 'photos')}/0[0-4]*.png",
}


def clustered_alike(source: str | Path, network: list[str], folder: Path, environment: dict[str, str] | None = None):
    """Two processes write what one does."""
    flags = ["cluster", source, "-k", "3", *network, "--quiet", "--out"]
    assert by(1, *flags, folder / "one", environment=environment)[0][0] == 0
    found = by(2, *flags, folder / "two", environment=environment)
    assert [each[0] for each in found] == [0, 0]
    names = [sorted(path.name for path in (folder / each).iterdir()) for each in ("one", "two")]
    assert names[0] == names[1]
    for name in ("assignments.csv", "skipped.csv", "duplicates.csv", "outliers.csv"):
        if name in names[0]:
            assert (folder / "one" / name).read_bytes() == (folder / "two" / name).read_bytes(), name
    if "features" in names[0]:
        assert min(len(each) for each in found) > 8  # both have embedded some
        same(folder / "one" / "features", folder / "two" / "features")


@pytest.mark.slow
@pytest.mark.parametrize("kind", SOURCES)
def test_two_processes_read_any_source_as_one_does(kind, network, tmp_path):
    source = SOURCES[kind](tmp_path)
    clustered_alike(source, [] if kind == "features" else network, tmp_path)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("kind", ["folder", "tar shards", "zip"])
def test_two_processes_read_a_bucket_as_one_does(kind, network, tmp_path):
    boto3 = pytest.importorskip("boto3")
    server = pytest.importorskip("moto.server").ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server.start()
    try:
        host, port = server.get_host_and_port()
        known = {"AWS_ACCESS_KEY_ID": "AKIDOFTHETEST", "AWS_SECRET_ACCESS_KEY": "keyofthetest"}
        known |= {"AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_DEFAULT_REGION": "us-east-1"}
        client = boto3.client(
            "s3",
            endpoint_url=known["AWS_ENDPOINT_URL"],
            region_name="us-east-1",
            aws_access_key_id="AKIDOFTHETEST",
            aws_secret_access_key="keyofthetest",
        )
        client.create_bucket(Bucket="pictures")
        local = {"folder": lambda: in_folder(tmp_path / "photos"), "tar shards": lambda: in_shards(tmp_path)}.get(
            kind, lambda: in_zip(tmp_path)
        )()
        for path in sorted(local.iterdir()) if local.is_dir() else [local]:
            client.put_object(Bucket="pictures", Key=f"all/{path.name}", Body=path.read_bytes())
        source = "s3://pictures/all/photos.zip" if kind == "zip" else "s3://pictures/all/"
        clustered_alike(source, network, tmp_path, known)
    finally:
        server.stop()


@pytest.fixture(scope="module")
def clusters(tmp_path_factory, spec) -> Path:
    """A folder with photos and the clusters of them."""
    home = tmp_path_factory.mktemp("home")
    photos = in_folder(home / "photos", set(list(contents())[:32]))
    flags = ["-k", "3", "--backbone.name", spec.name, "--backbone.weights", spec.weights, "--quiet"]
    assert by(1, "cluster", photos, *flags, "--out", home / "clusters")[0][0] == 0
    return home


@pytest.mark.slow
def test_two_processes_update_as_one_does(clusters, tmp_path):
    photos = clusters / "photos"
    for each in ("one", "two"):
        shutil.copytree(clusters / "clusters", tmp_path / each)
    for name, data in list(contents().items())[32:]:
        (photos / name).write_bytes(data)
    (photos / "005.png").unlink()
    (photos / "006.png").rename(photos / "zebra.png")
    (photos / "007.png").rename(photos / "aardvark.png")
    (photos / "008.png").write_bytes(encoded(np.full((8, 8, 3), 77, np.uint8)))
    assert by(1, "update", tmp_path / "one", "--quiet")[0][0] == 0
    found = by(2, "update", tmp_path / "two", "--quiet")
    assert [each[0] for each in found] == [0, 0]
    assert min(len(each) for each in found) > 8
    for name in ("changes.csv", "assignments.csv", "skipped.csv", "duplicates.csv", "outliers.csv"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name
    changes = [change for (change,) in read_csv(tmp_path / "two" / "changes.csv", "change")]
    assert Counter(changes) == {"new": 23, "changed": 1, "renamed": 2, "vanished": 1}
    same(tmp_path / "one" / "features", tmp_path / "two" / "features")
    assert [each[0] for each in by(2, "update", tmp_path / "two", "--quiet")] == [0, 0]  # nothing has changed
    assert changes == [change for (change,) in read_csv(tmp_path / "two" / "changes.csv", "change")]


@pytest.mark.slow
def test_predictions_are_resumed_by_any_number_of_processes(clusters, tmp_path):
    photos = in_folder(tmp_path / "photos")
    command = ["predict", clusters / "clusters", photos, "--out"]
    assert by(1, *command, tmp_path / "one.csv")[0][0] == 0
    out = tmp_path / "tables" / "new.csv"
    assert {each[0] for each in by(2, *command, out, stop_at=18)} == {-1}
    kept = out.with_name(".new.csv.features")
    assert kept.is_dir()
    assert not out.exists()
    found = by(3, *command, out)
    assert [each[0] for each in found] == [0, 0, 0]
    assert 0 < sum(len(each) - 1 for each in found) < N - 20
    assert out.read_bytes() == (tmp_path / "one.csv").read_bytes()
    assert sorted(path.name for path in out.parent.iterdir()) == ["new.csv"]


@pytest.mark.slow
def test_predictions_of_what_cannot_be_read_leave_nothing_behind(clusters, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(b"text")
    assert by(1, "predict", clusters / "clusters", tmp_path / "photos", "--out", tmp_path / "new.csv")[0][0] == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos"]


def fitted_by_temi(rows: str, out: str) -> int:
    """TEMI of a few rows, trained for a twelfth of the usual minute."""
    estimator.MIN_STEPS, estimator.EPOCHS = 100, 2
    return main(["cluster", rows, "-k", "3", "--method", "temi", "--quiet", "--out", out])


@pytest.mark.slow
def test_temi_gives_the_clusters_of_one_process(tmp_path):
    rows = str(as_features(tmp_path))
    for n, name in ((1, "one"), (2, "two")):
        assert on_ranks(n, functools.partial(fitted_by_temi, rows, str(tmp_path / name))) == [0] * n
    one, two = ([*read_csv(tmp_path / each / "assignments.csv", "id", "cluster")] for each in ("one", "two"))
    assert one == two
    assert len({cluster for _, cluster in one}) == 3
