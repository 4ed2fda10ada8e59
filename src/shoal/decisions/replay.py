"""Decisions replayed over a clustering: which cluster each image is in now."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from jaxtyping import Bool, Int64

from shoal.decisions.log import OF_UPDATE, Decision, translated
from shoal.errors import UserError

NOWHERE = -1

Labels: TypeAlias = Int64[np.ndarray, "n"]

SHARE_OF_ORIGIN = 0.1
"""A made cluster is taken for a part of each cluster that at least this share of its images comes from."""


@dataclass(eq=False)
class Replayed:
    """A clustering with a person's decisions.

    The clusters that a clusterer found keep their numbers; clusters that a person made have higher ones. ``base`` is
    what the last clusterer said, the first one or one learned since, and ``into`` those that its clusters are in.
    """

    labels: Labels
    """Cluster of each image, −1 for none."""
    names: dict[int, str]
    base: Labels
    """Cluster of each image as the clusterer has it."""
    into: dict[int, int]
    """The present cluster of each that there ever was, by its number."""
    fixed: Bool[np.ndarray, "n"]
    """Images whose cluster a person has said."""
    unsaid: Labels
    """Cluster of each image without what was said of single images, and without what was learned from that."""
    ruled_out: dict[int, tuple[int, ...]] = field(default_factory=dict)
    """Clusters that an image is not in, for those of which only that is known."""
    n_found: int = 0
    """How many clusters there were before any decision; those that a person has made have higher numbers."""
    made: set[int] = field(default_factory=set)
    """Clusters that the clusterer does not know."""
    learned: str = ""
    """File of the learned clustering that counts; empty: none."""
    n_decisions: int = 0
    """That can be undone; what was decided together is one."""

    @property
    def clusters(self) -> list[int]:
        """Numbers of the clusters that exist, ascending.

        One that a person has made is one as long as it has images, or stands for one that was found.
        """
        held = set(np.unique(self.labels).tolist())
        found = {self.into[number] for number in range(self.n_found)}
        return sorted(found | (held & set(self.into.values())))

    @property
    def next_number(self) -> int:
        """Number for a new cluster, which no other ever had."""
        return 1 + max(self.into, default=-1)

    def parts(self) -> dict[int, list[int]]:
        """The present clusters among which the images of a clusterer's cluster are divided, where these are several."""
        found: dict[int, set[int]] = {}
        for made in self.made:
            origins = self.base[self.labels == made]
            counts = np.bincount(origins[origins >= 0])
            for origin in np.flatnonzero(counts >= max(1.0, SHARE_OF_ORIGIN * len(origins))).tolist():
                found.setdefault(origin, set()).add(made)
        for origin, parts in found.items():
            own = self.into[origin]
            if ((self.base == origin) & (self.labels == own)).any():
                parts.add(own)
        return {origin: sorted(parts) for origin, parts in found.items() if parts != {self.into[origin]}}


ReadLearned: TypeAlias = Callable[[str], tuple[Labels, Sequence[int]]]
"""Reads a learned clustering by the name of its file: the cluster of each image, and the clusters that it knows."""


def replay(
    base: Labels,
    n_clusters: int,
    names: Mapping[int, str],
    ids: Sequence[str],
    steps: Sequence[Decision],
    read: ReadLearned,
) -> Replayed:
    """Replay decisions over a clustering.

    Images that are not there are passed over, and a cluster that has been merged stands for the one that it is in.

    Args:
        base: cluster of each image, −1 for none.
        n_clusters: that the clusterer found.
        names: of clusters that have one.
        ids: of the images, as tables hold them.
        steps: the decisions that count, in their order.
        read: reads what was learned.

    Raises:
        UserError: a decision is about a cluster that there never was, or what was learned cannot be read.
    """
    into, fixed = {i: i for i in range(n_clusters)}, np.zeros(len(base), dtype=bool)
    now = Replayed(base.copy(), dict(names), base, into, fixed, base.copy(), n_found=n_clusters)
    player = Player(now, ids, read)
    for number, step in enumerate(translated(steps), 1):
        try:
            player.play(step)
        except KeyError as error:
            raise UserError(
                f"decision {number} ({step['do']}) refers to cluster {error}, which does not exist: undo it, or take "
                "its line out of decisions.jsonl."
            ) from error
    return now


