"""Embedding and clustering that processes share: the folder and the clusters of one process."""

from __future__ import annotations

import functools
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.features.examples import pictures, source_of, write_weights
from tests.ranks import on_ranks

from shoal import distributed
from shoal.cli.main import main
from shoal.clustering import GaussianMixture, KMeans, MiniBatchKMeans
from shoal.clustering.neighbours import Recall, approximate_neighbours, nearest_neighbours
from shoal.clustering.rows import Shards
from shoal.features import EncoderSpec, embed, extract, filling, load_encoder, open_embedded
from shoal.features.embedded import FILES, SHARDS
from shoal.features.shards import cut, gaps
from shoal.results.tables import read_csv

N = 90
BROKEN = (5, 17, 42, 43, 44, 45, 89)


class StoppedError(Exception):
    """What stands for a kill."""


def embedded(folder: Path, spec: EncoderSpec, stop_at: tuple[int, ...] = ()) -> list[int]:
    """Embed the pictures, or a part of them: each rank stops after as many as ``stop_at`` says."""
    blobs = pictures(N)
    for row in BROKEN:
        blobs[row] = b"text"
    filling._COMMIT_SECONDS, filling._COMPUTING = 0, 1
    extract.choose_batch_size = lambda _encoder: 4
    seen = []

    def count(self, done):
        seen.append(done)
        if stop_at and done >= stop_at[distributed.rank()]:
            raise StoppedError
        return told(self, done)

    told, extract.job.Tally.count = extract.job.Tally.count, count
    try:
        embed(source_of(blobs), load_encoder(spec), folder)
    except StoppedError:
        pass
    finally:
        extract.job.Tally.count = told
    return seen


def on(n: int, function):
    return [function()] if n == 1 else on_ranks(n, function)


def same(one: Path, other: Path) -> None:
    for name in ("header.json", *FILES):
        if name != "journal.jsonl":
            assert (one / name).read_bytes() == (other / name).read_bytes(), name
    assert sorted(each.name for each in one.iterdir()) == sorted(each.name for each in other.iterdir())


@pytest.fixture(scope="module")
def spec(tmp_path_factory) -> EncoderSpec:
    return write_weights(tmp_path_factory.mktemp("weights") / "w.safetensors", "test_vit")


@pytest.fixture(scope="module")
def whole(tmp_path_factory, spec) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "f"
    with pytest.MonkeyPatch.context() as patch:
        for place, name in ((filling, "_COMMIT_SECONDS"), (filling, "_COMPUTING"), (extract, "choose_batch_size")):
            patch.setattr(place, name, getattr(place, name))  # put back afterwards
        embedded(folder, spec)
    return folder


