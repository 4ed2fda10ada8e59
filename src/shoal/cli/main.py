"""The command: one plain function per verb.

Nothing heavy is imported before a verb needs it, so that help and a mistyped verb answer at once.
"""

from __future__ import annotations

import difflib
import logging
import shlex
import signal
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

from shoal.cli.outputs import export, sort
from shoal.cli.terminal import OneLine, Stopped, complain, flushed_output, on_signals, raise_stopped, say
from shoal.cli.train import train
from shoal.errors import UserError

OVERVIEW = """\
shoal turns a pile of unlabelled images into meaningful clusters.

  shoal train RECIPE         learn features and clusters; writes a run folder
  shoal train --resume RUN   go on with an interrupted run
  shoal cluster IMAGES       put images into clusters by a pretrained network, and say how many there are
  shoal predict FOUND IMAGES put new images into the clusters of a run or of a folder of clusters
  shoal sort CLUSTERS        put the files into a folder per cluster: a plan first, and a way back
  shoal export CLUSTERS FILE write network and clusters as ONNX
  shoal evaluate RUN         measure a run, or features from a file
  shoal report RUN           write a run's report.html again
  shoal recipes [NAME]       list the recipes, or show one

To see it work:            shoal train propos-digits
On your own images:        shoal cluster photos/ -k 12, or -k auto
More about a verb:         shoal VERB --help"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the status is 0, 2 for a user's mistake, or 128 + the signal that stopped it."""
    args = list(sys.argv[1:] if argv is None else argv)
    if logging.lastResort:  # it looks sys.stderr up for each warning, so that a live line can make room
        logging.lastResort.setFormatter(OneLine())
    try:
        with on_signals(raise_stopped), flushed_output():
            return _dispatch(args)
    except UserError as error:
        complain(str(error))
        return 2
    except Stopped as stop:
        complain("stopped.")
        return 128 + stop.signum
    except BrokenPipeError:  # whoever reads the output has seen enough
        return 128 + signal.SIGPIPE
    except OSError as error:
        reason = error.strerror or str(error)
        complain(f"{error.filename}: {reason}" if error.filename else reason)
        return 2


