"""What the estimators of all methods share: fit, predict, transform, evaluate, save and load."""

from __future__ import annotations

import difflib
import logging
import shutil
import tempfile
import threading
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, ClusterMixin, TransformerMixin
from sklearn.exceptions import NotFittedError
from torch import Tensor

from shoal.clustering.kmeans import assign
from shoal.clustering.parameters import hinting
from shoal.config import RunConfig, fields_of, load_recipe, to_yaml, with_reachable_clusters, with_settings
from shoal.data import IN_MEMORY, Given, read_given, resolve_spec
from shoal.data.greys import chosen_ranges
from shoal.errors import UserError
from shoal.estimators.interrupt import saved_on_interrupt
from shoal.evaluation import HeldOut, clustering_signals
from shoal.features.start import resolve_weights
from shoal.files import atomic_write
from shoal.folder import ResultFolder
from shoal.methods import METHODS, Method
from shoal.progress import counted, open_progress
from shoal.report import write_report
from shoal.results.held_out import Own, score_given
from shoal.results.page import report_data
from shoal.results.result import Result
from shoal.results.train import Finished, finished_run, start_or_resume, write_result
from shoal.testing import check_plugins
from shoal.training import fit
from shoal.training.trained import Trained
from shoal.types import Clustering, Images

ImageSource: TypeAlias = Any
"""Whatever ``shoal.data.read_given`` takes: a folder, file or list of files, an array or tensor, a data set of torch,
torchvision or Hugging Face, a dict, an iterable of images, a column or table of pandas, or ``Images``."""

Labels: TypeAlias = Any
"""An array, a tensor or a list with the class of each image, a number or a name, None for none; or None."""

_TRAINING = threading.Lock()
"""Fits take turns: torch's default random number generator is one for the whole process."""

Fitted = TypeVar("Fitted", bound="DeepClusterer")


