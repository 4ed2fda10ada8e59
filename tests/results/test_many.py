"""What a clustering of very many images rests on: little memory for each, and pairs in proportion to their number."""

import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from scipy.stats import chisquare
from torch.nn.functional import normalize

from shoal import mapped
from shoal.clustering import approximate_neighbours, cells, neighbours
from shoal.clustering import rows as drawing
from shoal.clustering.grouping import group_sizes, grouped_rows, groups_of, least
from shoal.clustering.neighbours import neighbours_by_cell
from shoal.data import equal
from shoal.data.equal import equal_groups, first_of_each, first_rows
from shoal.data.listing import Names
from shoal.data.sketch import SKETCH
from shoal.report import sample_of_page
from shoal.results import tables
from shoal.results.copies import copies
from shoal.results.duplicates import duplicates, write_duplicates
from shoal.results.page import read_copies
from shoal.results.representatives import representatives
from shoal.results.rows import Assignments
from shoal.results.tables import read_assignments, write_assignments
from shoal.types import Clustering

N = 100_000


def assigned(n, k=50):
    draw = torch.Generator().manual_seed(0)
    numbers = torch.rand(4, n, generator=draw)
    return Assignments(torch.randint(k, (n,), generator=draw), *numbers[:3], torch.rand(n, 2, generator=draw))


