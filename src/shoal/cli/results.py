"""The commands for a finished result, and the list of recipes."""

from __future__ import annotations

import contextlib
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from shoal.cli.flags import Command, OptionalPath, ResultPath
from shoal.cli.terminal import Stopped, complain, complain_at_once, say, stopped
from shoal.errors import UserError
from shoal.progress import counted


@dataclass(frozen=True)
class PredictCommand(Command):
    """Assign new images to the clusters of a result, and write a table of assignments.

    If interrupted, rerun the same command to resume.
    """

    result: ResultPath
    """The folder that 'shoal train' or 'shoal cluster' wrote, or one that is shared on the hub: hf://OWNER/NAME."""
    images: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="IMAGES")]
    """Whatever 'shoal cluster' takes; a .npy file of features where features were clustered."""
    out: Path = Path("assignments.csv")
    """Table to write, .csv or .parquet; an existing file is not overwritten."""
    every: Annotated[str, tyro.conf.arg(metavar="INTERVAL", help_behavior_hint="")] = ""
    """Interval between video frames, as in 'shoal cluster'; by default the result's."""
    merge_to: Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="")] = None
    """Merge the clusters of the result until this many are left, as 'shoal report --merge-to' does."""
    strict: bool = False
    """Fail on the first image that cannot be read instead of skipping it."""

    def run(self) -> int:
        """Write the table; the processes of a job do it together."""
        from shoal import distributed, job
        from shoal.features.shared import local_result
        from shoal.progress import open_progress
        from shoal.results.predict import predict
        from shoal.results.result import Result
        from shoal.results.tables import check_free

        with job.together(self, complain_at_once):
            job.of_first(lambda: check_free(self.out))
            try:
                with job.local_first():  # it downloads what the others find
                    path = local_result(self.result)
                with job.first_first():  # an update that is whole is put in place once
                    result = Result.load(path)
                with open_progress(quiet=not distributed.is_first()) as progress:
                    found = predict(
                        result,
                        self.images,
                        self.out,
                        every=self.every,
                        strict=self.strict,
                        progress=progress,
                        merge_to=self.merge_to,
                    )
            except Stopped as stop:
                return stopped(stop, "stopped; rerun the same command to resume.")
        if found is None:
            return 0
        n, nowhere = found
        k = self.merge_to or len(result.model.numbers)
        none = f", {nowhere} of them in none" if nowhere else ""
        say(f"{counted(n, 'image')} in {counted(k, 'cluster')}{none}: {self.out}")
        return 0


