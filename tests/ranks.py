"""Processes of their own, and functions on gloo ranks."""

from __future__ import annotations

import multiprocessing
import socket
import traceback
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

from shoal import cores

PROCESSES = multiprocessing.get_context("forkserver")
"""They start from a server that has imported everything: a start takes milliseconds."""
PROCESSES.set_forkserver_preload(["shoal.results.train", "shoal.cli.flags", "tests.contract.examples", "tests.runs"])


def on_two_ranks(function: Callable[[], Any]) -> list[Any]:
    """What a function of a module returns on each of two ranks, in rank order; plain values, no tensors."""
    return on_ranks(2, function)


def on_ranks(n: int, function: Callable[[], Any]) -> list[Any]:
    """The same on any number of ranks."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    answers = PROCESSES.Queue()
    ranks = [PROCESSES.Process(target=_on_rank, args=(function, rank, n, port, answers)) for rank in range(n)]
    for rank in ranks:
        rank.start()
    found = {}
    for _ in ranks:
        number, answer, failure = answers.get(timeout=300)
        if failure:  # the others may wait for this one
            for rank in ranks:
                rank.kill()
            raise AssertionError(f"rank {number}: {failure}")
        found[number] = answer
    for rank in ranks:
        rank.join()
        assert rank.exitcode == 0
    return [found[rank] for rank in range(n)]


def _on_rank(function: Callable[[], Any], rank: int, n: int, port: int, answers: Any) -> None:
    torch.set_num_threads(1)
    cores._cores = lambda: 1  # threads of ranks that share cores with other tests mostly wait for each other
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=n)
    try:
        answers.put((rank, function(), ""))
    except BaseException:
        answers.put((rank, None, traceback.format_exc()))
        raise
    dist.barrier()
    dist.destroy_process_group()
