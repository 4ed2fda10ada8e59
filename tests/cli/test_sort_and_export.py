"""The commands, on a folder of clusters that is stood in for."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from shoal.cli.export import ExportCommand
from shoal.cli.sort import SortCommand
from shoal.cli.terminal import Stopped
from shoal.clustering import KMeans
from shoal.errors import UserError
from shoal.export import onnx as onnx_module
from shoal.features.matching import Matched
from shoal.folder import ResultFolder
from shoal.results import atlas
from shoal.results.model import Model
from shoal.results.result import Result
from shoal.sort import plan as sorting


@pytest.fixture
def clusters(tmp_path, monkeypatch):
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in "abc":
        (folder / name).write_bytes(name.encode())
    found = KMeans(3, metric="cosine", n_init=1, random_state=0).fit(torch.eye(3))
    result = SimpleNamespace(
        ids=list("abc"),
        assignments=SimpleNamespace(labels=torch.tensor([0, 1, 1])),
        names={},
        listing=SimpleNamespace(ids=list("abc"), paths=lambda rows: [folder / "abc"[row] for row in rows], stats=None),
        matched=Matched(np.arange(3), np.zeros((3, 3), np.int64), np.zeros(3, bool), np.zeros(3, bool)),
        present=np.arange(3),
        source=str(folder),
        joined=(),
        model=Model(found, torch.eye(3), torch.arange(3)),
        encoder=None,
        network=SimpleNamespace(
            module=torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()),
            preparing=SimpleNamespace(about={"crop": "centre"}),
            input_size=(8, 8),
        ),
        folder=ResultFolder(tmp_path / "clusters"),
        embedded=None,
    )
    monkeypatch.setattr(Result, "load", lambda _: result)
    monkeypatch.setattr(atlas, "example_images", lambda _path, n, size: torch.zeros(n, 3, *size, dtype=torch.uint8))
    return tmp_path / "clusters"


def test_sorting_asks_first_and_can_be_undone(clusters, tmp_path, capsys):
    into = tmp_path / "sorted"
    assert SortCommand(clusters, move=into).run() == 0
    said = capsys.readouterr().out
    assert said.startswith(f"move 3 files (0.0 MB) into {into}\n  cluster-00  1\n  cluster-01  2\n")
    command = f"shoal sort {clusters} --move {into} --yes"
    assert said.endswith(f"nothing has been done yet; to do it: {command}\n")
    assert not into.exists()
    (tmp_path / "edited.json").write_text(json.dumps({"clusters": [{"old": 1, "cluster": 1, "name": "cats"}]}))
    assert SortCommand(clusters, move=into, assignments=tmp_path / "edited.json", yes=True).run() == 0
    assert (into / "cats" / "c").read_bytes() == b"c"
    assert capsys.readouterr().out.endswith(f"to undo it: shoal sort --undo {into}/sorted.jsonl\n")
    (tmp_path / "photos" / "b").write_bytes(b"new")
    with pytest.raises(UserError, match=r"1 file is left as it is: there is another file .*/b: .*/cats/b stays"):
        SortCommand(undo=into / "sorted.jsonl").run()
    (tmp_path / "photos" / "b").unlink()
    assert SortCommand(undo=into / "sorted.jsonl").run() == 0
    assert sorted(path.name for path in (tmp_path / "photos").iterdir()) == list("abc")
    assert not into.exists()


def test_a_sorting_that_was_killed_is_remembered_by_the_next(clusters, tmp_path, monkeypatch):
    into = tmp_path / "s orted"

    def killed(*_):
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(sorting.Plan, "_do", killed)
        with pytest.raises(SystemExit):
            SortCommand(clusters, move=into, yes=True).run()
    (into / "cluster-00" / "a").touch()
    with pytest.raises(UserError, match=r"sorted there before: shoal sort --undo '.*/s orted/sorted\.jsonl'"):
        SortCommand(clusters, move=into, yes=True).run()


def test_the_folder_of_the_clusters_is_no_place_to_sort_into(clusters):
    for into in clusters, clusters / "features":
        with pytest.raises(UserError, match="is the folder of the clusters, or lies in it"):
            SortCommand(clusters, copy=into).run()


@pytest.mark.parametrize("options", [{}, {"copy": 1, "move": 1}, {"undo": 1, "yes": True}, {"undo": 1, "link": 1}])
def test_what_does_not_go_together(clusters, tmp_path, options):
    given = {name: value if value is True else tmp_path / name for name, value in options.items()}
    with pytest.raises(UserError, match=r"one of --copy, --move and --link|--undo takes no other options"):
        SortCommand(clusters, **given).run()


def test_who_stops_it_is_told_the_way_back(clusters, tmp_path, monkeypatch, capsys):
    def stop(*_):
        raise Stopped(2)

    monkeypatch.setattr(sorting.Plan, "_do", stop)
    assert SortCommand(clusters, copy=tmp_path / "sorted", yes=True).run() == 130
    expected = f"shoal: stopped. To undo it: shoal sort --undo {tmp_path}/sorted/sorted.jsonl\n"
    assert capsys.readouterr().err == expected


def test_export_writes_a_network_and_says_how_exact_it_is(clusters, tmp_path, monkeypatch, capsys):
    def write(backbone, clustering, pixels, path, *, preparation, numbers, names):
        with torch.no_grad():
            assert clustering(backbone(pixels[0].float())).shape == (8, 3)
        assert numbers.tolist() == [0, 1, 2]
        assert (preparation, names) == ([{"crop": "centre", "ranges": "{}"}], {})
        path.write_bytes(b"network")
        return onnx_module.Deviation(1e-5, 2e-6, len(pixels[0]))

    monkeypatch.setattr(onnx_module, "check_installed", lambda: None)
    monkeypatch.setattr(onnx_module, "export_onnx", write)
    file = tmp_path / "photos.onnx"
    assert ExportCommand(clusters, file).run() == 0
    expected = "on 8 images: features differ from PyTorch's by at most 1.0e-05, probabilities by 2.0e-06"
    assert expected in capsys.readouterr().out
    with pytest.raises(UserError, match="exists already: give another name"):
        ExportCommand(clusters, file).run()


def test_mistakes_of_an_export(clusters, tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"should end in \.onnx"):
        ExportCommand(clusters, tmp_path / "photos.pt").run()

    def missing():
        raise UserError("onnx is not installed")

    monkeypatch.setattr(onnx_module, "check_installed", missing)
    with pytest.raises(UserError, match="not installed"):
        ExportCommand(clusters, tmp_path / "photos.onnx").run()