@pytest.mark.slow
def test_a_folder_by_ranks_that_are_stopped_is_that_of_one_process(whole, spec, tmp_path):
    folder = tmp_path / "f"
    stopped = on_ranks(2, functools.partial(embedded, folder, spec, (30, 13)))
    assert [each[-1] for each in stopped] == [30, 13]
    assert len(list((folder / SHARDS).iterdir())) == 1
    counts = on_ranks(3, functools.partial(embedded, folder, spec))
    assert 0 < sum(map(len, counts)) < N - 30  # what was kept is not computed again
    same(whole, folder)
    assert set(open_embedded(folder).skipped) == {f"bilder/{row}ü.png" for row in BROKEN}


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [(2, 1), (1, 4), (3, 2), (4, 1, 3)])
def test_any_number_goes_on_with_the_work_of_any_other(whole, spec, tmp_path, ranks, monkeypatch):
    for place, name in ((filling, "_COMMIT_SECONDS"), (filling, "_COMPUTING"), (extract, "choose_batch_size")):
        monkeypatch.setattr(place, name, getattr(place, name))
    folder, rng = tmp_path / "f", np.random.default_rng(len(ranks))
    for n in ranks[:-1]:
        on(n, functools.partial(embedded, folder, spec, tuple(rng.integers(2, 1 + N // n // 2, n).tolist())))
        shutil.rmtree(folder / SHARDS / "junk", ignore_errors=True)
    on(ranks[-1], functools.partial(embedded, folder, spec))
    same(whole, folder)


def test_spans_are_cut_at_blocks_and_cover_what_is_left():
    missing = np.delete(np.arange(1000), [3, 4, 500])
    left = gaps(37, 1000, [(100, 250), (640, 700)])
    assert left == [(37, 100), (250, 640), (700, 1000)]
    for n in (1, 2, 3, 7, 64):
        parts = cut(left, missing, 16, n)
        flat = sorted(span for part in parts for span in part)
        assert [rows for start, end in flat for rows in range(start, end)] == [r for s, e in left for r in range(s, e)]
        sizes = [sum(end - start for start, end in part) for part in parts]
        assert max(sizes) <= 753 / n + 2 * 17
        for part in parts:
            for start, _ in part:
                assert start in (37, 250, 700) or np.searchsorted(missing, start) % 16 == 0
    assert cut([(0, 5)], np.array([], np.int64), 16, 3) == [[(0, 5)], [], []]
    assert cut([], missing, 16, 2) == [[], []]
    assert gaps(10, 10, []) == []
    assert gaps(4, 10, [(2, 6), (6, 8)]) == [(8, 10)]


def rows() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    centers = 2 * torch.randn(5, 12, generator=generator)
    return centers[torch.arange(6000) % 5] + torch.randn(6000, 12, generator=generator)


def fitted() -> list[list[float]]:
    """What clusterers find of this rank's rows, for all; with one process, of all rows."""
    n_ranks = distributed.world_size()
    x, sharded = rows(), n_ranks > 1
    own = x[distributed.part(len(x))]
    models = [
        KMeans(5, metric="cosine", random_state=0, sharded=sharded),
        MiniBatchKMeans(5, batch_size=256, max_iter=3, random_state=0, sharded=sharded),
        MiniBatchKMeans(40, batch_size=64, max_iter=2, reassignment_ratio=0.5, random_state=0, sharded=sharded),
        GaussianMixture(5, covariance_type="diag", random_state=0, sharded=sharded),
        GaussianMixture(5, covariance_type="full", metric="cosine", random_state=0, sharded=sharded),
    ]
    found = []
    for model in models:
        labels = model.fit(own).labels_
        bound = getattr(model, "inertia_", None) or model.lower_bound_
        found.append([bound, *distributed.gather_uneven(labels).tolist()])
    near = approximate_neighbours(x, torch.arange(0, 6000), 0, Shards(sharded))
    if not distributed.is_first():
        assert not len(near.rows) + len(near.index) + len(near.similarity)
    recall = Recall(x, torch.arange(6000))
    for block in near.blocks():
        recall.add(block)
    return [*found, [recall.share(), *near.index.flatten().tolist()]]


SIZES = (0, 2, 50)


def rows_collected() -> list[list[list[float]]]:
    """What this rank has, once some rows of each rank, a few values of a message at a time, are on the first."""
    distributed._AT_ONCE = 40
    wholes = [torch.arange(3.0 * n).view(n, 3) for n in SIZES]
    return [Shards(cut=True).on_first(whole[distributed.part(len(whole))], len(whole)).tolist() for whole in wholes]


@pytest.mark.slow
def test_the_first_rank_has_the_rows_of_all():
    first, *others = on_ranks(3, rows_collected)
    assert first == [torch.arange(3.0 * n).view(n, 3).tolist() for n in SIZES]
    assert others == [[[], [], []]] * 2


def clustered(out: Path, *flags: str) -> int:
    return main(["cluster", "digits", *flags, "--quiet", "--out", str(out)])


def few_clustered(folder: Path, spec: EncoderSpec, out: Path) -> int:
    network = ["--backbone.name", spec.name, "--backbone.weights", spec.weights]
    return main(["cluster", str(folder), "-k", "2", *network, "--quiet", "--out", str(out)])


@pytest.mark.slow
def test_more_processes_than_images(spec, tmp_path):
    (tmp_path / "few").mkdir()
    for number, data in enumerate(pictures(2)):
        (tmp_path / "few" / f"{number}.png").write_bytes(data)
    assert few_clustered(tmp_path / "few", spec, tmp_path / "one") == 0
    assert on_ranks(4, functools.partial(few_clustered, tmp_path / "few", spec, tmp_path / "four")) == [0] * 4
    same(tmp_path / "one" / "features", tmp_path / "four" / "features")
    for name in ("assignments.csv", "centers.npy", "outliers.csv"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "four" / name).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags",
    [
        ("-k", "10"),
        ("-k", "10", "--method", "gmm"),
        ("-k", "10", "--method", "umap-kmeans"),
        ("--method", "density"),
        ("-k", "auto", "--k-range", "8", "12"),
    ],
)
def test_each_method_gives_the_clusters_of_one_process(tmp_path, flags):
    assert clustered(tmp_path / "one", *flags) == 0
    assert on_ranks(2, functools.partial(clustered, tmp_path / "two", *flags)) == [0, 0]
    names = [sorted(path.name for path in (tmp_path / each).iterdir()) for each in ("one", "two")]
    assert names[0] == names[1]
    one, two = ([*read_csv(tmp_path / each / "assignments.csv", "id", "cluster")] for each in ("one", "two"))
    assert np.mean([mine == other for mine, other in zip(one, two, strict=True)]) > 0.999


@pytest.mark.slow
def test_clusters_and_neighbours_of_ranks_are_those_of_one_process():
    alone = fitted()
    answers = on_ranks(3, fitted)
    for answer in answers:
        for one, other in zip(alone[:-1], answer[:-1], strict=True):
            assert other[0] == pytest.approx(one[0], rel=1e-5)
            assert np.mean(np.array(one[1:]) == np.array(other[1:])) > 0.9999
    near = answers[0][-1]
    assert near[0] == pytest.approx(alone[-1][0], abs=0.01)
    assert np.mean(np.array(alone[-1]) == np.array(near)) > 0.999
    index = np.array(alone[-1][1:], dtype=int).reshape(6000, 10)
    true, _ = nearest_neighbours(rows(), 10, "cosine", None)
    drawn = np.arange(0, 6000, 10)
    recall = np.mean([len({*index[i]} & {*true[i].tolist()}) / 10 for i in drawn])
    assert alone[-1][0] == pytest.approx(recall, abs=0.04)
    assert 0.5 < recall <= 1