class DeepClusterer(ClusterMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc] # scikit-learn is untyped
    """A method of deep clustering as a scikit-learn estimator; each method's class differs in its recipe alone.

    Args:
        n_clusters: how many clusters to find; "auto" counts groups in the features while they are learned.
        recipe: the settings to start from: the name of a recipe, or the path of a YAML file.
        epochs: passes over the images; None leaves it to the recipe.
        settings: single settings by the names they have as flags, e.g. ``{"optim.lr": 0.1}``.
        random_state: the seed of all random numbers; None leaves it to the recipe, so that a fit is repeatable.
        out: a run folder to write, with report and assignments; None writes none. A second ``fit`` writes it anew, and
            the earlier one is beside it, as ``OUT.earlier-1``.
        warm_start: let the next ``fit`` begin with the network of the last one; backbone, heads and method stay.
        verbose: show progress.

    Attributes:
        labels_: int64 (n,), the cluster of each image; −1 for an item that could not be read, whose other rows are
            NaN.
        distances_: float32 (n,), cosine distance of each image to the centre of its cluster.
        cluster_centers_: float32 (k, d), unit length; k is the number of clusters that have images, which is below
            ``n_clusters`` where fewer images differ or the method's head leaves clusters empty.
        embedding_: float32 (n, d), the features that were clustered, unit length.
        images_: the ``Images`` that were fitted.
    """

    _method: ClassVar[str]
    _finished: Finished
    """After ``fit``."""
    _loaded: Trained
    """After ``load``, from ``_folder``."""
    _folder: Path | None = None
    _wrote: Path | None = None
    """The folder that the last fit wrote."""

    @hinting
    def __init__(
        self,
        n_clusters: int | Literal["auto"] = 10,
        *,
        recipe: str | Path | None = None,
        epochs: int | None = None,
        settings: Mapping[str, Any] | None = None,
        random_state: int | None = None,
        out: str | Path | None = None,
        warm_start: bool = False,
        verbose: bool = False,
    ) -> None:
        self.n_clusters = n_clusters
        self.recipe = recipe
        self.epochs = epochs
        self.settings = settings
        self.random_state = random_state
        self.out = out
        self.warm_start = warm_start
        self.verbose = verbose

    def fit(self: Fitted, X: ImageSource, y: object = None) -> Fitted:
        """Learn features and clusters of images; ``y`` is ignored, and so are the labels of data sets.

        With ``out``, an interrupted fit has saved its state there, and the same fit resumes.

        Raises:
            KeyboardInterrupt: Ctrl-C was pressed.
            UserError: the images cannot be read, a setting is wrong, or training diverged.
        """
        config = self._config()
        if self.out is not None and (not isinstance(self.out, str | Path) or not str(self.out)):
            raise UserError(f"out is the path of a folder to write, or None, not {self.out!r}.")
        check_plugins(config)
        self._check_start(config)
        config = replace(config, data=replace(config.data, path=_path_of(X)))
        with open_progress(quiet=not self.verbose) as progress, tempfile.TemporaryDirectory() as scratch:
            size = None if isinstance(X, np.ndarray | Tensor | Images) else config.data.size
            data, counter = config.data, progress.counter("reading images")
            known = chosen_ranges(data.range)
            given = read_given(
                *(X,), root=data.root, every=data.every, size=size, ranges=known, strict=data.strict, progress=counter
            )
            images = given.images
            earlier = None if self.out is None else ResultFolder(Path(self.out).resolve())
            ours = earlier is not None and self._wrote == earlier.path and earlier.is_finished
            with _TRAINING:
                with earlier.set_aside() if earlier and ours else nullcontext():
                    run = start_or_resume(config, Path(self.out or scratch), progress, images)
                if self.warm_start and self.__sklearn_is_fitted__() and not run.steps_done:
                    _warm_up(run.method, self._trained().method)
                self._wrote = None if earlier is None else earlier.path
                with saved_on_interrupt(run, self.out):
                    fit(run, progress)
                finished = finished_run(run)
            metrics = run.folder.read_metrics()
            if self.out is not None:
                write_result(finished, images, run.folder)
        self._finished, self._metrics = finished, metrics  # all at once: fit may fail before
        self._folder, self.images_ = None, images
        self.labels_ = given.in_order(self._finished.labels, -1.0)
        self.distances_ = given.in_order(self._finished.distances, np.nan)
        self.embedding_ = given.in_order(self._finished.features, np.nan)
        self.cluster_centers_ = self._finished.trained.centers.cpu().numpy()
        return self

    def predict(self, X: ImageSource) -> npt.NDArray[np.int64]:
        """Cluster of each image, (n,); −1 for an item that could not be read. Other sizes are resized."""
        given, _, found = self._assigned(X)
        return given.in_order(found.labels, -1.0)

    def transform(self, X: ImageSource) -> npt.NDArray[np.float32]:
        """Features of each image, (n, d), unit length; NaN for an item that could not be read."""
        given, features = self._embed(X)
        return given.in_order(features, np.nan)

    def fit_transform(self, X: ImageSource, y: object = None, **_fit_params: object) -> npt.NDArray[np.float32]:
        """``fit``, and the features of the images, which are read once."""
        return self.fit(X).embedding_

    def evaluate(self, X: ImageSource, y: Labels = None) -> HeldOut:
        """Figures of held-out images with labels in the clusters that were found, as of ``shoal evaluate RUN IMAGES``.

        Args:
            X: the images; those that a data set labels need no ``y``.
            y: true class of each item, a number or a name; None for none.

        Raises:
            UserError: there are no labels, or more or fewer than images.
        """
        given, _, found = self._assigned(X)
        classes = None if y is None else _classes(y, given)
        return score_given(given.images, found.labels, len(found.centers), self._own(), classes)

    def features(self, X: ImageSource) -> npt.NDArray[np.float32]:
        """Features of the backbone, before any head, of each image, (n, e): what linear probes and other methods read.

        NaN for a file of a list that could not be read.
        """
        given = self._read(X)
        return given.in_order(self._trained().represent(given.images), np.nan)

    def score(self, X: ImageSource, y: object = None) -> float:
        """Mean silhouette (cosine) of the clusters of images, in [−1, 1], higher is better; ``y`` is ignored.

        It needs no labels, so ``GridSearchCV`` chooses without them. It compares features that were learned differently
        by how well their own clusters are apart, which is not how right these are: ``shoal compare`` chooses by the
        agreement of seeds instead. 0 where all images are in one cluster. Of more than 2 000 images a sample is taken.
        """
        _, features, found = self._assigned(X)
        return clustering_signals(features, found, self._trained().config.seed)["silhouette"]

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Parameters by name; if ``deep``, also each of ``settings`` by the name it has there."""
        params: dict[str, Any] = super().get_params(deep=deep)
        return {**params, **(self.settings or {})} if deep else params

    def set_params(self: Fitted, **params: Any) -> Fitted:
        """Set parameters, or single settings such as ``**{"optim.lr": 0.1}``; ``optim__lr`` is the same.

        Raises:
            UserError: there is no such setting.
        """
        own = super().get_params(deep=False)
        inner = {key.replace("__", "."): value for key, value in params.items() if key not in own}
        super().set_params(**{key: value for key, value in params.items() if key in own})
        if inner:
            before, self.settings = self.settings, {**(self.settings or {}), **inner}
            try:
                self._config()  # checks names and values
            except UserError:
                self.settings = before
                raise
        return self

    def save(self, path: str | Path) -> None:
        """Write a folder as ``shoal train`` does, with report and tables, which ``load`` and the command read.

        Raises:
            UserError: the folder holds something already.
        """
        self._trained()
        folder = ResultFolder(Path(path))
        folder.check_free()
        if self._folder is not None:
            if not self._folder.is_dir() or self._folder in folder.path.resolve().parents:
                raise UserError(f"{self._folder} cannot be copied to {path}: it is gone, or the copy would lie in it.")
            shutil.copytree(self._folder, folder.path, dirs_exist_ok=True)
            return
        atomic_write(folder.config, to_yaml(self._finished.trained.config).encode())
        folder.write_metrics(self._metrics)
        write_result(self._finished, self.images_, folder)

    def report(self, path: str | Path = "report.html") -> Path:
        """Write the report of the clusters, one HTML page.

        Raises:
            UserError: the page cannot be written.
        """
        self._trained()
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / Path(path).stem
            if self._folder is None:
                self.save(folder)
            data = report_data(Result.load(self._folder or folder))
        write_report(data, Path(path))
        return Path(path)

    @classmethod
    def load(cls: type[Fitted], path: str | Path) -> Fitted:
        """A fitted estimator from ``save``, or from a run of ``shoal train``.

        Raises:
            UserError: there is no finished run of this method.
        """
        trained = Trained.load(Path(path))
        if trained.config.method.name != cls._method:
            raise UserError(f"{path} holds a run of {trained.config.method.name}, not of {cls._method}.")
        estimator = cls(trained.n_clusters, recipe=str(Path(path).resolve() / "config.yaml"))
        estimator._folder = Path(path).resolve()
        estimator._loaded = trained
        estimator.cluster_centers_ = trained.centers.cpu().numpy()
        return estimator

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "_finished") or hasattr(self, "_loaded")

    @classmethod
    def _hint(cls, keyword: str) -> str:
        """The setting that may be meant by a keyword that is not a parameter; empty if none is near."""
        known = [path for path, _ in fields_of(RunConfig, {"method": METHODS[cls._method].config_class})]
        last = {path.rpartition(".")[2]: path for path in reversed(known)}
        near = difflib.get_close_matches(keyword, last, n=1, cutoff=0.8)
        return f"did you mean settings={{{last[near[0]]!r}: ...}}?" if near else ""

    def _config(self) -> RunConfig:
        """The recipe with this estimator's parameters put over it."""
        name, named = type(self).__name__, self.recipe or f"{self._method}-folder"
        if not isinstance(named, str | Path):
            raise UserError(f"{name}: recipe is the name of a recipe or the path of a YAML file, not {named!r}.")
        recipe = load_recipe(str(named))
        over: dict[str, Any] = {"n_clusters": self.n_clusters, "epochs": self.epochs, "seed": self.random_state}
        settings = self.settings or {}
        if not isinstance(settings, Mapping) or not all(isinstance(key, str) for key in settings):
            raise UserError(f'{name}: settings are values by name, such as {{"optim.lr": 0.1}}, not {settings!r}.')
        plain = {key: str(value) if isinstance(value, Path) else value for key, value in settings.items()}
        over |= {key.replace("-", "_"): value for key, value in plain.items()}
        for key in ("method", "method.name"):
            if key in over:
                raise UserError(f"{name} is the method: take another's class, and leave out {key!r}.")
        given = {key: value for key, value in over.items() if value is not None}
        config = with_settings(recipe, given, name)
        if config.method.name != self._method:
            raise UserError(f"the recipe {self.recipe} is one of {config.method.name}, not of {self._method}.")
        config, note = with_reachable_clusters(config, recipe, given)
        if note:
            logging.getLogger("shoal").warning(note)
        return config

    def _check_start(self, config: RunConfig) -> None:
        """Raise a UserError where the fit would have two starts: the last one's network, and weights named since."""
        weights = resolve_weights(config.backbone.weights)
        if not (weights and self.warm_start and self.__sklearn_is_fitted__()):
            return
        if weights != self._trained().config.backbone.weights:
            raise UserError(
                "warm_start continues from the network of the last fit, and backbone.weights names another start: set "
                "warm_start=False to begin with those weights, or leave them out."
            )

    def _trained(self) -> Trained:
        if not self.__sklearn_is_fitted__():
            raise NotFittedError(f"this {type(self).__name__} is not fitted yet: call fit first, or load a run.")
        return self._finished.trained if hasattr(self, "_finished") else self._loaded

    def _own(self) -> Own:
        """The images that were fitted."""
        if self._folder is not None:
            return Own.of_result(Result.load(self._folder))
        return Own.of_images(self.images_, self._finished.labels)

    def _read(self, X: ImageSource) -> Given:
        """Images as the network takes them."""
        trained = self._trained()
        every = trained.config.data.every
        return read_given(X, every=every, any_videos=True, size=trained.square, ranges=trained.ranges)

    def _embed(self, X: ImageSource) -> tuple[Given, Tensor]:
        given = self._read(X)
        return given, self._trained().embed(given.images)

    def _assigned(self, X: ImageSource) -> tuple[Given, Tensor, Clustering]:
        """Images, their features, and the clusters that these are nearest to."""
        given, features = self._embed(X)
        centers = self._trained().centers.cpu()
        labels, distances, _ = assign(features, centers, "cosine")
        return given, features, Clustering(labels, centers, distances)


