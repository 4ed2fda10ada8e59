"""``shoal ask`` and ``shoal learn``, as they are called."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from tests.results.conftest import *  # noqa: F403 - the same photos and clusters

from shoal.cli.learn import LearnCommand
from shoal.cli.main import main
from shoal.decisions.log import DecisionLog
from shoal.results.result import Result


def stopped(*_args, **_kwargs):
    raise KeyboardInterrupt


def run_command(args):
    """A command that may be stopped, which ``main`` would tell of instead."""
    LearnCommand.parse("learn", args[1:]).run()


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


@pytest.mark.slow
def test_questions_are_answered_learned_from_and_taken_back(clusters, capsys):
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
    assert "1 cluster merged, 1 renamed, 1 image moved" in capsys.readouterr().out
    assert main(["learn", str(clusters), "edited.json", "--yes"]) == 0
    assert labels_of(clusters) == {each["id"]: each["cluster"] for each in edited["images"]}
    assert Result.load(clusters).names == {0: "both"}
    assert main(["learn", str(clusters), "edited.json", "--yes"]) == 2
    assert "already" in capsys.readouterr().err


def test_a_table_of_another_result_is_refused(clusters, capsys):
    with Path("answers.csv").open("w") as file:
        file.write("id,answer\nsomething.png,0\n")
    assert main(["learn", str(clusters), "answers.csv", "--yes"]) == 2
    assert "which is not in this result, or no longer: remove the line" in capsys.readouterr().err
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


def learn_edited(clusters, edited, *flags):
    Path("edited.json").write_text(json.dumps(edited))
    return main(["learn", str(clusters), "edited.json", *flags])


@pytest.mark.parametrize("goals", [{0: 1, 1: 0}, {0: 1, 1: 2}, {0: 1, 1: 2, 2: 0}, {0: 7, 1: 0}])
def test_clusters_that_take_the_number_of_another_are_not_mixed(clusters, goals):
    """Merged one after the other, they would all end in one."""
    before = labels_of(clusters)
    edited = {"clusters": [{"old": old, "cluster": cluster, "name": ""} for old, cluster in goals.items()]}
    assert learn_edited(clusters, edited, "--yes") == 0
    assert labels_of(clusters) == {name: goals.get(cluster, cluster) for name, cluster in before.items()}


def test_edits_of_a_report_from_before_a_merge_go_where_its_clusters_are(clusters, capsys):
    before = labels_of(clusters)
    assert learn_edited(clusters, {"clusters": [{"old": 1, "cluster": 0, "name": "both"}]}, "--yes") == 0
    older = {"clusters": [{"old": 1, "cluster": 1, "name": "one"}, {"old": 2, "cluster": 1, "name": "one"}]}
    assert learn_edited(clusters, older, "--yes") == 0
    assert labels_of(clusters) == {name: 3 if cluster == 3 else 0 for name, cluster in before.items()}
    assert Result.load(clusters).names == {0: "both"}
    images = {"images": [{"id": name, "cluster": cluster} for name, cluster in before.items() if cluster == 1]}
    assert learn_edited(clusters, images) == 2
    assert "already" in capsys.readouterr().err


def test_a_number_far_beyond_all_is_refused(clusters, capsys):
    edited = {"images": [{"id": "red-0.png", "cluster": 999_999_999}]}
    assert learn_edited(clusters, edited, "--yes") == 2
    assert "from 4 on" in capsys.readouterr().err
    assert not (clusters / "decisions.jsonl").exists()
    edited["images"][0]["cluster"] = 40
    assert learn_edited(clusters, edited) == 0
    assert "1 new cluster" in capsys.readouterr().out


def test_answers_of_a_file_are_undone_as_one(clusters, capsys):
    rows = questions(clusters, 5)
    assert main(["learn", str(clusters), fill(rows, "0"), "--yes"]) == 0
    assert "learn" not in [step["do"] for step in DecisionLog(clusters / "decisions.jsonl").read()[0]]  # no change
    assert main(["learn", str(clusters), "--undo"]) == 0
    assert "0 decisions are left" in capsys.readouterr().out
    assert main(["learn", str(clusters), "--undo"]) == 2


@pytest.mark.slow
def test_a_damaged_learnt_clustering_can_be_taken_back(clusters, capsys):
    assert main(["learn", str(clusters), fill(questions(clusters, 5), "0"), "--yes"]) == 0
    before = labels_of(clusters)
    DecisionLog(clusters / "decisions.jsonl").append([{"do": "learn", "file": "learned-1.safetensors"}])
    (clusters / "learned-1.safetensors").write_bytes(b"12345")
    assert main(["ask", str(clusters), "--out", "more.csv"]) == 2
    assert f"'shoal learn {clusters} --undo' takes back" in capsys.readouterr().err
    assert main(["learn", str(clusters), "--undo"]) == 0
    assert "undone" in capsys.readouterr().out
    assert labels_of(clusters) == before


@pytest.fixture
def named(clusters):
    names = {0: "cats", 1: "New 7", 2: "3", 3: "7 up"}
    edited = {"clusters": [{"old": old, "cluster": old, "name": name} for old, name in names.items()]}
    assert learn_edited(clusters, edited, "--yes") == 0
    return clusters


@pytest.mark.parametrize(
    ("answer", "cluster"),
    [("0 cats", 0), ("0.0", 0), ("New 7", 1), ("new cats", 0), ("new 7", 4), ("7 up", 3), ("1 New 7", 1), ("2", 2)],
)
def test_answers_as_they_are_shown_or_as_programs_write_them(named, answer, cluster):
    Path("answers.csv").write_bytes(f"\ufeffid;answer\r\ngrey-0.png;{answer}\r\n".encode())
    assert main(["learn", str(named), "answers.csv", "--yes"]) == 0
    assert labels_of(named)["grey-0.png"] == cluster


def test_a_wrong_answer_is_told_with_its_line(named, capsys):
    Path("answers.csv").write_text('id,answer,note\n\n"grey-0.png",0,"two\nlines"\ngrey-1.png,nosuch,\n')
    assert main(["learn", str(named), "answers.csv", "--yes"]) == 2
    assert "line 5 of answers.csv" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("answer", "words"),
    [("3", "is a number and the name of cluster 2"), ("0 dogs", "no cluster '0 dogs'"), ("none", "none of which")],
)
def test_answers_that_could_be_two_are_refused(named, answer, words, capsys):
    Path("answers.csv").write_text(f"id,answer\ngrey-0.png,{answer}\n")
    assert main(["learn", str(named), "answers.csv", "--yes"]) == 2
    assert words in capsys.readouterr().err


def test_an_answer_about_a_cluster_that_was_merged_since_is_about_the_one_it_is_in(clusters):
    assert learn_edited(clusters, {"clusters": [{"old": 1, "cluster": 0, "name": "both"}]}, "--yes") == 0
    Path("answers.csv").write_text("id,answer,nearest_1\ngrey-0.png,1,\nred-0.png,none,1\n")
    assert main(["learn", str(clusters), "answers.csv", "--yes"]) == 0
    assert labels_of(clusters)["grey-0.png"] == 0


@pytest.mark.slow
def test_a_result_that_was_changed_meanwhile_is_read_again(clusters, monkeypatch, capsys):
    """As where an update ends while something is learned: what was learned is about other images."""
    from shoal.results import learning

    Path("answers.csv").write_text("id,answer\nred-0.png,0\n")
    propose = learning.propose

    def slowly(*args):
        found = propose(*args)
        monkeypatch.setattr(learning, "propose", propose)
        (Path("photos") / "blue-0.png").unlink()
        assert main(["update", str(clusters)]) == 0
        return found

    monkeypatch.setattr(learning, "propose", slowly)
    assert main(["learn", str(clusters), "answers.csv", "--yes"]) == 2
    assert "changed meanwhile" in capsys.readouterr().err
    assert not (clusters / "decisions.jsonl").exists()
    assert main(["learn", str(clusters), "answers.csv", "--yes"]) == 0


@pytest.mark.parametrize("step", ["write_atlas", "write_page", "write_assignments"])
def test_edits_whose_tables_were_not_written_are_completed_by_the_same_command(clusters, step, monkeypatch, capsys):
    before = {path.name: path.read_bytes() for path in clusters.iterdir() if path.is_file()}
    Path("edited.csv").write_text("id,cluster,name\nred-0.png,3,zebras\nblue-0.png,3,zebras\n")
    with monkeypatch.context() as patch:
        patch.setattr(f"shoal.results.finish.{step}", stopped)
        with pytest.raises(KeyboardInterrupt):
            run_command(["learn", str(clusters), "edited.csv", "--yes"])
    assert len(DecisionLog(clusters / "decisions.jsonl").read()[0]) > 0
    kept = {path.name: path.read_bytes() for path in clusters.iterdir() if path.is_file()}
    assert "zebras" not in (clusters / "assignments.csv").read_text()
    assert main(["learn", str(clusters), "edited.csv"]) == 2
    assert {path.name: path.read_bytes() for path in clusters.iterdir() if path.is_file()} == kept
    capsys.readouterr()
    assert main(["learn", str(clusters), "edited.csv", "--yes"]) == 0
    assert "which were behind the decisions" in capsys.readouterr().out
    with (clusters / "assignments.csv").open() as file:
        rows = {row["id"]: row for row in csv.DictReader(file)}
    assert {(rows[name]["cluster"], rows[name]["name"]) for name in ("red-0.png", "blue-0.png")} == {("3", "zebras")}
    assert "zebras" in (clusters / "report.html").read_text()
    for name in ("atlas.parquet", "centers.npy", "assignments.parquet"):
        assert (clusters / name).read_bytes() != before[name], name
    assert (clusters / "decisions.jsonl").read_bytes() == kept["decisions.jsonl"]
    assert main(["learn", str(clusters), "edited.csv", "--yes"]) == 2
    assert "says already" in capsys.readouterr().err


def test_tables_behind_the_decisions_are_left_to_the_review_that_is_open(clusters, monkeypatch, capsys):
    Path("edited.csv").write_text("id,cluster,name\nred-0.png,3,zebras\n")
    with monkeypatch.context() as patch:
        patch.setattr("shoal.results.finish.write_page", stopped)
        with pytest.raises(KeyboardInterrupt):
            run_command(["learn", str(clusters), "edited.csv", "--yes"])
    with Result.load(clusters).folder.alone():
        assert main(["learn", str(clusters), "edited.csv", "--yes"]) == 2
    assert "close its review" in capsys.readouterr().err
    assert "zebras" not in (clusters / "assignments.csv").read_text()
