"""The scikit-learn face: ``shoal.ProPos(n_clusters=10).fit(images).labels_``."""

from __future__ import annotations

import inspect
import shutil
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, ClusterMixin, TransformerMixin
from sklearn.exceptions import NotFittedError
from torch import Tensor

from shoal.clustering.kmeans import assign
from shoal.config import RunConfig, load_recipe, parse_config, to_dict, to_yaml
from shoal.data import IN_MEMORY, resolve_spec, to_images
from shoal.data.greys import chosen_ranges
from shoal.errors import UserError
from shoal.files import atomic_write
from shoal.folder import ResultFolder
from shoal.methods import METHODS, Method
from shoal.progress import open_progress
from shoal.report import write_report
from shoal.results.page import report_data
from shoal.results.result import Result
from shoal.results.train import Finished, finished_run, start, write_result
from shoal.testing import check_plugins
from shoal.training import fit
from shoal.training.trained import Trained
from shoal.types import Images

ImageSource = str | Path | Sequence[str | Path] | npt.NDArray[Any] | Tensor | Images
"""A folder, file or list of files, an array or tensor (n, h, w[, 3]) or (n, 3, h, w), or ``Images``."""

_TRAINING = threading.Lock()
"""Fits take turns: torch's default random number generator is one for the whole process."""

Fitted = TypeVar("Fitted", bound="DeepClusterer")


class DeepClusterer(ClusterMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc] # scikit-learn is untyped
    """A method of deep clustering as a scikit-learn estimator; each method's class differs in its recipe alone.

    Args:
        n_clusters: how many clusters to find.
        recipe: the settings to start from: the name of a recipe, or the path of a YAML file.
        epochs: passes over the images; None leaves it to the recipe.
        settings: single settings by the names they have as flags, e.g. ``{"optim.lr": 0.1}``.
        random_state: the seed of all random numbers; None leaves it to the recipe, so that a fit is repeatable.
        out: a run folder to write, with report and assignments; None writes none.
        verbose: show progress.

    Attributes:
        labels_: int64 (n,), the cluster of each image; −1 for a file of a list that could not be read, whose other
            rows are NaN.
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

    def __init__(
        self,
        n_clusters: int = 10,
        *,
        recipe: str | None = None,
        epochs: int | None = None,
        settings: Mapping[str, Any] | None = None,
        random_state: int | None = None,
        out: str | Path | None = None,
        verbose: bool = False,
    ) -> None:
        self.n_clusters = n_clusters
        self.recipe = recipe
        self.epochs = epochs
        self.settings = settings
        self.random_state = random_state
        self.out = out
        self.verbose = verbose

    def fit(self: Fitted, X: ImageSource, y: object = None) -> Fitted:
        """Learn features and clusters of images; ``y`` is ignored.

        Raises:
            UserError: the images cannot be read, a setting is wrong, or training diverged.
        """
        config = self._config()
        check_plugins(config)
        config = replace(config, data=replace(config.data, path=_path_of(X)))
        with open_progress(quiet=not self.verbose) as progress, tempfile.TemporaryDirectory() as scratch:
            size = None if isinstance(X, np.ndarray | Tensor | Images) else config.data.size
            data, counter = config.data, progress.counter("reading images")
            known = chosen_ranges(data.range)
            images = to_images(X, root=data.root, size=size, ranges=known, strict=data.strict, progress=counter)
            with _TRAINING:
                run = start(config, Path(self.out or scratch), progress, images)
                fit(run, progress)
                self._finished = finished_run(run)
            self._metrics = run.folder.read_metrics()
            if self.out is not None:
                write_result(self._finished, images, run.folder)
        self._folder, self.images_ = None, images
        self.labels_ = _in_order_of(X, images, self._finished.labels, -1.0)
        self.distances_ = _in_order_of(X, images, self._finished.distances, np.nan)
        self.embedding_ = _in_order_of(X, images, self._finished.features, np.nan)
        self.cluster_centers_ = self._finished.trained.centers.cpu().numpy()
        return self

    def predict(self, X: ImageSource) -> npt.NDArray[np.int64]:
        """Cluster of each image, (n,); −1 for a file of a list that could not be read. Other sizes are resized."""
        images, features = self._embed(X)
        labels, _, _ = assign(features, self._trained().centers.cpu(), "cosine")
        return _in_order_of(X, images, labels, -1.0)

    def transform(self, X: ImageSource) -> npt.NDArray[np.float32]:
        """Features of each image, (n, d), unit length."""
        return _in_order_of(X, *self._embed(X), np.nan)

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
        estimator = cls(trained.config.n_clusters, recipe=str(Path(path).resolve() / "config.yaml"))
        estimator._folder = Path(path).resolve()
        estimator._loaded = trained
        estimator.cluster_centers_ = trained.centers.cpu().numpy()
        return estimator

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "_finished") or hasattr(self, "_loaded")

    def _config(self) -> RunConfig:
        """The recipe with this estimator's parameters put over it."""
        raw = to_dict(load_recipe(self.recipe or f"{self._method}-folder"))
        over = {"n_clusters": self.n_clusters, "epochs": self.epochs, "seed": self.random_state}
        for name, value in {**over, **(self.settings or {})}.items():
            if name in ("method", "method.name"):
                raise UserError(f"{type(self).__name__} is the method: take another's class, and leave out {name!r}.")
            if value is not None:
                *parts, last = name.replace("-", "_").split(".")
                place: Any = raw
                for part in parts:
                    place = place.get(part)
                    if not isinstance(place, dict):
                        raise UserError(f"{type(self).__name__}: there is no setting {name!r}.")
                place[last] = value
        config = parse_config(raw, type(self).__name__)
        if config.method.name != self._method:
            raise UserError(f"the recipe {self.recipe} is one of {config.method.name}, not of {self._method}.")
        return config

    def _trained(self) -> Trained:
        if not self.__sklearn_is_fitted__():
            raise NotFittedError(f"this {type(self).__name__} is not fitted yet: call fit first, or load a run.")
        return self._finished.trained if hasattr(self, "_finished") else self._loaded

    def _embed(self, X: ImageSource) -> tuple[Images, Tensor]:
        trained = self._trained()
        images = to_images(X, size=trained.square, ranges=trained.ranges, strict=False)
        return images, trained.embed(images)


