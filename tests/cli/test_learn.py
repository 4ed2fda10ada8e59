"""``shoal ask`` and ``shoal learn``, as they are called."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from tests.results.conftest import *  # noqa: F403 - the same photos and clusters

from shoal.cli.main import main
from shoal.results.result import Result


def labels_of(clusters):
    result = Result.load(clusters)
    return dict(zip(result.ids, result.assignments.labels.tolist(), strict=True))


def questions(clusters, n=8):
    assert main(["ask", str(clusters), "-n", str(n)]) == 0
    with Path("questions.csv").open(newline="") as file:
        return [*csv.DictReader(file)]


def fill(rows, answer, path="answers.csv"):
    with Path(path).open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows({**row, "answer": answer(row) if callable(answer) else answer} for row in rows)
    return path


def test_questions_are_answered_learnt_from_and_taken_back(clusters, capsys):
    before = labels_of(clusters)
    rows = questions(clusters)
    assert len({row["id"] for row in rows}) == 8
    assert rows[0]["file"].endswith(rows[0]["id"])
    wanted = fill(rows, lambda row: "new stones" if row["id"].startswith("grey") else str(before[row["id"]]))
    assert main(["learn", str(clusters), wanted]) == 0
    out = capsys.readouterr().out
    assert "8 answers" in out
    assert "nothing has been kept yet" in out
    assert labels_of(clusters) == before
    assert main(["learn", str(clusters), wanted, "--yes"]) == 0
    found = labels_of(clusters)
    stones = [name for name, cluster in Result.load(clusters).names.items() if cluster == "stones"]
    assert {found[row["id"]] for row in rows if row["id"].startswith("grey")} == {*stones}
    with (clusters / "assignments.csv").open() as file:
        assert {row["id"]: int(row["cluster"]) for row in csv.DictReader(file)} == found
    while "nothing" not in capsys.readouterr().err:
        status = main(["learn", str(clusters), "--undo"])
    assert status == 2
    assert labels_of(clusters) == before


def test_the_next_questions_are_others(clusters):
    rows = questions(clusters)
    before = labels_of(clusters)
    assert main(["learn", str(clusters), fill(rows, lambda row: str(before[row["id"]])), "--yes"]) == 0
    assert main(["ask", str(clusters), "-n", "8", "--out", "more.csv"]) == 0
    with Path("more.csv").open() as file:
        assert not {row["id"] for row in csv.DictReader(file)} & {row["id"] for row in rows}


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("77", "there is no cluster '77'"),
        ("cat", "there is no cluster 'cat'"),
        ("", "no question"),
        ("-1", "there is no cluster '-1'"),
        ("9" * 40, "there is no cluster"),
    ],
)
def test_odd_answers_are_named(clusters, answer, words, capsys):
    path = fill(questions(clusters, 2), answer)
    assert main(["learn", str(clusters), path, "--yes"]) == 2
    assert words in capsys.readouterr().err
    assert not (clusters / "decisions.jsonl").exists()


def test_answers_by_name_nowhere_and_none(clusters):
    with Path("edited.json").open("w") as file:
        json.dump({"clusters": [{"old": 0, "cluster": 0, "name": "first"}]}, file)
    assert main(["learn", str(clusters), "edited.json", "--yes"]) == 0
    rows = questions(clusters, 3)
    answers = iter(["first", "nowhere", "none"])
    assert main(["learn", str(clusters), fill(rows, lambda _row: next(answers)), "--yes"]) == 0
    found = labels_of(clusters)
    assert found[rows[0]["id"]] == 0
    assert found[rows[1]["id"]] == -1


def test_what_was_edited_on_a_copy_of_the_report_counts(clusters, capsys):
    before = labels_of(clusters)
    edited = {
        "clusters": [
            {"old": 0, "cluster": 0, "name": "both"},
            {"old": 1, "cluster": 0, "name": "both"},
            {"old": 2, "cluster": 2, "name": ""},
            {"old": 3, "cluster": 3, "name": ""},
        ],
        "images": [
            {"id": name, "cluster": 0 if cluster == 1 else cluster, "name": ""} for name, cluster in before.items()
        ],
    }
    stray = next(each for each in edited["images"] if each["cluster"] == 2)
    stray["cluster"] = 3
    with Path("edited.json").open("w") as file:
        json.dump(edited, file)
    assert main(["learn", str(clusters), "edited.json"]) == 0
    assert "1 clusters merged, 1 renamed, 1 images moved" in capsys.readouterr().out
    assert main(["learn", str(clusters), "edited.json", "--yes"]) == 0
    assert labels_of(clusters) == {each["id"]: each["cluster"] for each in edited["images"]}
    assert Result.load(clusters).names == {0: "both"}
    assert main(["learn", str(clusters), "edited.json", "--yes"]) == 2
    assert "already" in capsys.readouterr().err


def test_a_table_of_another_result_is_refused(clusters, capsys):
    with Path("answers.csv").open("w") as file:
        file.write("id,answer\nsomething.png,0\n")
    assert main(["learn", str(clusters), "answers.csv", "--yes"]) == 2
    assert "which was not clustered" in capsys.readouterr().err
    assert main(["learn", str(clusters), "gone.csv"]) == 2
    assert main(["learn", str(clusters)]) == 2
    assert "nothing to learn from yet" in capsys.readouterr().err


def test_features_are_learnt_of_as_well(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    np.save("rows.npy", np.concatenate([rng.normal(c, 0.3, (40, 5)) for c in (0, 3, 6)]).astype(np.float32))
    assert main(["cluster", "rows.npy", "-k", "2", "--out", "out", "--quiet"]) == 0
    assert main(["ask", "out", "-n", "30"]) == 0
    with Path("questions.csv").open() as file:
        rows = [*csv.DictReader(file)]
    path = fill(rows, lambda row: f"new group {int(row['id']) // 40}")
    assert main(["learn", "out", path, "--yes"]) == 0
    found = Result.load(tmp_path / "out").assignments.labels.numpy()
    assert [len(np.unique(found[start : start + 40])) for start in (0, 40, 80)] == [1, 1, 1]
