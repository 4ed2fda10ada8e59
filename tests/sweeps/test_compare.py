"""Comparisons: statistics against scipy, what is chosen, what is said of results that do not fit together."""

import csv
import io
import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats
from tests.commands import complaint

from shoal.cli.main import main
from shoal.errors import UserError
from shoal.results.figures import Figures, ImageSet
from shoal.sweeps import compare as comparing
from shoal.sweeps import tables
from shoal.sweeps.compare import Difference, Stat, compare

SOUND = {"silhouette": 0.3, "smallest": 0.2, "largest": 0.4, "feature_std": 0.9}


def figures(path, settings, seed, labels=(0, 0, 1, 1), images="x", decided=None, **scores):
    """A finished run with these figures."""
    rows = [{"epoch": e, "loss": scores.get("loss", 1.0) + 1 - e, "acc": 0.1 * e} for e in (0, 1)]
    run = SimpleNamespace(
        clustered=(None, SimpleNamespace(labels=torch.tensor(labels)), None),
        centers=torch.zeros(2, 3),
        encoder=None,
        decided=decided,
        folder=SimpleNamespace(is_run=True),
    )
    found = Figures(path, "propos", settings, seed, {"loss": 1.0, **SOUND, **scores}, rows, run)
    found.__dict__["images"] = ImageSet(4, images, "", None)
    return found


@pytest.fixture
def compared(monkeypatch):
    """A function that compares such runs."""

    def make(*runs):
        known = {run.path: run for run in runs}
        monkeypatch.setattr(comparing, "read_figures", known.__getitem__)
        return compare([*known])

    return make


def pair(tmp_path, **scores):
    """Two variants with three seeds each."""
    acc = {0.3: [0.90, 0.80, 0.85], 0.6: [0.92, 0.84, 0.86]}
    return [
        figures(tmp_path / f"{lr}-{seed}", {"optim.lr": lr, "epochs": 5}, seed, acc=value, loss=1 - seed / 10, **scores)
        for lr, values in acc.items()
        for seed, value in enumerate(values)
    ]


def test_means_and_differences_are_those_of_scipy(compared, tmp_path):
    found = compared(*pair(tmp_path))
    one, two = found.variants
    assert one.stats["acc"] == Stat(pytest.approx(0.85), pytest.approx(np.std([0.9, 0.8, 0.85], ddof=1)), 0.9, 3)
    assert one.stats["loss"].best == 0.8
    assert not one.differences
    told = stats.ttest_rel([0.92, 0.84, 0.86], [0.90, 0.80, 0.85]).confidence_interval(0.95)
    gap = two.differences["acc"]
    assert (gap.low, gap.high) == pytest.approx((told.low, told.high))
    assert gap.mean == pytest.approx(0.07 / 3)
    assert "loss" not in two.differences
    assert found.settings == {"optim.lr": [0.3, 0.6]}


def test_seeds_are_paired_by_their_number(compared, tmp_path):
    runs = pair(tmp_path)
    found = compared(runs[2], runs[0], *runs[3:5])
    assert found.variants[1].differences["acc"] == Difference(pytest.approx(0.02), None, None, 1)
    assert [run.seed for run in found.variants[0].runs] == [0, 2]


def test_equal_differences_have_an_interval_without_width():
    assert Difference.of([(0.0, 0.5), (0.25, 0.75)]) == Difference(0.5, 0.5, 0.5, 2)


def test_labels_choose_nothing(compared, tmp_path):
    runs = pair(tmp_path)
    runs[3:] = [
        figures(r.path, r.settings, r.seed, (0, 1, r.seed % 2, 0), acc=1.0, loss=r.scores["loss"]) for r in runs[3:]
    ]
    found = compared(*runs)
    assert [variant.chosen.seed for variant in found.variants] == [2, 2]
    assert found.variants[0].agreement == 1.0
    assert found.variants[1].agreement < 1
    assert found.chosen is found.variants[0]  # whose accuracy is lower
    collapsed = [figures(r.path, r.settings, r.seed, largest=0.99, smallest=0.0) for r in runs[:3]]
    assert compared(*collapsed, *runs[3:]).chosen.label == found.variants[1].label
    single = compared(runs[0], runs[3])
    assert single.chosen is None
    assert "two seeds" in single.choice


def test_other_images_are_said_and_give_no_differences(compared, tmp_path):
    runs = pair(tmp_path)
    runs[3:] = [figures(r.path, r.settings, r.seed, images="y", acc=0.5) for r in runs[3:]]
    found = compared(*runs)
    assert found.notes[0].startswith("Other images than those of")
    assert not found.variants[1].differences
    assert found.chosen is None


