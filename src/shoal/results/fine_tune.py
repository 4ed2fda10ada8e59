"""A finished training run, fine-tuned on what a person has said of its images, as a new result."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from shoal.clustering import cluster_centers, map_positions
from shoal.clustering.calibration import fit_calibration
from shoal.clustering.linear import ABSENT, LinearHead
from shoal.decisions.log import Decision, DecisionLog, effective, translated
from shoal.decisions.replay import Replayed
from shoal.errors import UserError
from shoal.evaluation import score
from shoal.features import EncoderSpec, open_embedded, replace_features
from shoal.features.weights import file_digest
from shoal.files import atomic_write, real
from shoal.folder import FINE_TUNED, ResultFolder
from shoal.learning import Answer, learn
from shoal.progress import Progress
from shoal.results.finish import Outcome, write_files
from shoal.results.inputs import Inputs, pictures_of
from shoal.results.learning import answers_of, propose
from shoal.results.result import Result
from shoal.results.rows import assign_rows
from shoal.results.run_images import images_of_run
from shoal.results.tables import as_utf8, write_assignments
from shoal.training.fine_tune import FineTuned, Told, fine_tune
from shoal.training.trained import Trained
from shoal.types import Clustering, Images

SUFFIX = "-answers"
"""Of the folder's name by default."""


@dataclass(frozen=True)
class Summary:
    """What came of fine-tuning a run."""

    folder: ResultFolder
    n_named: int
    """Images whose cluster a person has said."""
    n_right: int
    """Those of them that the network itself puts there now,"""
    n_right_without: int
    """and as many the clustering without any answer."""
    n_ruled_out: int
    """Images of which only clusters are known that they are not in."""
    n_changed: int
    """Images in another cluster than before."""
    outcome: Outcome


def default_out(run: Path) -> Path:
    """A folder beside a run that is not there yet."""
    place = real(run)
    name, number = re.sub(rf"{SUFFIX}(-\d+)?$", "", place.name) + SUFFIX, 1
    path = place.with_name(name)
    while path.exists():
        number += 1
        path = place.with_name(f"{name}-{number}")
    return path


def fine_tune_run(run: Path, out: Path, progress: Progress) -> Summary:
    """Fine-tune the network of a run on the answers about it, and write a result of its own; the run stays as it is.

    The clusters of the new result keep their numbers and names, and what was said of single images stands there, too.
    It is made ready in a hidden folder beside ``out``, which gets its name once it is whole.

    Args:
        run: of a finished training run.
        out: folder to write.
        progress: reports progress.

    Raises:
        UserError: it is not a finished run, nothing was said of its images, they are gone or have changed, another
            process is changing it, or ``out`` is taken or cannot be written.
    """
    ResultFolder(out).check_free()
    with _unchanged(ResultFolder(run)):
        result = Result.load(run)
        if not result.folder.is_run:
            raise UserError(
                f"{run} holds clusters of features whose network was not trained here, so there is none to fine-tune: "
                f"'shoal learn {run}' learns from the answers."
            )
        replayed, numbers = _said(result), result.model.numbers
        before = result.assignments.labels
        trained = Trained.load(run)
        images = images_of_run(result, trained, progress)
        places = {number: place for place, number in enumerate(numbers.tolist())}
        learned = result.model.slots_of(propose(result, replayed, keep_graph=False).learned.labels)
        learned = learned.where(images.clustered.cpu(), -1)
        answers = answers_of(replayed, places)
        found, n_ruled_out = tuned(trained, images, answers, learned, result.model.centers, progress)
        job = _Job(result, replayed, numbers, trained, images, found)
        with _staged(out) as folder:
            after, outcome = job.write(folder)
    labels = torch.from_numpy(replayed.labels)
    named = torch.from_numpy(replayed.fixed) & (labels >= 0)
    without = torch.from_numpy(replayed.unsaid)
    own = after.clustered[1].labels
    return Summary(
        ResultFolder(out),
        int(named.sum()),
        int((own == labels)[named].sum()),
        int((without == labels)[named].sum()),
        n_ruled_out,
        int((after.assignments.labels != before).sum()),
        outcome,
    )


