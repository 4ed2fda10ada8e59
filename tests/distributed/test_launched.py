"""Processes that are several by their environment: started by torchrun, or told so by variables of another program."""

from __future__ import annotations

import re
import socket
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tests.features.examples import pictures, source_of

from shoal import job, rendezvous
from shoal.cli import terminal
from shoal.cli.main import VERBS, main
from shoal.errors import UserError
from shoal.features import extract
from shoal.folder import ResultFolder
from shoal.launched import is_first_launched, launched
from shoal.progress import Progress
from shoal.results.inputs import read_inputs

TWO = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29400"}


@pytest.fixture
def started(monkeypatch):
    """Sets the variables of one of two processes, or others."""

    def started(**others: str) -> None:
        for name, value in {**TWO, **others}.items():
            monkeypatch.setenv(name, value)

    monkeypatch.setattr(terminal, "FIRST_SPEAKS", 0)
    return started


def test_one_of_several(started):
    assert launched() is None
    assert is_first_launched()
    started()
    assert (launched().rank, launched().world_size, launched().by_torchrun) == (1, 2, False)
    assert not is_first_launched()
    started(TORCHELASTIC_RUN_ID="none", RANK="0")
    assert launched().by_torchrun
    assert is_first_launched()


@pytest.mark.parametrize(
    "odd",
    [
        {"WORLD_SIZE": "1"},
        {"WORLD_SIZE": "many"},
        {"WORLD_SIZE": ""},
        {"RANK": "2"},
        {"RANK": "-1"},
        {"LOCAL_RANK": "x"},
        {"MASTER_PORT": "0"},
        {"MASTER_PORT": "http"},
    ],
)
def test_variables_that_say_nothing_sensible_leave_a_process_alone(started, odd, capsys):
    started(**odd)
    assert launched() is None
    assert main(["cluster", "nowhere", "-k", "2"]) == 2
    assert capsys.readouterr().err.startswith("shoal: there is no file or folder nowhere")


def free_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


@pytest.mark.parametrize(
    ("rank", "came"),
    [("0", "2 processes that were started together, 1 has come"), ("1", "2 processes that were started together, 1")],
)
def test_processes_that_do_not_come_are_told_of(started, monkeypatch, rank, came, capsys):
    monkeypatch.setattr(rendezvous, "_UNASKED_SECONDS", 0.2)
    started(RANK=rank, MASTER_PORT=free_port())
    begin = time.monotonic()
    assert main(["cluster", "digits", "-k", "2"]) == 2
    assert time.monotonic() - begin < 5
    said = capsys.readouterr().err
    assert came in said
    assert "unset WORLD_SIZE" in said
    assert said.count("\n") == 1


def test_a_port_that_another_program_has_is_told_of(started, capsys):
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        started(RANK="0", MASTER_PORT=str(taken.getsockname()[1]))
        assert main(["cluster", "digits", "-k", "2"]) == 2
    said = capsys.readouterr().err
    assert "cannot answer where MASTER_ADDR=127.0.0.1" in said
    assert said.count("\n") == 1


def test_more_processes_than_gpus(started, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    started(RANK="0", LOCAL_RANK="1", LOCAL_WORLD_SIZE="2", MASTER_PORT=free_port())
    assert main(["cluster", "digits", "-k", "2"]) == 2
    said = capsys.readouterr().err
    assert "2 processes were started on" in said
    assert "which has 1 GPU, and each needs its own: give --nproc-per-node 1." in said


@pytest.mark.parametrize("verb", sorted(VERBS.keys() - {"train", "cluster", "update", "predict"}))
def test_a_verb_of_one_process_is_refused_under_torchrun(started, verb, capsys):
    started(TORCHELASTIC_RUN_ID="none")
    assert main([verb]) == 2
    assert f"'shoal {verb}' works in one process: start it without torchrun" in capsys.readouterr().err


@pytest.mark.parametrize("args", [[], ["--help"], ["--version"], ["cluster", "--help"], ["sort", "-h"]])
def test_help_is_printed_once(started, args, capsys):
    started()
    assert main(args) == 0
    assert not capsys.readouterr().out


@pytest.fixture
def second(monkeypatch):
    """This process is not the first one, which has other texts than it."""
    monkeypatch.setattr(job, "of_first", lambda _make: "other")


@pytest.mark.usefixtures("second")
def test_processes_that_differ_are_refused(tmp_path):
    with pytest.raises(UserError, match="has other arguments or another version of shoal"), job.together("a", print):
        pass
    np.save(tmp_path / "rows.npy", np.eye(20))
    progress = Progress()
    with pytest.raises(UserError, match=r"has other features in .*rows.npy than the first process"):
        read_inputs(str(tmp_path / "rows.npy"), None, None, ResultFolder(tmp_path), strict=False, progress=progress)
    encoder = SimpleNamespace(spec=SimpleNamespace(name="vit", digest="1"))
    work = extract._Embedding(source_of(pictures(2)), encoder, tmp_path, own=False, ranges={}, strict=False)
    with pytest.raises(UserError, match="finds other images than the first process"):
        work.check_agreed()


def test_processes_with_other_weights_are_refused(monkeypatch, tmp_path):
    encoder = SimpleNamespace(spec=SimpleNamespace(name="vit", digest="1"))
    work = extract._Embedding(source_of(pictures(2)), encoder, tmp_path, own=False, ranges={}, strict=False)
    firsts = iter([work.images, "2"])
    monkeypatch.setattr(job, "of_first", lambda _make: next(firsts))
    with pytest.raises(UserError, match="has other weights of vit than the first process"):
        work.check_agreed()


@pytest.mark.parametrize("n_nodes", [1, 2])
def test_a_folder_that_this_machine_does_not_see(monkeypatch, tmp_path, n_nodes):
    monkeypatch.setattr(job, "n_nodes", lambda: n_nodes)
    monkeypatch.setattr(extract, "_SEEN_SECONDS", 0.0)
    where = f"does not see {tmp_path}, into which another process writes: give an --out on a file system"
    with pytest.raises(UserError, match=re.escape(where)):
        extract._wait_for(tmp_path / "header.json")


def test_an_error_of_the_system_is_told_by_one_process(started, monkeypatch, capsys):
    def fail(_own):
        raise OSError(5, "Input/output error", "photos/a.png")

    monkeypatch.setattr(job, "_join", fail)
    started()
    monkeypatch.setattr(terminal, "FIRST_SPEAKS", 600)  # it would wait
    assert main(["cluster", "digits", "-k", "2"]) == 2
    assert capsys.readouterr().err == "shoal: photos/a.png: Input/output error\n"
