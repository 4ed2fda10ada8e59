"""Evaluation and report of merged clusters."""

import csv
import shutil

import pytest
import torch
from tests.commands import complaint

from shoal.cli.main import main
from shoal.evaluation import Evaluation, as_text, clustering_scores
from shoal.results.merging import merge
from shoal.results.result import Result
from shoal.results.tables import read_assignments

pytestmark = pytest.mark.usefixtures("no_umap", "own_cache")


def test_a_merged_result_has_unions_and_sums(run):
    result = Result.load(run)
    found, model = merge(result, 2)
    before = result.assignments.labels
    pairs = set(zip(before.tolist(), found.labels.tolist(), strict=True))
    assert len(pairs) == 4
    assert set(found.labels.tolist()) == {0, 1}
    finer, coarser = (each.predict_proba(result.features) for each in (result.model, model))
    into = torch.tensor([dict(pairs)[cluster] for cluster in range(4)])
    torch.testing.assert_close(coarser, torch.zeros(200, 2).index_add(1, into, finer.float()).to(coarser.dtype))
    torch.testing.assert_close(found.confidence, coarser.gather(1, found.labels[:, None])[:, 0].float().clamp(max=1))


def test_evaluate_and_report_cut_the_tree(run, tmp_path, capsys):
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    assert main(["evaluate", str(folder), "--merge-to", "3"]) == 0
    said = capsys.readouterr().out
    found = Evaluation.load(folder / "evaluation.json")
    assert found.merged.clusters == 3
    result = Result.load(folder)
    labels = merge(result, 3)[0].labels
    assert found.merged.scores == clustering_scores(result.embedded.targets, labels)
    assert "Accuracy, many-to-one (purity)" in said
    assert as_text(found) in said
    before = (folder / "report.html").read_bytes()
    assert main(["report", str(folder), "--merge-to", "3"]) == 0
    page = (folder / "report-3.html").read_text()
    assert f"{100 * found.merged.scores['acc']:.1f}" in page
    assert "--merge-to 3" in page
    assert (folder / "report.html").read_bytes() == before
    for number in ("4", "0"):
        assert main(["report", str(folder), "--merge-to", number]) == 2
        assert "fewer than the 4 clusters" in complaint(capsys)
    assert main(["evaluate", "--merge-to", "3"]) == 2
    assert "give its folder" in complaint(capsys)


def test_merged_clusters_have_tables_and_take_new_images(run, tmp_path, capsys):
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    labels = merge(Result.load(folder), 2)[0].labels.tolist()
    assert main(["report", str(folder), "--merge-to", "2"]) == 0
    said = capsys.readouterr().out
    assert f"report       {folder / 'report-2.html'}\nassignments  {folder / 'assignments-2.csv'}" in said
    ids, found, names = read_assignments(folder / "assignments-2.parquet")
    assert (ids, found.labels.tolist(), names) == ([*Result.load(folder).table_ids], labels, {})
    rows = [*csv.DictReader((folder / "assignments-2.csv").read_text().splitlines())]
    assert [int(row["cluster"]) for row in rows] == labels
    assert all(row["label"] for row in rows)
    (folder / "assignments-2.csv").unlink()
    assert main(["evaluate", str(folder), "--merge-to", "2"]) == 0
    assert str(folder / "assignments-2.csv") in capsys.readouterr().out
    assert (folder / "assignments-2.csv").exists()
    pictures = Result.load(folder).source
    out = tmp_path / "new.csv"
    assert main(["predict", str(folder), str(pictures), "--merge-to", "2", "--out", str(out)]) == 0
    assert "in 2 clusters" in capsys.readouterr().out
    again = {row["id"]: int(row["cluster"]) for row in csv.DictReader(out.read_text().splitlines())}
    assert again == dict(zip(ids, labels, strict=True))
    assert main(["predict", str(folder), str(pictures), "--merge-to", "9", "--out", str(tmp_path / "x.csv")]) == 2
    assert "fewer than the 4 clusters" in complaint(capsys)