def _unchanged(folder: ResultFolder) -> contextlib.AbstractContextManager[None]:
    """Keep other processes from changing the run; one that cannot be written is not changed anyway."""
    writable = folder.path.is_dir() and os.access(folder.path, os.W_OK)
    return folder.alone() if writable else contextlib.nullcontext()


def _said(result: Result) -> Replayed:
    """The decisions about a run.

    Raises:
        UserError: none of them says of a single image where it belongs.
    """
    replayed = None if result.decided is None else result.decided.replayed
    path = result.folder.path
    if replayed is None or not (replayed.fixed.any() or replayed.ruled_out):
        raise UserError(
            f"nothing has been said of single images of {path}, so there is nothing to fine-tune on: answer questions "
            f"in 'shoal review {path}', or write them with 'shoal ask {path}' and give the table to 'shoal learn'."
        )
    return replayed


def told_of(answers: Iterable[Answer], learned: Int64[Tensor, "n"]) -> Told:
    """What answers say of images, and what was learned of the others; those that belong nowhere take no part.

    Raises:
        UserError: all that was said is that images belong nowhere.
    """
    classes, ruled_out, others = torch.full_like(learned, -1), dict[int, tuple[int, ...]](), learned.clone()
    for answer in answers:
        others[answer.row] = -1
        classes[answer.row] = max(answer.cluster, -1)
        if answer.ruled_out:
            ruled_out[answer.row] = answer.ruled_out
    if not (classes >= 0).any() and not ruled_out:
        raise UserError(
            "the answers say of no image in which cluster it is or is not, so there is nothing to fine-tune on."
        )
    return Told(classes, ruled_out, others)


def tuned(
    trained: Trained,
    images: Images,
    answers: Sequence[Answer],
    learned: Int64[Tensor, "n"],
    centers: Float[Tensor, "k d"],
    progress: Progress,
) -> tuple[FineTuned, int]:
    """Fine-tune a network, in place, on answers and on what was learned from them of the other images.

    Returns:
        The head, and the number of images of which only clusters are known that they are not in.

    Raises:
        UserError: the answers name no cluster, or training fails.
    """

    def again(features: Float[Tensor, "n d"], own: Int64[Tensor, "n"]) -> Int64[Tensor, "n"]:
        return learn(features, own, answers, metric="cosine", smoothing=False, seed=trained.config.seed).labels

    told = told_of(answers, learned)
    return fine_tune(trained, images, told, centers, again, progress), len(told.ruled_out)


@contextlib.contextmanager
def _staged(out: Path) -> Iterator[ResultFolder]:
    """A hidden folder beside ``out`` that gets its name at the end, or is removed on an error.

    Raises:
        UserError: it cannot be made there.
    """
    place = real(out)
    staged: Path | None = None
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        staged = Path(tempfile.mkdtemp(dir=place.parent, prefix=f".{place.name}.", suffix=".tmp"))
        staged.chmod(0o755)
        yield ResultFolder(staged, place)
        staged.replace(place)  # also an empty folder that is there
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror}.") from error
    finally:
        if staged is not None:
            shutil.rmtree(staged, ignore_errors=True)


