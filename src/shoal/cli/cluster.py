"""``shoal cluster``: clusters of a pretrained network's features, or of features from a file."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from shoal.cli.flags import Command, OptionalPath
from shoal.cli.sort import chosen_sorting, sort_into
from shoal.cli.terminal import Stopped, complain, say
from shoal.clustering import ClusteringMethod
from shoal.clustering.rows import Metric
from shoal.data.greys import chosen_ranges
from shoal.errors import UserError
from shoal.features import EncoderSpec
from shoal.folder import ResultFolder
from shoal.results.chosen import chosen_networks
from shoal.results.inputs import Inputs, PixelConfig, metric_for

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
class ClusterCommand(Command):
    """Cluster images by the features of a pretrained network; choose how many clusters, or let shoal suggest it.

    Writes a folder with a report, a table of assignments, representatives, duplicates and outliers. If interrupted,
    rerun the same command to resume.
    """

    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE", help=SOURCE)]
    n_clusters: Annotated[int | Literal["auto"], tyro.conf.arg(aliases=("-k",))] = "auto"
    """Number of clusters; auto looks for groups in the features and ranks their numbers. By density one of its layers,
    such as those of an earlier result, and auto takes the clusters of --min-cluster-size."""
    k_range: Annotated[tuple[int, int] | None, tyro.conf.arg(metavar="LOW HIGH", help_behavior_hint="")] = None
    """Smallest and largest number for auto to choose; by default any."""
    method: ClusteringMethod | None = None
    """k-means, k-means in a UMAP embedding, a Gaussian mixture, TEMI, which trains for a minute or more, or density,
    which finds how many clusters there are, and images that belong nowhere; by default kmeans, or the density of a
    result."""
    min_cluster_size: Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="")] = None
    """Images that a cluster by density has at least; by default 1.5 times the square root of their number."""
    backbone: BackboneFlags = field(default_factory=BackboneFlags)
    data: PixelConfig = field(default_factory=PixelConfig)
    metric: Metric | None = None
    """Distance between features; by default cosine, but euclidean for features of fewer than 16 columns."""
    seed: int = 0
    """Random seed."""
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
        if not 0 <= self.seed < 2**63:
            raise UserError(f"--seed {self.seed} must lie between 0 and 2**63 - 1.")
        self._check_density()
        chosen_ranges(self.data.range)
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
            raise UserError(f"--min-cluster-size {self.min_cluster_size} must be 2 at least.")
        if self.method == "density" and self.k_range:
            raise UserError("--method density finds the number of clusters itself: leave out --k-range.")

    def run(self) -> int:
        """Embed, cluster, and say where the result is."""
        from shoal.data.sources.find import short_name
        from shoal.progress import open_progress
        from shoal.results.cluster_images import cluster, suggest
        from shoal.results.inputs import read_inputs

        folder = ResultFolder(self.out or Path("clusters") / short_name(self.source))
        folder.check_free(resumable=True)
        tell = (lambda _text: None) if self.quiet else say
        try:
            with open_progress(quiet=self.quiet) as progress:
                fewest = 1 if self.n_clusters == "auto" else self.n_clusters
                inputs = read_inputs(
                    self.source,
                    self.backbone.specs,
                    self.metric,
                    folder,
                    fewest=fewest,
                    ranges=chosen_ranges(self.data.range),
                    strict=self.strict,
                    progress=progress,
                )
            tell(f"features     {inputs.features.shape[1]} of each of {len(inputs)} {inputs.what}{_joined(inputs)}")
            method, metric = self._method_and_metric(inputs)
            k = None if self.n_clusters == "auto" else self.n_clusters
            if k is None and method != "density":
                tell("looking for the number of clusters")
                suggestion = suggest(inputs, self.k_range, metric, self.seed, folder)
                tell(f"\n{suggestion.as_text()}\n\nwhy          {folder.suggestion_page}")
                k = suggestion.k
            with open_progress(quiet=self.quiet) as progress:
                outcome = cluster(
                    *(inputs, k, method, metric, self.seed, folder, progress),
                    min_cluster_size=self.min_cluster_size,
                )
        except Stopped as stop:
            complain("stopped; rerun the same command to resume.")
            return 128 + stop.signum
        tell(outcome.as_text(folder))
        chosen = chosen_sorting(self.copy, self.move, self.link)
        return sort_into(folder.path, *chosen, yes=False) if chosen else 0


def _joined(inputs: Inputs) -> str:
    """What the features of several networks are."""
    parts = () if inputs.encoder is None else inputs.encoder.parts
    return f", joined of {len(parts)} networks" if parts else ""