def estimator_of(method: str | type[Method]) -> type[DeepClusterer]:
    """The estimator class of a method, such as one of your own: ``estimator_of(VICReg)(n_clusters=10).fit(images)``.

    Args:
        method: its class, which becomes known by its name where it is not, or the name of one that is known.

    Raises:
        UserError: there is no method of this name, or the class cannot be used.
    """
    if isinstance(method, str):
        if method not in METHODS:
            raise UserError(f"there is no method named {method!r}: the methods are {', '.join(METHODS)}.")
        name, kind = method, METHODS[method]
    else:
        name, kind = METHODS.check(method), method
        if METHODS.get(name) is not method:
            METHODS.add(method)
    for shipped in (BYOL, CC, MoCo, PCL, ProPos, SimCLR, SimSiam):
        if shipped._method == name:
            return shipped
    text = f"{inspect.cleandoc(kind.__doc__ or kind.__name__)}\n\nSee ``DeepClusterer`` for parameters."
    parts = {
        "_method": name,
        "__doc__": text,
        "__module__": kind.__module__,
        "__reduce__": lambda self: _pickled(kind, self),
    }
    made: type[DeepClusterer] = type(kind.__name__, (DeepClusterer,), parts)
    return made


def _pickled(kind: type[Method], estimator: DeepClusterer) -> tuple[Any, ...]:
    """What pickle keeps of an estimator whose class no module holds: the method, and the state."""
    return _blank, (kind,), estimator.__getstate__()


def _blank(kind: type[Method]) -> DeepClusterer:
    made = estimator_of(kind)
    return made.__new__(made)


def _in_order_of(X: ImageSource, images: Images, rows: Tensor, missing: float) -> npt.NDArray[Any]:
    """A row for each image that was given: files of a list that could not be read get ``missing``."""
    found: npt.NDArray[Any] = rows.cpu().numpy()
    if isinstance(X, str) or not isinstance(X, Sequence) or not images.skipped:
        return found
    read = [str(path) not in images.skipped for path in X]
    aligned = np.full((len(X), *found.shape[1:]), missing, dtype=found.dtype)
    aligned[read] = found
    return aligned


def _path_of(X: ImageSource) -> str:
    """What leads to the images again from a run's config."""
    if not isinstance(X, str | Path):
        return IN_MEMORY
    return resolve_spec(str(X))


class BYOL(DeepClusterer):
    """BYOL (arXiv 2006.07733), clustered with k-means; see ``DeepClusterer`` for parameters."""

    _method = "byol"


class CC(DeepClusterer):
    """Contrastive clustering (arXiv 2009.09687), clustered by its own head; see ``DeepClusterer`` for parameters."""

    _method = "cc"


class MoCo(DeepClusterer):
    """Momentum contrast (arXiv 1911.05722), clustered with k-means; see ``DeepClusterer`` for parameters."""

    _method = "moco"


class PCL(DeepClusterer):
    """Prototypical contrastive learning (arXiv 2005.04966); see ``DeepClusterer`` for parameters.

    ``n_clusters`` is what is looked for; ``settings={"method.granularities": (250, 500)}`` sets the prototypes.
    """

    _method = "pcl"


class ProPos(DeepClusterer):
    """ProPos: prototype scattering and positive sampling (arXiv 2111.11821); see ``DeepClusterer`` for parameters."""

    _method = "propos"


class SimCLR(DeepClusterer):
    """SimCLR (arXiv 2002.05709), clustered with k-means; see ``DeepClusterer`` for parameters."""

    _method = "simclr"


class SimSiam(DeepClusterer):
    """SimSiam (arXiv 2011.10566), clustered with k-means; see ``DeepClusterer`` for parameters."""

    _method = "simsiam"