def test_decisions_and_images_in_no_cluster_are_said(compared, tmp_path):
    (first, second) = compared(
        figures(tmp_path / "a", {"optim.lr": 0.3}, 0, decided="merged"),
        figures(tmp_path / "b", {"optim.lr": 0.6}, 0, labels=(0, 1, -1, -1)),
    ).notes
    assert first == "Clusters as they were found, before the decisions on a."
    assert second == "Of b 50.0% of the images are in no cluster: its scores are of the others alone."


def test_images_of_another_size_are_the_same_images():
    small, large = ImageSet(4, "names", "a", (8, 8)), ImageSet(4, "names", "b", (16, 16))
    assert small.is_same(large)
    assert not small.is_same(ImageSet(4, "names", "b", (8, 8)))
    assert not small.is_same(ImageSet(4, "others", "a", (8, 8)))
    assert small.is_same(ImageSet(4, "names", "", None))


def test_copies_of_a_run_count_once(compared, tmp_path):
    runs = pair(tmp_path)
    copy = figures(tmp_path / "copy", runs[0].settings, 0, acc=0.9)
    found = compared(*runs, copy)
    assert len(found.variants[0].runs) == 3
    assert "copy has the settings and the seed of" in found.notes[0]
    with pytest.raises(UserError, match="given twice"):
        compare([runs[0].path, runs[0].path])


def test_every_format_says_the_same(compared, tmp_path):
    found = compared(*pair(tmp_path))
    for suffix in tables.SUFFIXES:
        tables.write(found, tmp_path / f"table{suffix}")
    cell = "0.850 ± 0.050 (0.900)"
    assert cell in tables.as_text(found)
    assert f"| {cell} |" in (tmp_path / "table.md").read_text()
    assert "**0.873 ± 0.042 (0.920)**" in (tmp_path / "table.md").read_text()
    assert r"0.850 $\pm$ 0.050 (0.900)" in (tmp_path / "table.tex").read_text()
    assert r"optim.lr 0.3" in (tmp_path / "table.tex").read_text()
    page = (tmp_path / "table.html").read_text()
    assert cell in page
    assert '<td class="best">0.873 ± 0.042 (0.920)</td>' in page
    assert page.count("<polyline") == 4  # loss and accuracy of two variants
    assert not re.search(r"https?://", page)
    rows = [*csv.DictReader(io.StringIO((tmp_path / "table.csv").read_text()))]
    assert [float(row["acc_mean"]) for row in rows] == pytest.approx([0.85, 0.92 / 3 + 0.84 / 3 + 0.86 / 3])
    assert float(rows[1]["acc_difference_low"]) == found.variants[1].differences["acc"].low
    assert [row["optim.lr"] for row in rows] == ["0.3", "0.6"]


def test_names_break_no_table(compared, tmp_path):
    found = compared(figures(tmp_path / "a|b_$&%<i>\\", {"x": 1}, 0), figures(tmp_path / "c", {"x": 2}, 0))
    assert r"a\|b\_$&%\<i>\\" in tables.as_markdown(found)
    assert r"a|b\_\$\&\%<i>\textbackslash{}" in tables.as_latex(found)
    tables.write(found, tmp_path / "table.html")
    assert "a|b_$&amp;%&lt;i&gt;" in (tmp_path / "table.html").read_text()


@pytest.fixture(scope="module")
def clusterings(tmp_path_factory):
    """Two clusterings of the same features, which have no labels."""
    folder = tmp_path_factory.mktemp("clusterings")
    rng = np.random.default_rng(0)
    np.save(folder / "f.npy", (rng.normal(size=(60, 16)) + 4 * np.eye(16)[rng.integers(0, 3, 60)]).astype("f4"))
    for seed in (0, 1):
        words = ["-k", "3", "--seed", str(seed), "--quiet", "--out", str(folder / f"c{seed}")]
        assert main(["cluster", str(folder / "f.npy"), *words]) == 0
    return folder


def test_clusterings_without_labels(clusterings, capsys):
    assert main(["compare", str(clusterings / "c0"), str(clusterings / "c1")]) == 0
    said = capsys.readouterr().out
    assert "silhouette" in said
    assert "highest silhouette" in said
    assert "ACC" not in said