def _warm_up(method: Method, earlier: Method) -> None:
    """Give a method the weights and buffers of another one.

    Raises:
        UserError: it has other ones.
    """
    try:
        method.load_state_dict(earlier.state_dict())
    except RuntimeError as error:
        raise UserError(
            "warm_start continues from the network of the last fit, and these settings make another one: leave "
            "backbone, method and n_clusters as they were, or set warm_start=False."
        ) from error


def _classes(y: Labels, given: Given) -> list[object]:
    """Those of the images that could be read.

    Raises:
        UserError: there are more or fewer of them than items, or they are a table, whose columns are no labels.
    """
    if hasattr(y, "columns"):
        raise UserError("labels are a list or an array with a class for each image, not a table: give a column of it.")
    classes = y.tolist() if isinstance(y, np.ndarray | Tensor) else y
    if not isinstance(classes, Iterable):
        raise UserError(f"labels are a list or an array with a class for each image, not {y!r}.")
    classes = [*classes]
    if len(classes) != given.n:
        raise UserError(
            f"{counted(len(classes), 'label was', 'labels were')} given for {counted(given.n, 'image')}: give each "
            "image one, None for none."
        )
    return [classes[row] for row in given.rows.tolist()]


def _path_of(X: ImageSource) -> str:
    """What leads to the images again from a run's config."""
    if not isinstance(X, str | Path):
        return IN_MEMORY
    return resolve_spec(str(X))
