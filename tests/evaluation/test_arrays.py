"""Features and labels from files: what they give, and the sentence for each mistake."""

import io
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from tests.evaluation.examples import blobs

from shoal.cli.main import main

pytestmark = pytest.mark.usefixtures("no_umap")


@pytest.fixture(autouse=True)
def files(tmp_path, monkeypatch):
    """Features and labels of a train and a test part, and of both."""
    features, labels = (x.numpy() for x in blobs(spread=1.5))
    parts = {
        "f": features,
        "l": labels,
        "a": features[:180],
        "al": labels[:180],
        "b": features[180:],
        "bl": labels[180:],
    }
    for name, array in parts.items():
        np.save(tmp_path / f"{name}.npy", array)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def figures(*args):
    assert main(["evaluate", *args, "--out", "out.json"]) == 0
    return json.loads(Path("out.json").read_text())


def test_as_many_clusters_as_classes(capsys):
    found = figures("--features", "f.npy", "--labels", "l.npy", "--knn", "--linear")
    assert (found["images"], found["clusters"], found["held_out"]) == (240, 4, 0)
    assert found["scores"]["acc"] > 0.6
    assert [(row["of"], row["method"], row["failed"]) for row in found["baselines"]] == [
        ("features", "k-means", None),
        ("features", "UMAP + k-means", None),
    ]
    assert found["knn"]["protocol"] == "leave one out"
    assert found["linear"]["protocol"] == "random fifth"
    said = " ".join(capsys.readouterr().out.split())
    assert f"20 nearest neighbours {found['knn']['accuracy']['top1']:.4f}" in said


def test_a_test_part_is_clustered_with_the_train_part_and_scored_apart():
    args = ["--features", "a.npy", "--labels", "al.npy", "--test-features", "b.npy", "--test-labels", "bl.npy", "--knn"]
    found = figures(*args, "--n-clusters", "6")
    assert (found["images"], found["held_out"], found["clusters"]) == (240, 60, 6)
    assert (found["train_to_test"]["train"], found["train_to_test"]["test"]) == (180, 60)
    assert (found["knn"]["protocol"], found["knn"]["bank"]) == ("test part", 180)
    assert found["scores"]["purity"] > found["scores"]["acc"]


def test_labels_may_be_any_whole_numbers(files):
    labels = np.load("l.npy").astype(np.int16)
    expected = figures("--features", "f.npy", "--labels", "l.npy")
    np.save("odd.npy", np.array([-5, 900, 17, 30000], dtype=np.int16)[labels])
    (files / "out.json").unlink()
    found = figures("--features", "f.npy", "--labels", "odd.npy", "--n-clusters", "4")
    assert found["labelled"] == 180
    assert [row["name"] for row in found["classes"]] == ["17", "900", "30000"]
    assert {row["recall"] for row in found["classes"]} <= {row["recall"] for row in expected["classes"]}


def test_labels_may_be_names(files):
    names = np.array(["ape", "bee", "cow", "dog"])[np.load("l.npy")]
    expected = figures("--features", "f.npy", "--labels", "l.npy")
    (files / "out.json").unlink()
    np.save("names.npy", names)
    found = figures("--features", "f.npy", "--labels", "names.npy")
    assert found["scores"] == expected["scores"]
    assert [row["name"] for row in found["classes"]] == ["ape", "bee", "cow", "dog"]
    (files / "out.json").unlink()
    np.save("some.npy", names[:180].astype("S"))
    parts = ["--features", "a.npy", "--labels", "some.npy", "--test-features", "b.npy"]
    assert figures(*parts)["labelled"] == 180
    with_numbers = ["--test-labels", "bl.npy", "--out", "other.json"]
    assert main(["evaluate", *parts, *with_numbers]) == 2


def test_labels_may_be_row_numbers():
    np.save("rows.npy", np.arange(240))
    found = figures("--features", "f.npy", "--labels", "rows.npy", "--n-clusters", "10")
    assert found["scores"]["acc"] == pytest.approx(10 / 240)
    assert (found["scores"]["completeness"], len(found["classes"])) == (pytest.approx(1), 240)


def test_without_labels():
    found = figures("--features", "f.npy", "--n-clusters", "4")
    assert found["scores"] == {}
    assert found["signals"]["silhouette"] > 0


@pytest.mark.parametrize("kind", [np.float16, np.uint8])
def test_other_numbers_are_taken(kind):
    np.save("x.npy", np.asarray(np.load("f.npy") * 10 + 60, dtype=kind))
    assert figures("--features", "x.npy", "--labels", "l.npy")["images"] == 240


def saved(array, **options):
    file = io.BytesIO()
    np.save(file, array, **options)
    return file.getvalue()


def zipped(array):
    file = io.BytesIO()
    np.savez(file, array)
    return file.getvalue()


def headed(header):
    """A .npy file whose header NumPy chokes on."""
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + bytes(1000)