def test_a_result_of_version_0_1(tmp_path, capsys):
    shutil.copytree(Path(__file__).parents[1] / "results" / "version_0_1" / "clusters", tmp_path / "old")
    assert main(["compare", str(tmp_path / "old")]) == 0
    assert "silhouette" in capsys.readouterr().out


def test_what_a_comparison_refuses(clusterings, run, tmp_path, capsys):
    def refused(*words):
        assert main(["compare", *map(str, words)]) == 2
        return complaint(capsys)

    assert "give the folder of a sweep" in refused()
    assert "holds no finished clusters" in refused(tmp_path)
    assert "given twice" in refused(clusterings / "c0", clusterings / "c0")
    assert "should end in .md" in refused(clusterings / "c0", "--out", tmp_path / "t.xlsx")
    (tmp_path / "t.md").touch()
    assert "exists already" in refused(clusterings / "c0", "--out", tmp_path / "t.md")
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "metrics.jsonl").write_text("{]\n")
    assert "is damaged" in refused(tmp_path / "run")
    (tmp_path / "run" / "clustering.safetensors").unlink()
    assert "shoal train --resume" in refused(tmp_path / "run")


def test_a_moved_run_and_a_clustering_of_other_things(clusterings, run, tmp_path, capsys):
    shutil.copytree(run, tmp_path / "moved")
    assert main(["compare", str(tmp_path / "moved"), str(clusterings / "c0")]) == 0
    said = capsys.readouterr().out
    assert "Other images than those of moved (200): c0 (60)" in said
    assert "Differences" not in said


def test_a_sweep_that_is_not_finished(run, tmp_path, capsys):
    names = ["a_seed=0", "a_seed=1"]
    runs = [{"name": name, "recipe": "a", "settings": {}, "seed": i} for i, name in enumerate(names)]
    (tmp_path / "sweep.json").write_text(json.dumps({"format": 1, "runs": runs}))
    assert main(["compare", str(tmp_path)]) == 2
    assert "without a finished run" in complaint(capsys)
    shutil.copytree(run, tmp_path / names[0])
    assert main(["compare", str(tmp_path)]) == 0
    assert "1 of 2 runs of" in capsys.readouterr().out


READ = ("config.yaml", "metrics.jsonl", "clustering.safetensors", "assignments.parquet", "features", "decisions.jsonl")
"""What a comparison reads of a result."""


@pytest.mark.parametrize("spoilt", [*READ, "evaluation.json", "report.html", "state.safetensors"])
@pytest.mark.parametrize(
    "how", [b"", b"\0\xff{]: - :\n", b"[1, 2]\n", b'{"acc": []}\n'], ids=["empty", "noise", "list", "other"]
)
def test_a_damaged_result_is_named_and_left_out(spoilt, how, run, tmp_path, capsys):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for folder in (whole, broken):
        shutil.copytree(run, folder)
    if spoilt == "decisions.jsonl":
        shutil.copy(broken / "assignments.parquet", broken / "clustered.parquet")
    targets = [*(broken / spoilt).iterdir()] if spoilt == "features" else [broken / spoilt]
    for target in targets:
        target.write_bytes(how)
    assert main(["compare", str(whole), str(broken)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    harmless = spoilt not in READ or (how == b"" and spoilt in ("metrics.jsonl", "decisions.jsonl"))
    assert ("broken is damaged and left out: " in said) == (not harmless)
    assert "whole" in said
    if not harmless:
        assert main(["compare", str(broken)]) == 2
        assert "no result can be compared" in complaint(capsys)


def test_means_that_look_the_same_are_all_the_best(compared, tmp_path):
    runs = [figures(tmp_path / str(acc), {"x": acc}, 0, acc=acc) for acc in (0.90004, 0.9, 0.8)]
    text = tables.as_markdown(compared(*runs))
    assert text.count("**0.900**") == 2
    assert "**0.800**" not in text


def test_what_was_trained_for_less_than_an_epoch_has_no_curve_and_a_word(compared, tmp_path):
    short, long = figures(tmp_path / "short", {"x": 1}, 0), figures(tmp_path / "long", {"x": 2}, 0)
    short.rows[:] = short.rows[:1]
    tables.write(compared(short, long), tmp_path / "t.html")
    page = (tmp_path / "t.html").read_text()
    assert "No curve is drawn of short: that takes values of two epochs" in page
    tables.write(compared(short), tmp_path / "s.html")
    assert "No curve is drawn of short" in (tmp_path / "s.html").read_text()
    tables.write(compared(long), tmp_path / "l.html")
    assert "No curve" not in (tmp_path / "l.html").read_text()