@dataclass(frozen=True)
class EvaluateCommand(Command):
    """Measure a result, or features from a file: against true classes where they are known, and without.

    With HELDOUT, other images with labels are put into the clusters of the result and compared with their classes.
    """

    result: Annotated[OptionalPath, tyro.conf.Positional, tyro.conf.arg(metavar="RESULT")] = None
    """The folder that 'shoal train' or 'shoal cluster' wrote; evaluation.json keeps the figures there."""
    held_out: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="HELDOUT", help_behavior_hint="")] = ""
    """Images with labels that were held out: whatever 'shoal predict' takes."""
    knn: bool = False
    """Classify by weighted nearest neighbours as well, among the backbone's features."""
    linear: bool = False
    """Train a linear probe as well, on the backbone's features."""
    features: OptionalPath = None
    """Evaluate this .npy file (n, d) instead of a result, by cosine k-means."""
    labels: OptionalPath = None
    """True classes of the features: a .npy file (n,) of whole numbers, negative for none, or of names."""
    test_features: OptionalPath = None
    """Features of a test part: a .npy file (m, d)."""
    test_labels: OptionalPath = None
    """True classes of the test part: a .npy file (m,) of whole numbers, negative for none, or of names."""
    n_clusters: Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="")] = None
    """Number of clusters to find among the features; by default that of the classes."""
    merge_to: Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="")] = None
    """Merge the clusters of the result until this many are left, give the figures of both, and write the merged
    assignments, assignments-INT.csv and .parquet."""
    out: OptionalPath = None
    """JSON file to write the figures of features, or of HELDOUT, to."""
    strict: bool = False
    """Fail on the first image of HELDOUT that cannot be read instead of skipping it."""

    def run(self) -> int:
        """Print all figures and keep them."""
        if self.result is None:
            if self.merge_to is not None:
                raise UserError("--merge-to merges the clusters of a result: give its folder.")
            return self._of_files()
        if self.held_out:
            return self._of_held_out(self.result)
        given = (self.features, self.labels, self.test_features, self.test_labels, self.n_clusters, self.out)
        if any(value is not None for value in given):
            raise UserError(
                f"{self.result} has features and clusters of its own: give a result alone, or --features and no result."
            )
        return self._of_result(self.result)

    def _of_files(self) -> int:
        from shoal.evaluation import as_text, evaluate_files

        if self.features is None:
            raise UserError("there is nothing to evaluate: give the folder of a result, or --features F.npy.")
        if self.out is not None and self.out.exists():
            raise UserError(f"{self.out} exists already: give another --out.")
        features, labels = (self.features, self.test_features), (self.labels, self.test_labels)
        found = evaluate_files(features, labels, self.n_clusters, knn=self.knn, linear=self.linear)
        say(as_text(found))
        if self.out is not None:
            found.save(self.out)
        return 0

    def _of_held_out(self, path: Path) -> int:
        from shoal.progress import open_progress
        from shoal.results.held_out import evaluate_held_out
        from shoal.results.result import Result

        given = (self.features, self.labels, self.test_features, self.test_labels, self.n_clusters)
        if self.knn or self.linear or any(value is not None for value in (*given, self.merge_to)):
            raise UserError(f"of {self.held_out} only clusters are measured: give --out and --strict alone with it.")
        if self.out is not None and self.out.exists():
            raise UserError(f"{self.out} exists already: give another --out.")
        result = Result.load(path)
        with open_progress(quiet=False) as progress:
            found = evaluate_held_out(result, self.held_out, strict=self.strict, progress=progress)
        say(found.as_text())
        if self.out is not None:
            found.save(self.out)
        return 0

    def _of_result(self, path: Path) -> int:
        from shoal.evaluation import as_text
        from shoal.progress import open_progress
        from shoal.results.evaluate import evaluate
        from shoal.results.result import Result

        result = Result.load(path)
        with open_progress(quiet=False) as progress:
            found = evaluate(result, progress, knn=self.knn, linear=self.linear, merge_to=self.merge_to)
        say(as_text(found))
        found.save(result.folder.evaluation)
        again = f"; 'shoal report {shlex.quote(str(path))}' puts them into the report"
        say(f"\nfigures: {result.folder.evaluation}{again if result.embedded is not None else ''}")
        if self.merge_to is not None:
            say(f"merged clusters: {path / f'assignments-{self.merge_to}.csv'}")
        return 0


@dataclass(frozen=True)
class ReportCommand(Command):
    """Write the report of a result again, from what its folder keeps.

    Where a review was killed, the tables are written as well, as the decisions have them.
    """

    result: ResultPath
    """The folder that 'shoal train' or 'shoal cluster' wrote."""
    merge_to: Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="")] = None
    """Merge its clusters until this many are left, and write a report and tables of those beside its own,
    report-INT.html and assignments-INT.csv and .parquet."""

    def run(self) -> int:
        """Write report.html."""
        from shoal.results.changes import changes_of, update_hint
        from shoal.results.finish import rewrite
        from shoal.results.page import write_merged, write_page
        from shoal.results.result import Result

        result = Result.load(self.result)
        if self.merge_to is not None:
            page, table = write_merged(result, self.merge_to)
            say(f"report       {page}\nassignments  {table}")
            return 0
        if result.decided is None:
            write_page(result)
        else:
            with result.folder.alone():
                rewrite(result)
        say(str(result.folder.report))
        with contextlib.suppress(UserError):  # it needs no images, and shows what was clustered
            lines = changes_of(result) if result.is_quickly_matched else []
            for line in [*lines, *([update_hint(result)] if lines else [])]:
                complain(line)
        return 0


@dataclass(frozen=True)
class RecipesCommand(Command):
    """List the recipes that ship with shoal, or show one as it is written."""

    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME", help_behavior_hint="")] = ""
    """The recipe to show; without it, all are listed."""

    def run(self) -> int:
        """Print it, or a line for each."""
        from shoal.config import recipe_names, recipe_text

        if self.name:
            say(recipe_text(self.name).rstrip())
            return 0
        width = max(map(len, recipe_names()))
        for each in recipe_names():
            summary = recipe_text(each).partition("\n")[0].removeprefix("# ")
            say(f"{each:<{width}}  {summary}")
        return 0