def _dispatch(args: list[str]) -> int:
    if not args or args[0] in ("-h", "--help", "help"):
        say(OVERVIEW)
        return 0
    if args[0] == "--version":
        say(f"shoal {version('shoal')}")
        return 0
    name, rest = args[0], args[1:]
    if name not in VERBS:
        near = difflib.get_close_matches(name, VERBS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"the verbs are {', '.join(VERBS)}."
        raise UserError(f"there is no verb {name!r}: {hint}")
    if name in ("train", "cluster"):  # they read their flags themselves: these depend on the recipe, or have aliases
        return VERBS[name](rest)
    import tyro

    return tyro.cli(VERBS[name], args=rest, prog=f"shoal {name}")


def cluster(args: list[str]) -> int:
    """Put images into clusters by a frozen network's features; ``shoal cluster --help`` lists the settings."""
    from shoal.cli.flags import parse_cluster
    from shoal.cli.outputs import sort_into
    from shoal.progress import open_progress
    from shoal.results import flow
    from shoal.results.cluster_folder import ClusterFolder
    from shoal.results.inputs import read_rows

    command = parse_cluster(args)
    assert command.out is not None
    folder = ClusterFolder(command.out)
    folder.check_free()
    tell = (lambda _text: None) if command.quiet else say
    try:
        with open_progress(quiet=command.quiet) as progress:
            rows = read_rows(
                command.source, command.backbone, command.metric, folder, strict=command.strict, progress=progress
            )
        tell(f"features     {rows.features.shape[1]} of each of {len(rows)} {rows.what}")
        k = command.n_clusters
        if k == "auto":
            tell("looking for the number of clusters: this may take minutes")
            suggestion = flow.suggest(rows, command.k_range, command.metric, command.seed, folder)
            tell(f"\n{suggestion.as_text()}\n\nwhy          {folder.page}")
            k = suggestion.k
        with open_progress(quiet=command.quiet) as progress:
            outcome = flow.cluster(rows, k, command.method, command.metric, command.seed, folder, progress)
    except Stopped as stop:
        complain("stopped; the same command goes on where it was.")
        return 128 + stop.signum
    tell(outcome.as_text(folder))
    if (sorting := command.sorting) is not None:
        return sort_into(folder.path, *sorting, yes=False)
    return 0


def predict(found: Path, images: str, /, out: Path = Path("assignments.csv"), strict: bool = False) -> int:
    """Put new images into the clusters of a finished run, or of a folder of clusters, and write the assignments.

    Args:
        found: the run folder, or the folder that "shoal cluster" wrote.
        images: whatever "shoal cluster" takes; a .npy file of features where such were clustered.
        out: the table to write, .csv or .parquet; an existing file is not overwritten.
        strict: fail on the first image that cannot be read instead of skipping it.
    """
    from shoal.data import to_images
    from shoal.progress import open_progress
    from shoal.results.cluster_folder import ClusterFolder
    from shoal.results.clustered import Clustered
    from shoal.results.prediction import predict as predict_frozen
    from shoal.results.tables import check_free, write_assignments
    from shoal.results.trained import Trained
    from shoal.training.folder import RunFolder

    check_free(out)
    if ClusterFolder(found).is_clustered:
        clustered = Clustered.load(found)
        with open_progress(quiet=False) as progress:
            n = predict_frozen(clustered, images, out, strict=strict, progress=progress)
        say(f"{n} images in {len(clustered.centers)} clusters: {out}")
        return 0
    if not RunFolder(found).config.is_file():
        made = "give what 'shoal train' or 'shoal cluster' wrote"
        raise UserError(f"{found} holds neither a run nor finished clusters: {made}.")
    trained = Trained.load(found)
    pixels = to_images(images, size=trained.square, strict=strict)
    write_assignments(trained.assign(pixels), pixels, out)
    say(f"{len(pixels)} images in {len(trained.centers)} clusters: {out}")
    return 0


def evaluate(  # noqa: PLR0913 - a flag each
    run: Path | None = None,
    /,
    *,
    knn: bool = False,
    linear: bool = False,
    features: Path | None = None,
    labels: Path | None = None,
    test_features: Path | None = None,
    test_labels: Path | None = None,
    n_clusters: int | None = None,
    out: Path | None = None,
) -> int:
    """Measure a finished run, or features from a file: against true classes where they are known, and without.

    Args:
        run: the run folder, where evaluation.json will keep the figures; "shoal report" shows them.
        knn: ask weighted nearest neighbours as well, among the backbone's features.
        linear: train a linear probe as well, on the backbone's features.
        features: .npy file (n, d) to evaluate instead of a run, by cosine k-means.
        labels: .npy file of whole numbers (n,), negative for none.
        test_features: .npy file (m, d) of a test part.
        test_labels: .npy file of whole numbers (m,).
        n_clusters: clusters to look for among the features; as many as there are classes if not given.
        out: JSON file to write the figures of features to.
    """
    from shoal.evaluation import as_text, evaluate_files

    if run is not None:
        if any(value is not None for value in (features, labels, test_features, test_labels, n_clusters, out)):
            raise UserError(f"{run} brings its own features and clusters: give a run alone, or --features and no run.")
        return _evaluate_run(run, knn=knn, linear=linear)
    if features is None:
        raise UserError("there is nothing to evaluate: give a run folder, or --features F.npy.")
    if out is not None and out.exists():
        raise UserError(f"{out} exists already: give another --out.")
    found = evaluate_files((features, test_features), (labels, test_labels), n_clusters, knn=knn, linear=linear)
    say(as_text(found))
    if out is not None:
        found.save(out)
    return 0


def _evaluate_run(run: Path, *, knn: bool, linear: bool) -> int:
    from shoal.evaluation import as_text
    from shoal.results import train as workflow
    from shoal.results.trained import Trained
    from shoal.training.folder import RunFolder

    trained = Trained.load(run)
    found = workflow.evaluate(trained, workflow.images_of(trained), knn=knn, linear=linear)
    say(as_text(found))
    path = RunFolder(run).evaluation
    found.save(path)
    say(f"\nfigures: {path}; 'shoal report {shlex.quote(str(run))}' puts them into the report")
    return 0


def report(run: Path, /) -> int:
    """Write the report of a finished run again.

    Args:
        run: the run folder.
    """
    from shoal.results import train as workflow
    from shoal.results.trained import Trained
    from shoal.training.folder import RunFolder

    trained = Trained.load(run)
    images = workflow.images_of(trained)
    folder, _ = RunFolder.open(run)
    workflow.report(trained, images, trained.assign(images), folder)
    say(str(folder.report))
    return 0


def recipes(name: str = "", /) -> int:
    """List the recipes that ship with shoal, or show one as it is written.

    Args:
        name: the recipe to show; without it, all are listed.
    """
    from shoal.config import recipe_names, recipe_text

    if name:
        say(recipe_text(name).rstrip())
        return 0
    width = max(map(len, recipe_names()))
    for each in recipe_names():
        summary = recipe_text(each).partition("\n")[0].removeprefix("# ")
        say(f"{each:<{width}}  {summary}")
    return 0


VERBS: dict[str, Callable[..., int]] = {
    "train": train,
    "cluster": cluster,
    "predict": predict,
    "sort": sort,
    "export": export,
    "evaluate": evaluate,
    "report": report,
    "recipes": recipes,
}
