"""Where a run stands: what changes from step to step beside weights, optimiser and random number generators."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from shoal.types import Clustering

PLAIN = ("epoch", "step", "logged", "seconds", "e_step_seconds", "scores", "done")
"""Fields that a state file keeps in its header, beside ``n_clusters``; the others are tensors."""
KINDS = ("totals.", "clustering.", "order", "neighbours", "partners")
"""How the names of these tensors begin."""


@dataclass
class State:
    """Position of a run, its clusterings and the sums of the current epoch."""

    epoch: int = 0
    """Epochs done."""
    step: int = 0
    """Steps done in the current epoch."""
    logged: int = 0
    """Steps of the current epoch that are in the metrics already, where a limit of steps ended the run within it."""
    order: Tensor | None = None
    """Images of the current epoch in the order they are seen; None between two epochs."""
    neighbours: Tensor | None = None
    """The nearest of each image by pixels, (n, k), where views are made of them."""
    partners: Tensor | None = None
    """For each image the one that its other views show in the current epoch, (n)."""
    totals: dict[str, Tensor] = field(default_factory=dict)
    """Sum of each loss term over the steps of the current epoch."""
    seconds: float = 0.0
    """Time that these steps took."""
    e_step_seconds: float = 0.0
    """Time that the E-step before the current epoch took."""
    clusterings: tuple[Clustering, ...] = ()
    """Those of the last E-step; the first is the one the user asked for."""
    scores: dict[str, int | float] = field(default_factory=dict)
    """Scores of the last E-step, until the epoch that follows it is logged."""
    done: bool = False
    """Whether the last E-step is done, too."""
    n_clusters: int = 0
    """Number of clusters that was found last; 0 where none was looked for."""

    def header(self) -> dict[str, Any]:
        """What a state file keeps in its header."""
        # A tensor file sorts its tensors; totals in another order would add up to another last bit.
        return {name: getattr(self, name) for name in PLAIN} | {
            "terms": list(self.totals),
            "n_clusters": self.n_clusters,
        }

    def tensors(self) -> dict[str, Tensor]:
        """The tensors of the state by the name they have in a state file."""
        found = {f"totals.{name}": total for name, total in self.totals.items()}
        for i, clustering in enumerate(self.clusterings):
            found |= {f"clustering.{i}.{name}": value for name, value in vars(clustering).items()}
        rows = {"order": self.order, "neighbours": self.neighbours, "partners": self.partners}
        return found | {name: value for name, value in rows.items() if value is not None}

    @classmethod
    def restore(cls, header: Mapping[str, Any], tensors: Mapping[str, Tensor], device: torch.device) -> State:
        """The state whose ``header`` and ``tensors`` these are."""
        own = {name: value.to(device) for name, value in tensors.items() if name.startswith(KINDS)}
        terms = header.get("terms", [name.removeprefix("totals.") for name in own if name.startswith("totals.")])
        n = len({name.split(".")[1] for name in own if name.startswith("clustering.")})
        parts = [part.name for part in fields(Clustering)]
        return cls(
            **{name: header[name] for name in PLAIN if name != "logged"},
            logged=header.get("logged", 0),  # earlier versions have none
            n_clusters=header.get("n_clusters", 0),
            order=own.get("order"),
            neighbours=own.get("neighbours"),
            partners=own.get("partners"),
            totals={name: own[f"totals.{name}"] for name in terms},
            clusterings=tuple(Clustering(*(own[f"clustering.{i}.{part}"] for part in parts)) for i in range(n)),
        )