def growth(work):
    """Bytes that Python and NumPy hold at most meanwhile, beyond what they held before."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        result = work()
        return result, tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


@pytest.fixture
def no_room(monkeypatch):
    """Everything above some kilobytes goes into files."""
    monkeypatch.setattr(mapped, "SMALL", 2**16)


@pytest.mark.usefixtures("no_room")
def test_a_table_is_written_and_read_with_no_memory_for_a_row(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "ROWS", 4096)
    names = Names(f"folder {row % 97}/IMG_{row:08}.jpg" for row in range(N))
    found = assigned(N)
    write_assignments(assigned(10), names[:10], tmp_path / "few.parquet")
    read_assignments(tmp_path / "few.parquet")  # loads what is loaded once
    _, written = growth(lambda: write_assignments(found, names, tmp_path / "table.parquet"))
    (ids, again, _), read = growth(lambda: read_assignments(tmp_path / "table.parquet"))
    assert max(written, read) < 20 * N, "a list of the names takes 110 bytes for each"
    assert ids == names
    assert ids[N - 1] == f"folder {(N - 1) % 97}/IMG_{N - 1:08}.jpg"
    assert torch.equal(again.labels, found.labels)
    assert torch.equal(again.positions, found.positions)
    assert pq.ParquetFile(tmp_path / "table.parquet").num_row_groups > 2


def test_equal_files_are_found_in_buckets_as_by_a_dictionary(monkeypatch):
    monkeypatch.setattr(equal, "BUCKET_ROWS", 100)
    monkeypatch.setattr(equal, "_READ", 64)
    draw = np.random.default_rng(0)
    prints = draw.integers(0, 256, (1500, 16), dtype=np.uint8)
    prints[700:] = prints[draw.integers(0, 900, 800)]
    prints[40, 8:] += 1  # it differs in its second half alone
    prints[41, :8] = prints[40, :8]
    seen = {}
    expected = [seen.setdefault(bytes(each), row) for row, each in enumerate(prints)]
    first = first_of_each(torch.from_numpy(prints))
    assert first.tolist() == expected
    assert first_rows(first).tolist() == sorted(set(expected))
    groups = {}
    for row, lead in enumerate(expected):
        groups.setdefault(lead, []).append(row)
    assert [*equal_groups(first)] == [group for _, group in sorted(groups.items()) if len(group) > 1]


@pytest.mark.parametrize("n_groups", [1, 7, 300])
def test_rows_are_grouped_as_by_a_stable_sort(n_groups, monkeypatch):
    monkeypatch.setattr("shoal.clustering.grouping._READ", 64)
    groups = torch.randint(-1, n_groups, (500,), generator=torch.Generator().manual_seed(0))
    order, places = grouped_rows(groups, n_groups)
    expected = torch.argsort(groups, stable=True)[int((groups < 0).sum()) :]
    assert torch.equal(order, expected)
    assert torch.equal(torch.tensor(places).diff(), torch.bincount(groups[groups >= 0], minlength=n_groups))
    assert torch.equal(group_sizes(groups), torch.bincount(groups[groups >= 0]))
    for group, rows in groups_of(groups, n_groups):
        assert torch.equal(rows, (groups == group).nonzero()[:, 0])


def test_the_least_are_those_of_a_sort_with_all_that_are_equal_to_the_last():
    values = torch.tensor([3.0, 1, 2, 1, 5, 2])
    assert least(values, torch.arange(6), 3).tolist() == [1, 2, 3, 5]
    assert least(values, torch.tensor([4, 0]), 3).tolist() == [4, 0]
    assert least(torch.full((4,), torch.nan), torch.arange(4), 2).tolist() == [0, 1, 2, 3]


def test_cells_in_two_steps_find_almost_all_neighbours(monkeypatch):
    monkeypatch.setattr(cells, "CELL_ROWS", 20)
    monkeypatch.setattr(cells, "FLAT_CELLS", 50)
    draw = torch.Generator().manual_seed(0)
    middle = torch.randn(30, 16, generator=draw)
    rows = middle[torch.randint(30, (4000,), generator=draw)] + 0.5 * torch.randn(4000, 16, generator=draw)
    found = approximate_neighbours(rows, torch.arange(4000))
    unit = normalize(rows)
    near = (unit @ unit.T).fill_diagonal_(-1).topk(10).indices
    hits = [len(set(a) & set(b)) for a, b in zip(found.index.tolist(), near.tolist(), strict=True)]
    assert np.mean(hits) > 8
    assert all(len(set(each)) == 10 for each in found.index.tolist())


def test_rows_that_are_all_alike_are_compared_in_pieces(monkeypatch):
    monkeypatch.setattr(cells, "CELL_ROWS", 50)
    monkeypatch.setattr(cells, "MOST_ROWS", 200)
    compared = 0
    products = torch.addmm

    def counted(lengths, x, y, **options):
        nonlocal compared
        compared += x.shape[0] * y.shape[1]
        return products(lengths, x, y, **options)

    rows = torch.cat([torch.ones(3000, 8), torch.randn(1000, 8, generator=torch.Generator().manual_seed(0))])
    monkeypatch.setattr(cells.torch, "addmm", counted)
    found = approximate_neighbours(rows, torch.arange(4000))
    assert compared < 4000 * 4 * 400, "in proportion to the rows, not to the square of those that are alike"
    assert (found.similarity[:3000] > 1 - 1e-6).all()
    assert (found.index != torch.arange(4000)[:, None]).all()


def sketches_of(n, draw):
    luma = torch.nn.functional.interpolate(torch.rand(n, 1, 6, 6, generator=draw), size=16, mode="bicubic")[:, 0]
    found = np.zeros(n, SKETCH)
    found["luma"], found["chroma"] = (255 * luma.clamp(0, 1)).round().numpy(), 128
    found["width"], found["height"], found["bytes"] = 64, 48, 999
    return found


def test_copies_in_cells_are_those_among_all_pairs(monkeypatch):
    draw = torch.Generator().manual_seed(0)
    n, copied = 3000, 200
    features, sketches = torch.randn(n, 32, generator=draw), sketches_of(n, draw)
    features[-copied:] = features[:copied] + 0.05 * torch.randn(copied, 32, generator=draw)
    sketches[-copied:] = sketches[:copied]
    rows = torch.arange(n)
    every = copies(features, rows, neighbours_by_cell(features, rows), sketches)  # 4 000 are compared with all
    monkeypatch.setattr(cells, "CELL_ROWS", 100)
    found = copies(features, rows, neighbours_by_cell(features, rows), sketches)
    one, other = ({(int(a), int(b)) for a, b in zip(p.one, p.other, strict=True)} for p in (every, found))
    assert one == {(row, n - copied + row) for row in range(copied)}
    assert other == one


def test_duplicates_of_many_take_memory_for_those_alone(tmp_path):
    first = torch.arange(N)
    first[N - 1000 :] = torch.arange(1000)
    names = Names(map(str, range(N)))
    nothing = copies(torch.eye(2), torch.arange(2), [], sketches_of(2, torch.Generator().manual_seed(0)))
    found, most = growth(lambda: duplicates(first, nothing, names))
    assert len(found) == 2000
    assert most < 12 * N, "one number of each image at a time"
    write_duplicates(found, names, tmp_path / "duplicates.csv")
    lines = Path(tmp_path / "duplicates.csv").read_text().splitlines()
    assert lines[1:3] == ['0,"exact","0",1,,,,', f'0,"exact","{N - 1000}",1,,,,']


def test_representatives_and_the_sample_of_a_page_are_those_of_whole_sorts():
    found = assigned(30_000, 12)
    features = torch.randn(30_000, 4, generator=torch.Generator().manual_seed(1))
    table = representatives(features, found, alike=2.0)
    order = torch.argsort(found.distance, stable=True)
    for cluster in range(12):
        own = order[found.labels[order] == cluster]
        assert [each.row for each in table if (each.cluster, each.role) == (cluster, "central")] == own[:10].tolist()
        rest = own[10:]
        doubtful = rest[torch.argsort(found.confidence[rest], stable=True)][:10]
        assert [e.row for e in table if (e.cluster, e.role) == (cluster, "doubtful")] == doubtful.tolist()
    shown = sample_of_page(Clustering(found.labels, torch.zeros(12, 4), found.distance), found.confidence, 0)
    assert int(shown.sum()) == 20_000
    assert all(shown[each.row] for each in table)


def test_neighbours_of_no_rows_and_of_one():
    rows = torch.randn(3, 4)
    assert [*neighbours.neighbours_by_cell(rows, torch.arange(1))] == []
    assert approximate_neighbours(rows, torch.arange(0)).index.shape == (0, 0)


def test_a_draw_from_many_rows_has_each_once_and_none_more_often_than_others(monkeypatch):
    monkeypatch.setattr(drawing, "PERMUTED", 100)
    drawn = [drawing.draw_rows(1000, 50, torch.Generator().manual_seed(seed)) for seed in range(400)]
    assert all(len(each.unique()) == 50 for each in drawn)
    assert torch.equal(drawn[0], drawing.draw_rows(1000, 50, torch.Generator().manual_seed(0)))
    counts = torch.cat(drawn).bincount(minlength=1000)
    assert len(counts) == 1000
    assert chisquare(counts.view(20, 50).sum(1)).pvalue > 1e-3
    assert sorted(drawing.draw_rows(1000, 2000, torch.Generator().manual_seed(0)).tolist()) == [*range(1000)]


def test_a_report_keeps_the_first_groups_and_counts_the_others(tmp_path):
    table = [f"{row // 2},near,image-{row},1.0,{'true' if row % 2 else 'false'},8,6,99" for row in range(1000)]
    (tmp_path / "duplicates.csv").write_text("\n".join(["group,kind,id,similarity,keep,width,height,bytes", *table]))
    found, others = read_copies(tmp_path / "duplicates.csv", 3)
    assert ([*found], others) == (["0", "1", "2"], 497)
    assert [(each.id, each.keep) for each in found["2"]] == [("image-4", False), ("image-5", True)]
    assert growth(lambda: read_copies(tmp_path / "duplicates.csv", 3))[1] < 2**18
