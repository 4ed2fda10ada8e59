"""What answers bring to a trained run: learning on its frozen features, and fine-tuning of its network.

    python benchmarks/fine_tune.py RUN [--answers 100] [--seeds 0,1,2] [--save NAME]

The person of ``benchmarks/answers.py`` answers questions about a finished run whose images are labelled, in lots, each
after what was learned from those before. ``learn`` is what ``shoal learn`` makes of the answers; ``fine_tuned`` is what
``shoal train --resume RUN --answers`` shows then, answers included, ``network`` what the network says by itself, as it
would of new images, and ``learned_again`` what ``shoal learn`` makes of the same answers on the new result. RUN is only
read.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from answers import LOTS, Person, accuracy
from command import keep
from shoal.clustering import cluster_centers
from shoal.learning import UNKNOWN, Answer, Graph, choose_questions, learn
from shoal.progress import Progress
from shoal.results.fine_tune import tuned
from shoal.results.result import Result
from shoal.results.run_images import images_of_run
from shoal.training.trained import Trained
from shoal.types import Images


def simulate(result: Result, images: Images, graph: Graph, n_answers: int, seed: int) -> dict[str, Any]:
    """Figures for one person."""
    features, start = result.features, result.assignments.labels
    assert result.embedded is not None  # a run is of images
    targets = result.embedded.targets
    person, answers = Person(targets, start), list[Answer]()
    labels, margin, centers = start, None, result.centers
    while len(answers) < n_answers:
        lot = next(lot for at, lot in enumerate(LOTS) if sum(LOTS[:at]) >= len(answers))
        lot = min(lot, n_answers - len(answers))
        asked = [answer.row for answer in answers]
        questions = choose_questions(
            features, labels, centers, graph, n_questions=lot, asked=asked, margin=margin, seed=seed
        )
        answers += [person.answer(question.row, question.candidates) for question in questions]
        begin = time.perf_counter()
        learned = learn(features, start, answers, metric=result.metric, graph=graph, smoothing=False, seed=seed)
        learning = time.perf_counter() - begin
        labels, margin = learned.labels, learned.margin
    trained = Trained.load(result.folder.path)
    trained = replace(trained, config=replace(trained.config, seed=seed))
    begin = time.perf_counter()
    present = cluster_centers(features, labels, 1 + int(labels.max()), result.metric)
    found, _ = tuned(trained, images, answers, labels, present, Progress())
    training = time.perf_counter() - begin
    begin = time.perf_counter()
    moved = trained.embed(images)
    embedding = time.perf_counter() - begin
    own = found(moved)
    again = learn(moved, own, answers, metric=result.metric, smoothing=False, seed=seed)
    shown = own.clone()
    for answer in answers:
        if answer.cluster >= 0:
            shown[answer.row] = answer.cluster
    return {
        "answers": len(answers),
        "none_of_these": sum(answer.cluster == UNKNOWN for answer in answers),
        "steps": found.metrics[-1]["steps"],
        "acc": accuracy(targets, start),
        "learn": accuracy(targets, labels),
        "fine_tuned": accuracy(targets, shown),
        "network": accuracy(targets, own),
        "learned_again": accuracy(targets, again.labels),
        "seconds_learning": learning,
        "seconds_training": training,
        "seconds_embedding": embedding,
    }


def main() -> None:
    """Simulate, print and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--answers", default="100")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--save", help="name of a JSON file in benchmarks/results")
    args = parser.parse_args()
    result = Result.load(args.run)
    images = images_of_run(result, Trained.load(args.run), Progress())
    graph = Graph.build(result.features, result.metric)
    found = []
    for n_answers in args.answers.split(","):
        for seed in args.seeds.split(","):
            row = {"seed": int(seed), **simulate(result, images, graph, int(n_answers), int(seed))}
            print("  ".join(f"{name} {value:.4g}" for name, value in row.items()), flush=True)
            found.append(row)
    if args.save:
        keep(args.save, {"recipe": result.method, "images": len(images), "rows": found})


if __name__ == "__main__":
    main()
