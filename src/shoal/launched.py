"""What a process learns from the one that started it, as ``torchrun`` does: that it is one of several, and which."""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Launched:
    """This process among those that were started together."""

    rank: int
    world_size: int
    local_rank: int
    """Its number on this machine."""
    host: str
    """Where all meet: the machine,"""
    port: int
    """and the port."""

    @property
    def by_torchrun(self) -> bool:
        """Whether ``torchrun`` has started it, and not somebody who only sets the same variables, as scripts do."""
        return "TORCHELASTIC_RUN_ID" in os.environ

    @property
    def is_served(self) -> bool:
        """Whether ``torchrun`` answers where all meet; else the first process does."""
        return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == str(True)


def launched() -> Launched | None:
    """This process among several; None where it is alone, or variables that should say so are missing or no numbers."""
    try:
        rank, world_size, local_rank, port = (
            int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT")
        )
        found = Launched(rank, world_size, local_rank, os.environ["MASTER_ADDR"], port)
    except (KeyError, ValueError):
        return None
    return found if 0 <= rank < world_size > 1 and local_rank >= 0 and 0 < port < 2**16 else None


def is_first_launched() -> bool:
    """Whether this process is the first of those that were started together, or alone."""
    found = launched()
    return found is None or found.rank == 0
