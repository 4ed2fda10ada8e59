"""``shoal cluster``: clusters of a pretrained network's features, or of features from a file."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from shoal import distributed, job
from shoal.cli.flags import Command, OptionalPath, one_of
from shoal.cli.sort import chosen_sorting, sort_into
from shoal.cli.terminal import Stopped, complain_at_once, say, stopped
from shoal.clustering import ClusteringMethod
from shoal.clustering.rows import Metric
from shoal.data.greys import chosen_ranges
from shoal.data.video.every import check_every
from shoal.errors import UserError
from shoal.features import EncoderSpec
from shoal.folder import ResultFolder
from shoal.results.chosen import chosen_networks
from shoal.results.inputs import Inputs, PixelConfig, metric_for, too_few

if TYPE_CHECKING:
    from shoal.results.finish import Outcome

SOURCE = (
    "Images: a folder, .zip, .tar, Parquet file or table of paths, a pattern such as 'photos/**/*.jpg', - for paths on "
    "standard input, any of these in a storage such as s3://bucket/photos, hf://OWNER/NAME, or the name of a data set. "
    "Features: a .npy file (n, d), an earlier result, or "
    "digits, whose pixels are then the features."
)


@dataclass(frozen=True)
class BackboneFlags:
    """The network whose features are clustered, or several; they are not trained."""

    name: Annotated[str | None, tyro.conf.arg(metavar="NAME[,NAME...]", help_behavior_hint="")] = None
    """A timm model, the folder of a finished run of 'shoal train', or open_clip:MODEL:TAG, which reads text as well;
    several with commas between them. By default vit_small_patch14_dinov2.lvd142m, or those of an earlier result."""
    weights: Annotated[str | None, tyro.conf.arg(metavar="FILE[,FILE...]", help_behavior_hint="")] = None
    """Its weights, a .safetensors file, or hf://OWNER/NAME; by default the published ones, which are downloaded once.
    Files of 'shoal convert' and 'shoal export' say of which network they are. Of several networks a file for each, with
    commas between them, and nothing between two commas for published ones."""

    @property
    def specs(self) -> tuple[EncoderSpec, ...] | None:
        """The networks; None where none is named."""
        return chosen_networks(self.name, self.weights) if (self.name, self.weights) != (None, None) else None


@dataclass(frozen=True)
class PixelFlags(PixelConfig):
    """How images are read."""

    every: Annotated[str, tyro.conf.arg(aliases=("--every",), metavar="INTERVAL", help_behavior_hint="")] = ""
    """How often to take a frame of each video: 2s, 500ms, 1min, or scene for one frame of each scene; by default videos
    are not read."""


@dataclass(frozen=True)
class ClusterCommand(Command):
    """Cluster images by the features of a pretrained network; choose how many clusters, or let shoal suggest it.

    Writes a folder with a report, a table of assignments, representatives, duplicates and outliers. If interrupted,
    rerun the same command to resume.
    """

    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE", help=SOURCE)]
    n_clusters: Annotated[int | Literal["auto"], tyro.conf.arg(aliases=("-k",))] = "auto"
    """Number of clusters; auto looks for groups in the features and ranks their numbers. With --method
    density, the layer to use, for example of an earlier result; auto uses that of --min-cluster-size, or without it
    the one nearest to the number of groups."""
    k_range: Annotated[tuple[int, int] | None, tyro.conf.arg(metavar="LOW HIGH", help_behavior_hint="")] = None
    """Smallest and largest number for auto to choose; by default any."""
    method: Annotated[ClusteringMethod | None, one_of(ClusteringMethod)] = None
    """k-means, k-means in a UMAP embedding, a Gaussian mixture, TEMI, which trains for a minute or more, or density,
    which finds how many clusters there are, and images that belong nowhere; by default kmeans, or the density of a
    result."""
    min_cluster_size: Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="")] = None
    """Fewest images in a cluster by density; by default as in the result that is clustered again, or else 1.5 times
    the square root of their number, doubled or halved until there are about as many clusters as groups."""
    backbone: BackboneFlags = field(default_factory=BackboneFlags)
    data: PixelFlags = field(default_factory=PixelFlags)
    metric: Annotated[Metric | None, one_of(Metric)] = None
    """Distance between features; by default cosine, but euclidean for features of fewer than 16 columns."""
    seed: Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="")] = None
    """Random seed; by default 0, or that of the result by density whose layer is chosen."""
    out: OptionalPath = None
    """Folder to write; by default clusters/NAME, after the source."""
    move: Annotated[Path | None, tyro.conf.arg(metavar="INTO", help_behavior_hint="")] = None
    """Afterwards plan to move the files into a folder per cluster; prints the command that does it."""
    copy: Annotated[Path | None, tyro.conf.arg(metavar="INTO", help_behavior_hint="")] = None
    """The same with copies."""
    link: Annotated[Path | None, tyro.conf.arg(metavar="INTO", help_behavior_hint="")] = None
    """The same with symbolic links."""
    strict: bool = False
    """Fail on the first image that cannot be read instead of skipping it."""
    quiet: bool = False
    """Print nothing but warnings and errors."""

    def check(self) -> None:
        """Raise a UserError for values that do not go together."""
        if self.k_range and self.n_clusters != "auto":
            raise UserError(f"-k {self.n_clusters} leaves no range to try: give --k-range with -k auto.")
        if self.k_range and not 1 <= self.k_range[0] <= self.k_range[1]:
            low, high = self.k_range
            raise UserError(f"--k-range {low} {high} must be two numbers of clusters, 1 at least, the smaller first.")
        if self.n_clusters != "auto" and self.n_clusters < 1:
            raise UserError(f"-k {self.n_clusters} must be at least 1, or auto.")
        if self.seed is not None and not 0 <= self.seed < 2**63:
            raise UserError(f"--seed {self.seed} must lie between 0 and 2**63 - 1.")
        self._check_density()
        chosen_ranges(self.data.range)
        check_every(self.data.every)
        _ = self.backbone.specs
        chosen_sorting(self.copy, self.move, self.link)

    def _method_and_metric(self, inputs: Inputs) -> tuple[ClusteringMethod, Metric]:
        """Those that were given, or else those of an earlier result by density, or else the defaults."""
        earlier = inputs.earlier if inputs.earlier is not None and inputs.earlier.method == "density" else None
        method = self.method or ("kmeans" if earlier is None else "density")
        if earlier is not None and method == "density":
            return method, self.metric or earlier.metric
        return method, self.metric or metric_for(inputs)

    def _check_density(self) -> None:
        if self.min_cluster_size is not None and self.method != "density":
            raise UserError("--min-cluster-size is for --method density: give that as well, or leave it out.")
        if self.min_cluster_size is not None and self.min_cluster_size < 2:
            raise UserError(f"--min-cluster-size {self.min_cluster_size} must be at least 2.")
        self._check_range(self.method)

    def _check_range(self, method: ClusteringMethod | None) -> None:
        if method == "density" and self.k_range:
            raise UserError("--method density finds the number of clusters itself: leave out --k-range.")

    def run(self) -> int:
        """Embed, cluster, and say where the result is; the processes of a job do it together."""
        from shoal.data.sources.find import short_name

        folder = ResultFolder(self.out or Path("clusters") / short_name(self.source))
        with job.together(self, complain_at_once):
            if distributed.is_first():
                folder.check_free(resumable=True)
            try:
                outcome = self._cluster(folder)
            except Stopped as stop:
                return stopped(stop, "stopped; rerun the same command to resume.")
            if outcome is None:
                return 0
        self._tell(outcome.as_text(folder))
        chosen = chosen_sorting(self.copy, self.move, self.link)
        return sort_into(folder.path, *chosen, yes=False) if chosen else 0

    def _cluster(self, folder: ResultFolder) -> Outcome | None:
        """What came of it; None for processes other than the first."""
        from shoal.clustering.umap import MIN_ROWS
        from shoal.progress import open_progress
        from shoal.results.cluster_images import cluster
        from shoal.results.inputs import read_inputs

        quiet = self.quiet or not distributed.is_first()
        with open_progress(quiet=quiet) as progress:
            fewest = 1 if self.n_clusters == "auto" else self.n_clusters
            inputs = read_inputs(
                self.source,
                self.backbone.specs,
                self.metric,
                folder,
                fewest=fewest,
                pixels=self.data,
                strict=self.strict,
                progress=progress,
            )
        self._tell(f"features     {inputs.features.shape[1]} of {_each(inputs)}{_joined(inputs)}")
        method, metric = self._method_and_metric(inputs)
        self._check_range(method)
        k = None if self.n_clusters == "auto" else self.n_clusters
        if len(inputs) < fewest:
            raise too_few(len(inputs), inputs.what, fewest)
        if method in ("umap-kmeans", "density") and len(inputs) < MIN_ROWS:
            raise UserError(f"{method} needs {MIN_ROWS} {inputs.what} at least: give --method kmeans.")
        if k is None and method != "density":
            k = int(job.of_first(lambda: str(self._suggested(inputs, metric, folder))))
        with open_progress(quiet=quiet) as progress:
            return cluster(
                inputs, k, method, metric, self.seed, folder, progress, min_cluster_size=self.min_cluster_size
            )

    def _suggested(self, inputs: Inputs, metric: Metric, folder: ResultFolder) -> int:
        """The number of clusters that is suggested, and why."""
        from shoal.results.cluster_images import suggest

        self._tell("looking for the number of clusters")
        suggestion = suggest(inputs, self.k_range, metric, self.seed or 0, folder)
        self._tell(f"\n{suggestion.as_text()}\n\nwhy          {folder.suggestion_page}")
        return suggestion.k

    def _tell(self, text: str) -> None:
        """Say what has come so far, in one process of a job."""
        if not self.quiet and distributed.is_first():
            say(text)


def _each(inputs: Inputs) -> str:
    """Whose features they are."""
    n = len(inputs)
    return f"1 {inputs.what.removesuffix('s')}" if n == 1 else f"each of {n} {inputs.what}"


def _joined(inputs: Inputs) -> str:
    """What the features of several networks are."""
    parts = () if inputs.encoder is None else inputs.encoder.parts
    return f", joined of {len(parts)} networks" if parts else ""
