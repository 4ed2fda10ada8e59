"""A review as the server holds it: the clustering, the decisions taken, and what the page asks of them."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import normalize

from shoal.decisions.log import Decision, DecisionLog
from shoal.decisions.replay import Player, Replayed
from shoal.errors import UserError
from shoal.learning import Question
from shoal.progress import counted
from shoal.results.decided import Reader
from shoal.results.deciding import record
from shoal.results.finish import rewrite, rewrite_tables
from shoal.results.learning import Proposal, accept, propose, questions
from shoal.results.naming import cosines_to, suggest_names
from shoal.results.result import Result
from shoal.results.tables import stamp_of
from shoal.review.asked import Translator
from shoal.review.facts import Facts
from shoal.review.parts import MOST_FITTED, N_CENTRAL, parts_of

N_DOUBTFUL = 6
KEYS = 1000
"""Calls whose keys are remembered, so that one that is repeated is done once."""

IDLE = 3.0
"""Seconds without decisions after which the tables are written."""


@dataclass(frozen=True, eq=False)
class Central:
    """Images that stand for a cluster, and those that hardly belong to it."""

    central: list[int]
    doubtful: list[int]


class Session:
    """What is known of a result under review; safe to call from several threads."""

    def __init__(self, result: Result) -> None:
        """The caller holds the folder.

        Raises:
            UserError: features or decisions cannot be read, or the folder cannot be written.
        """
        self.lock = threading.RLock()
        self.result = record(result, [])  # keeps the clustering as it was before any decision
        self.ids = self.result.table_ids
        self.n = len(self.ids)
        self.features = self.result.features
        self.place = self.result.folder.path.resolve()
        self.key = blake2b(str(self.place).encode("utf-8", "surrogateescape"), digest_size=8).hexdigest()
        self.log = DecisionLog(self.result.folder.decisions)
        self._look_again()
        self.facts = Facts(self.result)
        self._keys: OrderedDict[str, dict[str, Any]] = OrderedDict()
        self._known_keys = {step["key"] for step in self.log.read()[0] if isinstance(step.get("key"), str)}
        self._proposal: Proposal | None = None
        self._proposed_at = self._opened_at = self.log.size
        self.written = stamp_of(self.result.folder.assignments)  # a killed review leaves tables behind
        self.decided_at = time.monotonic()
        self._restart()

    def _restart(self) -> None:
        """Replay all decisions."""
        decided = self.result.decided
        assert decided is not None
        self.player = Player(decided.replayed, self.ids, Reader(self.result.folder, self.n))
        self.now: Replayed = decided.replayed

    def _look_again(self) -> None:
        """What depends on the tables of the result."""
        found = self.result.assignments
        self.confidence = self._unsaid_confidence = found.confidence
        if self.result.decided is not None:
            fixed = torch.from_numpy(self.result.decided.replayed.fixed)
            self._unsaid_confidence = torch.where(fixed, self.result.clustered[1].confidence, found.confidence)
        self.closeness = -found.distance.nan_to_num(torch.inf).numpy()
        self._labels_at_start = found.labels.numpy().copy()
        self._shown: dict[int, Central] = {}
        self._centers: dict[int, Tensor] = {}

    @property
    def version(self) -> int:
        """Grows with every decision."""
        return self.log.size

    def state(self) -> dict[str, Any]:
        """Clusters, with the images that stand for them, and counts."""
        with self.lock:
            return {
                "n": self.n,
                "title": self.place.name,
                "key": self.key,
                "layers": self.result.layers,
                **self._summary(),
            }

    def _summary(self) -> dict[str, Any]:
        sizes = np.bincount(self.now.labels[self.now.labels >= 0], minlength=self.now.next_number)
        return {
            "version": self.version,
            "undoable": self.now.n_decisions,
            "answers": int(self.now.fixed.sum()) + len(self.now.ruled_out),
            "nowhere": int((self.now.labels < 0).sum()),
            "clusters": [
                {
                    "number": number,
                    "name": self.now.names.get(number, ""),
                    "size": int(sizes[number]),
                    "central": self.shown(number).central,
                    "doubtful": self.shown(number).doubtful,
                }
                for number in self.now.clusters
            ],
        }

    def shown(self, number: int) -> Central:
        """The images that stand for a cluster; they are kept until it changes."""
        if number not in self._shown:
            own = self._members(number)
            inwards = own[np.argsort(-self._closeness(own), kind="stable")]
            central = inwards[:N_CENTRAL]
            rest = inwards[N_CENTRAL:]
            doubtful = rest[np.argsort(self.confidence.numpy()[rest], kind="stable")[:N_DOUBTFUL]]
            self._shown[number] = Central(central.tolist(), doubtful.tolist())
        return self._shown[number]

    def _members(self, number: int) -> Int64[np.ndarray, "m"]:
        """The images of a cluster, of many only some, evenly spread."""
        own = np.flatnonzero(self.now.labels == number)
        return np.asarray(own[:: -(-len(own) // MOST_FITTED) or 1])

    def _closeness(self, own: Int64[np.ndarray, "m"]) -> Float[np.ndarray, "m"]:
        """How near images are to the centre of their cluster, which a decision may have moved."""
        if len(own) == 0 or (self.now.labels[own] == self._labels_at_start[own]).all():
            return np.asarray(self.closeness[own])
        x = self._unit(torch.from_numpy(own))
        return np.asarray((x @ normalize(x.mean(0), dim=0)).numpy())

    def _unit(self, rows: Int64[Tensor, "m"]) -> Float[Tensor, "m d"]:
        return normalize(self.features[rows].float())

    # Decisions

    def decide(self, key: str, asked: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Take decisions that name images by rows; the same key is done once.

        Raises:
            UserError: one of them is none, or cannot be kept.
        """
        with self.lock:
            if key in self._keys:
                return self._keys[key]
            if key in self._known_keys:
                return {"since": -1, **self._summary(), "changed": _changes(self.now.labels, None), "numbers": []}
            before = self.now.labels.copy()
            translator = self._translator()
            decisions = translator.translate(asked)
            self._check_parts(asked)
            if len(decisions) > 1 and any(each["do"] == "undo" for each in decisions):
                raise UserError("an undo comes alone: send it by itself.")
            since = self.version
            self.log.append(decisions, key)
            self._play([{**each, "key": key} for each in decisions])
            self.decided_at = time.monotonic()
            answer = {"since": since, **self._after(before, translator.numbers)}
            self._keys[key] = answer
            while len(self._keys) > KEYS:
                self._keys.popitem(last=False)
            return answer

    def _check_parts(self, asked: Sequence[Mapping[str, Any]]) -> None:
        """Raise a UserError for the parts of a cluster that has changed since they were shown."""
        for each in asked:
            if each["do"] == "split":
                if len(asked) > 1:
                    raise UserError("a split comes alone: send it by itself.")
                rows = np.array([row for part in each["parts"] for row in part], dtype=np.int64)
                if (self.now.labels[rows] != self.now.into[each["cluster"]]).any():
                    raise UserError(f"cluster {each['cluster']} has changed since: look at its parts again.")

    def _translator(self) -> Translator:
        return Translator(self.ids, self.now.into, self.now.next_number)

    def _row(self, row: object) -> int:
        try:
            return self._translator().row(row)
        except ValueError as error:
            raise UserError(f"{error}.") from error

    def _play(self, decisions: Sequence[Decision]) -> None:
        if any(each["do"] == "undo" for each in decisions):
            self.result = replace(self.result)
            self._restart()
            self._look_again()
        else:
            for each in decisions:
                self.player.play(each)

    def _after(self, before: Int64[np.ndarray, "n"], numbers: Sequence[int]) -> dict[str, Any]:
        changed = np.flatnonzero(before != self.now.labels)
        for number in np.unique(np.concatenate([before[changed], self.now.labels[changed]])).tolist():
            self._shown.pop(number, None)
            self._centers.pop(number, None)
        fixed = torch.from_numpy(self.now.fixed)
        said = torch.from_numpy(self.now.labels >= 0).to(self.confidence)
        self.confidence = torch.where(fixed, said, self._unsaid_confidence)
        return {**self._summary(), "changed": _changes(self.now.labels, changed), "numbers": [*numbers]}

    # What the page asks

    def split(self, cluster: int, n: int) -> list[dict[str, Any]]:
        """Parts of a cluster, the largest first: k-means of its features. Nothing is kept.

        Raises:
            UserError: it has too few images, or they do not differ.
        """
        with self.lock:
            own = np.flatnonzero(self.now.labels == self.now.into.get(cluster, -2))
        if len(own) < 2:
            raise UserError(f"cluster {cluster} has {counted(len(own), 'image')}: there is nothing to split.")
        return parts_of(self.features, torch.from_numpy(own), n, self.result.metric, self.result.seed)

    def more(self, rows: Sequence[object], n: int) -> tuple[list[int], list[float]]:
        """The images most like some, which are not among them, and their cosines to the mean of these.

        Raises:
            UserError: there are no such rows.
        """
        chosen = torch.tensor([self._row(row) for row in rows], dtype=torch.int64)
        if not len(chosen):
            raise UserError("choose some images first: others like them are looked for.")
        return self.nearest(normalize(self._unit(chosen).mean(0), dim=0), n, without=chosen)

    def nearest(
        self, direction: Float[Tensor, "d"], n: int, without: Int64[Tensor, "m"] | None = None
    ) -> tuple[list[int], list[float]]:
        """The rows nearest to a direction by cosine, nearest first, and their cosines."""
        cosines = cosines_to(self.features, direction)
        if without is not None:
            cosines[without] = -torch.inf
        best = cosines.topk(max(0, min(n, self.n - (0 if without is None else len(torch.unique(without))))))
        return best.indices.tolist(), best.values.tolist()

    def about(self, row: int) -> dict[str, Any]:
        """What is known of an image.

        Raises:
            UserError: there is no such row.
        """
        self._row(row)
        with self.lock:
            found = self.result.assignments
            neighbours, _ = self.nearest(self._unit(torch.tensor([row]))[0], 8, without=torch.tensor([row]))
            return {
                "id": self.ids[row],
                "cluster": int(self.now.labels[row]),
                "confidence": round(float(self.confidence[row]), 4),
                "margin": round(float(found.margin[row].nan_to_num(0, 0, 0)), 4),
                "fixed": bool(self.now.fixed[row]),
                "neighbours": neighbours,
                "nearest": self._nearest_clusters(row),
                **self.facts.about(row),
            }

    def _nearest_clusters(self, row: int) -> list[tuple[int, float]]:
        """Clusters and their distances, nearest first; none where all images are in no cluster."""
        if not (centers := self._centers_now()):
            return []
        apart = torch.cdist(self._rows([row]), self._directions(torch.stack([*centers.values()])))[0]
        near = apart.topk(min(5, len(apart)), largest=False)
        numbers = [*centers]
        return [(numbers[place], round(float(apart[place]), 4)) for place in near.indices.tolist()]

    def _centers_now(self) -> dict[int, Tensor]:
        """The centre of each cluster that has images, by its number; those that change are computed again alone."""
        if not self._centers:
            model = replace(self.result).model
            self._centers = dict(zip(model.numbers.tolist(), model.centers, strict=True))
        found = {}
        for number in self.now.clusters:
            if number not in self._centers:
                self._centers[number] = self._rows(self._members(number)).mean(0)
            if not self._centers[number].isnan().any():
                found[number] = self._centers[number]
        return found

    def _rows(self, rows: Int64[np.ndarray, "m"] | Sequence[int]) -> Float[Tensor, "m d"]:
        """Features as distances see them, of unit length under the cosine."""
        return self._directions(self.features[torch.as_tensor(rows)])

    def _directions(self, x: Float[Tensor, "m d"]) -> Float[Tensor, "m d"]:
        return normalize(x.double()) if self.result.metric == "cosine" else x.double()

    def questions(self, n: int, skipped: Sequence[int]) -> list[dict[str, Any]]:
        """The next questions, each with its candidates.

        Raises:
            UserError: the folder cannot be written.
        """
        with self.lock:
            self.result = replace(self.result)
            found = questions(self.result, n, skipped)
            return [
                {
                    "row": each.row,
                    "why": _why(each),
                    "candidates": [
                        {"number": number, "central": self.shown(number).central[:3]} for number in each.candidates
                    ],
                }
                for each in found
            ]

    def names(self) -> dict[int, list[tuple[str, float]]]:
        """Names that suggest themselves for clusters; none where the network knows none."""
        with self.lock:
            result = replace(self.result)
        try:
            found = suggest_names(result)
        except UserError:
            return {}
        shown = [[(each.name, round(each.score, 2)) for each in own] for own in found]
        return dict(zip(result.model.numbers.tolist(), shown, strict=True))

    def learn(self) -> dict[str, Any]:
        """What the answers given so far would change; nothing is kept.

        Raises:
            UserError: there are none.
        """
        with self.lock:
            self._proposal = found = propose(self.result, self.now)
            self._proposed_at = self.version
        drawn = np.random.default_rng(0).permutation(len(found.changed))[:60]
        sample = [[int(found.changed[i]), int(found.before[i]), int(found.after[i])] for i in np.sort(drawn).tolist()]
        return {
            "file": found.path.name,
            "n_changed": len(found.changed),
            "how": found.how,
            "flows": [*map(list, found.flows)],
            "sample": sample,
        }

    def accept(self, file: str) -> dict[str, Any]:
        """Let a proposal count.

        Raises:
            UserError: there is no such proposal any more.
        """
        with self.lock:
            outdated = self._proposed_at != self.version  # a decision since then would be lost
            if self._proposal is None or self._proposal.path.name != file or outdated:
                raise UserError("that proposal is out of date: learn again.")
            before, since = self.now.labels.copy(), self.version
            self.result = accept(self.result, self._proposal)
            self._restart()
            self._proposal = None
            self.decided_at = time.monotonic()
            self._look_again()
            return {"since": since, **self._after(before, [])}

    # Tables

    def write_if_idle(self) -> None:
        """Write the tables if they are behind and nobody decides at the moment.

        Raises:
            UserError: the folder cannot be written.
        """
        if self.written != self.version and time.monotonic() - self.decided_at > IDLE:
            size = self.version
            rewrite_tables(replace(self.result))
            self.written = size

    def close(self) -> None:
        """Write tables and report, if anything is decided, or was when the review began.

        Raises:
            UserError: the folder cannot be written.
        """
        with self.lock:
            if self.now.n_decisions or not self.written == self._opened_at == self.version:
                rewrite(replace(self.result))


def _why(question: Question) -> str:
    """Why a question is asked, in words."""
    if question.reason == "doubtful":
        return "doubtful"
    n = question.stands_for
    return f"represents {n} images" if n > 1 else "like no other"


def _changes(labels: Int64[np.ndarray, "n"], rows: Int64[np.ndarray, "m"] | None) -> dict[str, list[int]]:
    """Rows whose cluster has changed; without ``rows`` all."""
    changed = np.arange(len(labels)) if rows is None else rows
    return {"rows": changed.tolist(), "labels": labels[changed].tolist()}
