"""The report's exports, read back."""

import json

import pytest
import torch

from shoal.errors import UserError
from shoal.results.edited import read_edited

IDS = ["a.jpg", "bad\udcff.jpg", "c, d.jpg", "e.jpg"]
OLD = torch.tensor([0, 1, 2, 2])


def test_csv_moves_the_images_it_names(tmp_path):
    path = tmp_path / "edited.csv"
    path.write_text('\ufeffid,cluster,name\na.jpg,3,cats\nbad\\udcff.jpg,3,cats\n"c, d.jpg",-1,\n')
    edited = read_edited(path)
    assert edited.apply(IDS, OLD).tolist() == [3, 3, -1, 2]
    assert edited.names == {3: "cats"}


def test_json_has_names_that_are_not_utf8_as_they_are_or_spelt_out(tmp_path):
    for name in IDS[1], "bad\\udcff.jpg":
        (tmp_path / "a.json").write_text(json.dumps({"images": [{"id": name, "cluster": 7}]}))
        assert read_edited(tmp_path / "a.json").apply(IDS, OLD).tolist() == [0, 7, 2, 2]


def test_json_merges_clusters_and_images_come_first(tmp_path):
    path = tmp_path / "edited.json"
    clusters = [{"old": 0, "cluster": 0, "name": "cats"}, {"old": 2, "cluster": 0, "name": "cats"}]
    path.write_text(json.dumps({"clusters": clusters, "images": [{"id": "e.jpg", "cluster": 1, "name": "dogs"}]}))
    edited = read_edited(path)
    assert edited.apply(IDS, OLD).tolist() == [0, 1, 0, 1]
    assert edited.names == {0: "cats", 1: "dogs"}
    path.write_text(json.dumps({"clusters": clusters}))
    assert read_edited(path).apply(IDS, OLD).tolist() == [0, 1, 0, 0]


def test_a_name_that_was_taken_away_and_numbers_as_other_programs_write_them(tmp_path):
    path = tmp_path / "edited.json"
    path.write_text(json.dumps({"clusters": [{"old": 0, "cluster": 0, "name": ""}, {"old": 2, "cluster": 2}]}))
    assert read_edited(path).names == {0: ""}
    path = tmp_path / "edited.csv"
    path.write_text("id;cluster;name\na.jpg;3.0;cats\ne.jpg;2;\n")
    assert read_edited(path).apply(IDS, OLD).tolist() == [3, 1, 2, 2]
    assert read_edited(path).names == {3: "cats"}


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("a.csv", "file,group\nx,1\n", "is not an export of a report"),
        ("a.json", "[1]", "is not an export of a report"),
        ("a.json", '{"images": [{"id": "a.jpg", "cluster": 1.5}]}', "is not an export of a report"),
        ("a.csv", "id,cluster\na.jpg,-2\n", "is not an export of a report"),
        ("a.csv", "id,cluster\na.jpg,1\na.jpg,2\n", "gives a.jpg two clusters: leave one"),
        ("a.csv", "id,cluster,name\na.jpg,1,cats\nb.jpg,1,dogs\n", "gives cluster 1 two names: leave one"),
        ("a.csv", "id,cluster\na.jpg,99999999999999999999\n", "is not an export of a report"),
        ("a.csv", "", "is not an export of a report"),
        ("a.json", "{}", "is not an export of a report"),
        ("a.json", "[" * 100_000, "is not an export of a report"),
        ("a.csv", None, "cannot read .*: No such file"),
    ],
)
def test_mistakes(tmp_path, name, text, sentence):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=sentence):
        read_edited(tmp_path / name)


def test_images_of_another_clustering_are_refused(tmp_path):
    (tmp_path / "a.csv").write_text("id,cluster\nz.jpg,1\n")
    with pytest.raises(UserError, match=r"z\.jpg is in the edited assignments and not in the clustering"):
        read_edited(tmp_path / "a.csv").apply(IDS, OLD)
