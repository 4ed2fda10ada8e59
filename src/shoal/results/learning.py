"""What is learned from a person's answers about a result: a proposal first, which counts once it is accepted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from shoal.clustering import TEMI
from shoal.decisions.replay import Replayed
from shoal.errors import UserError
from shoal.learning import UNKNOWN, Answer, Graph, Question, choose_questions, learn
from shoal.results.decided import Learned, next_learned
from shoal.results.deciding import record
from shoal.results.result import Result

MAX_FLOWS = 20


@dataclass(frozen=True, eq=False)
class Proposal:
    """A learned clustering that nobody has accepted yet."""

    learned: Learned
    path: Path
    """Where it is kept once it is accepted."""
    how: str
    """How it was learned, in a sentence."""
    changed: np.ndarray
    """Rows that would be in another cluster."""
    before: np.ndarray
    after: np.ndarray
    """Clusters of these rows."""

    @property
    def flows(self) -> list[tuple[int, int, int]]:
        """From which cluster to which how many images would go, most first."""
        pairs, counts = np.unique(np.stack([self.before, self.after], 1), axis=0, return_counts=True)
        order = np.argsort(-counts, kind="stable")[:MAX_FLOWS]
        return [(*pairs[i].tolist(), int(counts[i])) for i in order.tolist()]


def answers_of(replayed: Replayed, slots: dict[int, int]) -> list[Answer]:
    """What a person has said of single images, with clusters by their places."""
    said = [Answer(row, slots.get(int(replayed.labels[row]), -1)) for row in np.flatnonzero(replayed.fixed).tolist()]
    said += [
        Answer(row, UNKNOWN, tuple(slots[replayed.into[each]] for each in out if replayed.into.get(each) in slots))
        for row, out in replayed.ruled_out.items()
    ]
    return said


def propose(result: Result, replayed: Replayed, *, keep_graph: bool = True) -> Proposal:
    """Learn from all that was said of images; nothing is kept but the neighbour graph.

    Args:
        result: finished.
        replayed: its clustering with the decisions to learn from.
        keep_graph: keep it in the folder, so that it need not be built again.

    Raises:
        UserError: nothing was said yet, the features are gone, or the folder cannot be written.
    """
    if not (replayed.fixed.any() or replayed.ruled_out):
        raise UserError(
            "there is nothing to learn from yet: answer questions in 'shoal review', or write them with 'shoal ask', "
            "fill them in and give that table."
        )
    numbers = replayed.clusters
    slots = {number: place for place, number in enumerate(numbers)}
    places = np.full(1 + max(replayed.into), -1)
    places[numbers] = np.arange(len(numbers))
    start = np.where(replayed.unsaid >= 0, places[replayed.unsaid], -1)
    found = learn(
        result.features,
        torch.from_numpy(start),
        answers_of(replayed, slots),
        metric=result.metric,
        graph=graph_of(result, keep=keep_graph),
        # A trained network and TEMI's heads have learned from neighbours already.
        smoothing=not (result.folder.is_run or isinstance(result.clusterer, TEMI)),
        seed=result.seed,
    )
    labels = np.where(found.labels.numpy() >= 0, np.array(numbers)[found.labels.numpy()], -1)
    learned = Learned(torch.from_numpy(labels), found.confidence, found.model, numbers[: found.model.n_clusters])
    now = np.where(replayed.fixed, replayed.labels, labels)
    changed = np.flatnonzero(now != replayed.labels)
    path = next_learned(result.folder)
    return Proposal(learned, path, found.used, changed, replayed.labels[changed], now[changed])


def accept(result: Result, proposal: Proposal) -> Result:
    """Let a proposal count, if it changes anything. The caller holds the folder.

    Raises:
        UserError: the folder cannot be written.
    """
    if not len(proposal.changed):  # the clusterer knows new images better than a head that was fitted to it
        return result
    proposal.learned.save(proposal.path)
    return record(result, [{"do": "learn", "file": proposal.path.name}])


def graph_of(result: Result, *, keep: bool = True) -> Graph:
    """The neighbour graph of a result, which its folder keeps unless asked not to.

    Raises:
        UserError: the features are gone, or the folder cannot be written.
    """
    path = result.folder.graph
    if path.exists():
        try:
            graph = Graph.load(path)
            graph.check(result.features)
            return graph
        except UserError:  # damaged, or of features of before: it is quickly built
            pass
    graph = Graph.build(result.features, result.metric, seed=result.seed)
    if keep:
        graph.save(path)
    return graph


def questions(result: Result, n: int, asked: Sequence[int]) -> list[Question]:
    """The next questions about a result, whose candidates are present clusters by their numbers.

    Args:
        result: finished.
        n: how many to ask.
        asked: rows that were asked about, besides those of which something was said.

    Raises:
        UserError: the features are gone, or the folder cannot be written.
    """
    said: list[int] = []
    if result.decided is not None:
        replayed = result.decided.replayed
        said = [*np.flatnonzero(replayed.fixed).tolist(), *replayed.ruled_out]
    model = result.model
    found = choose_questions(
        result.features,
        model.slots_of(result.labels),
        model.centers,
        graph_of(result),
        n_questions=n,
        asked=[*said, *asked],
        seed=result.seed,
    )
    numbers = model.numbers.tolist()
    return [replace(each, candidates=tuple(numbers[place] for place in each.candidates)) for each in found]