ROWS = np.ones((240, 3), dtype=np.float32)
BAD_FEATURES = {
    "pickled": (saved(np.array([{}]), allow_pickle=True), "Python objects are refused"),
    "pickle": (pickle.dumps([1]), "Python objects are refused"),
    "text": (b"not an array", "not a .npy file of numbers"),
    "empty": (b"", "not a .npy file of numbers"),
    "cut": (saved(ROWS)[:-1], "it is damaged"),
    "archive": (zipped(ROWS), "not a .npy file of numbers"),
    "no archive": (b"PK\x03\x04 nor an archive", "it is damaged"),
    "unfinished": (headed("{'descr': (((\n"), "it is damaged"),
    "unsorted": (headed("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), 1: 2}\n"), "it is damaged"),
    "endless": (headed(f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({10**30}, 3)}}\n"), "it is damaged"),
    "flat": (saved(ROWS[:, 0]), "has shape (240,): features must be (n, d)"),
    "deep": (saved(ROWS[None]), "has shape (1, 240, 3)"),
    "no rows": (saved(ROWS[:0]), "x.npy"),
    "no columns": (saved(ROWS[:, :0]), "x.npy"),
    "words": (saved(ROWS.astype(str)), "features must be real numbers"),
    "complex": (saved(ROWS.astype(complex)), "contains complex128: features must be real numbers"),
    "nan": (saved(np.where(np.arange(240)[:, None] < 3, np.nan, ROWS)), "NaN or infinity in 3 of 240 rows"),
    "too large": (saved(ROWS.astype(float) * 1e300), "values up to 1e+300, whose squares overflow"),
    "zero": (saved(ROWS * (np.arange(240)[:, None] > 1)), "x.npy contains 2 rows of zeros, which have no cosine"),
    "spans": (saved(ROWS.astype("m8[s]")), "contains timedelta64[s]: features must be real numbers"),
}


@pytest.mark.parametrize("case", BAD_FEATURES)
def test_bad_features(files, case, capsys):
    content, sentence = BAD_FEATURES[case]
    (files / "x.npy").write_bytes(content)
    check_refused(["--features", "x.npy", "--labels", "l.npy"], sentence, files, capsys)


BAD_LABELS = {
    "float": (saved(np.zeros(240)), "holds float64: labels must be integers"),
    "truth": (saved(np.zeros(240, dtype=bool)), "holds bool: labels must be integers"),
    "spans": (saved(np.zeros(240, dtype="m8[s]")), "holds timedelta64[s]: labels must be integers"),
    "huge": (saved(np.full(240, 2**64 - 1, dtype=np.uint64)), "holds 18446744073709551615, which exceeds int64"),
    "short": (saved(np.zeros(239, dtype=int)), "has shape (239,) but f.npy has 240 rows"),
    "wide": (saved(np.zeros((240, 1), dtype=int)), "has shape (240, 1) but f.npy has 240 rows"),
    "none": (saved(np.full(240, -1)), "number of clusters is unknown"),
}


@pytest.mark.parametrize("case", BAD_LABELS)
def test_bad_labels(files, case, capsys):
    content, sentence = BAD_LABELS[case]
    (files / "x.npy").write_bytes(content)
    check_refused(["--features", "f.npy", "--labels", "x.npy"], sentence, files, capsys)


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["--features", "nothing.npy"], "cannot read nothing.npy: No such file or directory"),
        (["--features", "."], "cannot read .: not a regular file"),
        (["--features", "f.npy"], "number of clusters is unknown"),
        (["--features", "f.npy", "--n-clusters", "241"], "n_clusters=241 is more than there are rows"),
        (["--features", "f.npy", "--n-clusters", "0"], "n_clusters=0 must be a whole number"),
        (
            ["--features", "f.npy", "--n-clusters", "2", "--linear"],
            "a linear probe needs labels, and these",
        ),
        (["--features", "f.npy", "--n-clusters", "2", "--knn"], "nearest neighbours need labels"),
        (["--features", "f.npy", "--labels", "l.npy", "--test-labels", "bl.npy"], "give both or neither"),
        (["--features", "f.npy", "--labels", "l.npy", "--test-features", "l.npy"], "l.npy has shape (240,)"),
        (["--labels", "l.npy"], "nothing to evaluate"),
        (["run", "--labels", "l.npy"], "run has features and clusters of its own"),
        (["run", "--n-clusters", "3"], "run has features and clusters of its own"),
    ],
)
def test_bad_combinations(files, args, sentence, capsys):
    check_refused(args, sentence, files, capsys)


def test_parts_of_two_kinds(files, capsys):
    np.save("wide.npy", np.ones((3, 9)))
    args = ["--features", "f.npy", "--labels", "l.npy", "--test-features", "wide.npy"]
    check_refused(args, "wide.npy has 9 columns but f.npy has 8: give features of one network", files, capsys)


def check_refused(args, sentence, folder, capsys):
    before = sorted(folder.iterdir())
    assert main(["evaluate", *args, "--out", "out.json"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    (line,) = said.err.splitlines()
    assert sentence in line
    assert sorted(folder.iterdir()) == before


def test_a_file_is_never_overwritten(files, capsys):
    (files / "out.json").write_text("precious")
    assert main(["evaluate", "--features", "f.npy", "--labels", "l.npy", "--out", "out.json"]) == 2
    assert "out.json exists already: give another --out" in capsys.readouterr().err
    assert (files / "out.json").read_text() == "precious"