@dataclass(frozen=True, eq=False)
class _Job:
    """All that goes into the new result."""

    before: Result
    replayed: Replayed
    numbers: Int64[Tensor, "k"]
    trained: Trained
    images: Images
    found: FineTuned

    def write(self, folder: ResultFolder) -> tuple[Result, Outcome]:
        """Write it, the network first and the clustering last.

        Raises:
            UserError: the folder cannot be written.
        """
        before, trained = self.before, self.trained
        features, head = trained.embed(self.images), self._head()
        labels = torch.as_tensor(head.predict(features))
        centers = cluster_centers(features, labels, 1 + int(self.numbers[-1]), "cosine")
        replace(trained, centers=centers).save(folder.model)
        spec = EncoderSpec("run", str(folder.place), digest=file_digest(folder.model))
        replace_features(before.features_at, folder.features, features, replace(spec, name=""))
        self._write_config(folder)
        embedded = open_embedded(folder.features)
        result = replace(
            before,
            folder=folder,
            clusterer=head,
            centers=centers,
            metric="cosine",
            features_at=folder.features.absolute(),
            encoder=spec,
            by_head=False,
            asked=len(self.numbers),
            reference=None,
            calibration=fit_calibration(head, features, labels, "cosine", before.seed),
        )
        positions = map_positions(features, metric="cosine", seed=result.seed)
        found = assign_rows(features, result.posterior, centers, "cosine", labels=labels, positions=positions)
        ids = [as_utf8(name) for name in embedded.ids]
        write_assignments(found, ids, folder.clustered, names=self.replayed.names)
        DecisionLog(folder.decisions).append(self._decisions(ids))
        decided = replace(result)  # reads them
        found = decided.assignments
        self._write_metrics(decided, features)
        pictures, others = pictures_of(self.images), self.images.others
        inputs = Inputs.of_images(embedded, folder.features, spec, pictures, before.source, others)
        inputs = replace(inputs, root=before.root, joined=before.joined)
        return decided, write_files(decided, inputs, found, decided.names)

    def _head(self) -> LinearHead:
        """The head, with a row for each number up to the highest; numbers that no cluster has any more get no image."""
        k, (_, d) = 1 + int(self.numbers[-1]), self.found.weight.shape
        head = LinearHead(k, metric="cosine")
        weight, bias = torch.zeros(k, d), torch.full((k,), ABSENT)
        weight[self.numbers], bias[self.numbers] = self.found.weight, self.found.bias
        head.n_features_in_, head.mean_, head.weight_, head.bias_ = d, torch.zeros(d), weight, bias
        return head

    def _decisions(self, ids: Sequence[str]) -> list[Decision]:
        """What was decided about the run, as far as it is not in the clustering itself; each can be undone."""
        replayed, present = self.replayed, self.numbers.tolist()
        found: list[Decision] = []
        for number in range(present[-1]):
            if number not in present:  # it was merged, or was made and has lost its images
                into = replayed.into.get(number, -1)
                found.append({"do": "merge", "clusters": [number], "into": into if into in present else present[0]})
        answered = self._answered()
        rows = np.flatnonzero(replayed.fixed)
        labels = replayed.labels[rows].tolist()
        moved: dict[int, list[str]] = {}
        for row, cluster in zip(rows.tolist(), labels, strict=True):
            if ids[row] in answered:
                found.append({"do": "answer", "image": ids[row], "cluster": cluster})
            else:
                moved.setdefault(cluster, []).append(ids[row])
        found += [{"do": "move", "images": images, "cluster": cluster} for cluster, images in moved.items()]
        for row, out in replayed.ruled_out.items():
            clusters = [replayed.into[each] for each in out if replayed.into.get(each) in present]
            found.append({"do": "answer", "image": ids[row], "none_of": clusters})
        return [{**decision, "key": uuid.uuid4().hex} for decision in found]

    def _answered(self) -> set[str]:
        """Images that a question was answered about; others were moved or confirmed."""
        steps = translated(effective(DecisionLog(self.before.folder.decisions).read()[0]))
        return {step["image"] for step in steps if step["do"] == "answer"}

    def _write_config(self, folder: ResultFolder) -> None:
        run = real(self.before.folder.path)
        words = shlex.join([str(run), "--answers"])
        text = (
            f"{FINE_TUNED}{words}\n# The recipe of the run itself, whose network was then fine-tuned on answers.\n"
            f"{_without_first_lines(self.before.folder.config.read_text('utf-8'))}"
        )
        atomic_write(folder.config, text.encode())

    def _write_metrics(self, result: Result, features: Float[Tensor, "n d"]) -> None:
        """The epochs of fine-tuning, and scores at the end."""
        rows = self.found.metrics
        labels = result.model.slots_of(result.assignments.labels).where(self.images.clustered.cpu(), -1)
        clustering = Clustering(labels, result.model.centers, result.assignments.distance)
        scores = score(self.images, features, clustering, None, result.seed)
        last = {"epoch": len(rows), "steps": rows[-1]["steps"], **scores}
        result.folder.write_metrics([*rows, last])


def _without_first_lines(config: str) -> str:
    """The recipe alone, of a run that was fine-tuned already."""
    return re.sub(r"\A(#.*\n)+", "", config) if config.startswith(FINE_TUNED) else config
