"""The tables of an evaluation and their text."""

import dataclasses
import functools

import torch
from tests.evaluation.examples import blobs, clustered, plain, truth_of

from shoal.evaluation import as_text, evaluate
from shoal.evaluation.tables import tables


@functools.cache
def found(n_test=60, n_classes=7, **asked):
    features, labels = blobs(n_classes=n_classes, spread=2.0)
    return evaluate(truth_of(labels, n_test), features, clustered(features, 9), 0, **asked)


def test_every_figure_is_said():
    figures = found(knn=True, linear=True)
    text = as_text(figures)
    assert text.startswith("240 images, all labelled, 60 held out; 9 clusters\n")
    scores, split = figures.scores, figures.train_to_test
    squeezed = " ".join(text.split())
    assert f"Accuracy (one-to-one matching) {scores['acc']:.4f} {split.scores['acc']:.4f} Purity" in squeezed
    for value in (
        *scores.values(),
        *split.scores.values(),
        split.accuracy_matched_on_train,
        *figures.signals.values(),
        figures.calibration.error,
        figures.knn.accuracy.top1,
        figures.knn.accuracy.top5,
        figures.linear.sgd.top5,
    ):
        assert f" {value:.4f}" in text
    assert "60 images, each among 180 train images, T = 0.07" in text
    assert "trained on 180 images, tested on the test part (60 images)" in text
    assert "LARS" not in text
    for row in figures.classes:
        (line,) = [line for line in text.splitlines() if line.startswith(row.name)]
        assert line.split()[2:] == [str(row.images), str(row.cluster), f"{row.recall:.4f}", f"{row.precision:.4f}"]


def test_without_parts_there_is_no_test_column():
    text = as_text(found(n_test=0, knn=True))
    assert "test" not in text
    assert "240 images, each among all others" in text


def test_lars_has_its_lines():
    figures = found(linear=True)
    linear = dataclasses.replace(figures.linear, lars=dataclasses.replace(figures.linear.sgd, top1=0.1234))
    text = as_text(dataclasses.replace(figures, linear=linear))
    assert f"Linear probe (LARS) 0.1234 {linear.sgd.top5:.4f}" in " ".join(text.split())


def test_plain_methods_stand_beside():
    rows = [plain(), plain("UMAP + k-means", sampled=10000), plain(of="pixels", failed="there was no light in them")]
    figures = dataclasses.replace(found(), baselines=rows)
    lines = as_text(figures).splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("Compared with"))
    assert lines[start].split()[4:] == ["accuracy", "purity", "NMI", "ARI", "agreement"]
    own = [f"{figures.scores[key]:.4f}" for key in ("acc", "purity", "nmi", "ari")]
    assert lines[start + 1].split() == ["These", "clusters", *own]
    assert lines[start + 2].endswith("    0.5123    0.6123    0.4123    0.3123     0.7123")
    assert lines[start + 3].startswith("UMAP + k-means on the features *")
    assert lines[start + 4] == "k-means on pixels"
    assert len(lines[start + 2]) == len(lines[start + 3]) == len(lines[start])
    assert "k-means on pixels: there was no light in them" in lines
    assert "Compared" not in as_text(found())


def compared(*rows, labelled=True):
    """The table of plain methods, and the evaluation."""
    features, labels = blobs()
    truth = truth_of(labels if labelled else torch.full_like(labels, -1))
    figures = dataclasses.replace(evaluate(truth, features, clustered(features), 0), baselines=rows)
    [table] = [table for table in tables(figures) if table.title.startswith("Compared")]
    return table, figures


def test_the_clusters_stand_before_plain_methods():
    table, figures = compared(plain(), plain("UMAP + k-means", sampled=10000), plain(of="backbone"), plain(of="pixels"))
    assert table.columns == ["accuracy", "purity", "NMI", "ARI", "agreement"]
    assert [row.name for row in table.rows] == [
        "These clusters",
        "k-means again, other seeds",
        "UMAP + k-means on the features *",
        "k-means on backbone features",
        "k-means on pixels",
    ]
    assert table.rows[0].values == [*(figures.scores[key] for key in ("acc", "purity", "nmi", "ari")), None]
    assert table.rows[1].values == [0.5123, 0.6123, 0.4123, 0.3123, 0.7123]
    assert table.notes[0] == "* on a random sample of 10000 images."
    assert "on pixels" in table.notes[-1]


def test_notes_on_features_alone_do_not_mention_pixels_or_samples():
    notes = " ".join(compared(plain(), plain("UMAP + k-means"))[0].notes)
    assert "pixels" not in notes
    assert "*" not in notes


def test_plain_methods_without_labels():
    table, _ = compared(plain(labelled=False), plain(of="pixels", labelled=False), labelled=False)
    assert table.columns == ["agreement"]
    assert [row.values for row in table.rows] == [[0.7123], [0.7123]]
    assert "try another number" in table.notes[1]
    assert "pixels do not show" in table.notes[2]


def test_a_failed_method_says_why():
    table, _ = compared(plain(), plain("UMAP + k-means", failed="it went wrong"))
    assert table.rows[2].values == [None] * 5
    assert "UMAP + k-means on the features: it went wrong" in table.notes


def test_without_labels_nothing_speaks_of_classes():
    features, labels = blobs()
    text = as_text(evaluate(truth_of(torch.full_like(labels, -1)), features, clustered(features), 0))
    assert "240 images, 0 labelled, 0 held out; 4 clusters" in text
    assert "left out" not in text
    assert "class" not in text.lower()
    assert "Silhouette" in text


def test_images_that_scores_leave_out_are_counted():
    features, labels = blobs()
    labels[:31] = -1
    text = as_text(evaluate(truth_of(labels), features, clustered(features), 0))
    assert "\n31 images without a label are left out.\n" in text
    assert "left out" not in as_text(found())


def test_a_name_cannot_move_the_cursor():
    figures = found(n_test=0, n_classes=2)
    rows = [
        dataclasses.replace(row, name=name) for row, name in zip(figures.classes, ("\x1b[2Jant", "b\nee"), strict=True)
    ]
    text = as_text(dataclasses.replace(figures, classes=rows))
    assert "\n\\x1b[2Jant " in text
    assert "\nb\\nee " in text


def test_long_tables_are_cut_and_gaps_shown():
    text = as_text(found(n_test=0, n_classes=60))
    assert text.endswith("and 10 more")
    assert sum(line.startswith("class ") for line in text.splitlines()) == 50
    assert " 4 none 0.0000 class" in " ".join(text.split())