class Player:
    """Plays decisions one after the other; images that have got another name since are not known to it."""

    def __init__(self, now: Replayed, ids: Sequence[str], read: ReadLearned) -> None:
        self.now, self.ids, self.read = now, ids, read
        self._rows: dict[str, int] | None = None
        self.key: object = None

    def play(self, step: Decision) -> None:
        """Do what a decision says.

        Raises:
            KeyError: it is about a cluster that there never was.
        """
        getattr(self, f"_{step['do']}")(step)
        together = step.get("key") is not None and step.get("key") == self.key
        self.now.n_decisions += step["do"] not in OF_UPDATE and not together
        self.key = step.get("key")

    def rows(self, images: Sequence[str]) -> Int64[np.ndarray, "m"]:
        """The rows of those images that are there."""
        if self._rows is None:
            self._rows = {name: row for row, name in enumerate(self.ids)}
        known = self._rows
        return np.array([known[name] for name in images if name in known], dtype=np.int64)

    def cluster(self, number: int) -> int:
        """The present cluster of a number."""
        return number if number == NOWHERE else self.now.into[number]

    def _rename(self, step: Decision) -> None:
        own, name = self.cluster(step["cluster"]), _tidy(step["name"])
        if name:
            self.now.names[own] = name
        else:
            self.now.names.pop(own, None)

    def _merge(self, step: Decision) -> None:
        now, goal = self.now, self.cluster(step["into"])
        for number in step["clusters"]:
            source = self.cluster(number)
            if source == goal:
                continue
            now.labels[now.labels == source] = goal
            now.unsaid[now.unsaid == source] = goal
            now.into = {each: goal if was == source else was for each, was in now.into.items()}
            name = now.names.pop(source, "")
            if name:
                now.names.setdefault(goal, name)

    def _put(self, rows: Int64[np.ndarray, "m"], cluster: int, *, fixed: bool) -> None:
        now = self.now
        now.labels[rows] = cluster
        now.fixed[rows] = fixed
        if not fixed:
            now.unsaid[rows] = cluster
        if now.ruled_out:
            for row in rows.tolist():
                now.ruled_out.pop(row, None)

    def _make(self, number: int) -> None:
        if number not in self.now.into:
            self.now.into[number] = number
            self.now.made.add(number)

    def _split(self, step: Decision) -> None:
        self.cluster(step["cluster"])
        for part in step["parts"]:
            self._make(part["cluster"])
            self._put(self.rows(part["images"]), self.cluster(part["cluster"]), fixed=False)

    def _new(self, step: Decision) -> None:
        self._make(step["cluster"])
        self._put(self.rows(step["images"]), self.cluster(step["cluster"]), fixed=True)
        if name := _tidy(step["name"]):
            self.now.names[self.cluster(step["cluster"])] = name

    def _move(self, step: Decision) -> None:
        self._put(self.rows(step["images"]), self.cluster(step["cluster"]), fixed=True)

    def _confirm(self, step: Decision) -> None:
        rows = self.rows(step["images"])
        self.now.fixed[rows] = True

    def _answer(self, step: Decision) -> None:
        rows = self.rows([step["image"]])
        if "cluster" in step:
            if step.get("name"):
                self._make(step["cluster"])
                self.now.names[self.cluster(step["cluster"])] = _tidy(step["name"])
            self._put(rows, self.cluster(step["cluster"]), fixed=True)
            return
        for row in rows.tolist():
            self.now.fixed[row] = False
            self.now.ruled_out[row] = tuple(step["none_of"])

    def _learn(self, step: Decision) -> None:
        now = self.now
        labels, known = self.read(step["file"])
        own = {cluster: self.cluster(cluster) for cluster in known}
        now.base = labels
        resolved = labels.copy()
        for cluster, goal in own.items():
            if goal != cluster:
                resolved[labels == cluster] = goal
        now.labels = np.where(now.fixed, now.labels, resolved)
        now.made -= set(known)
        now.learned = step["file"]

    def _placed(self, step: Decision) -> None:
        """New images, which an update has put into clusters that a person had made."""
        for name, cluster in step["images"].items():
            if cluster in self.now.into:
                self._put(self.rows([name]), self.cluster(cluster), fixed=False)


def _tidy(name: str) -> str:
    """A name as tables can hold it; JSON has halves of characters, which UTF-8 has not."""
    return name.strip().encode("utf-8", "backslashreplace").decode()
