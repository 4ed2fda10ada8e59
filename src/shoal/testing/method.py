"""The contract of ``Method``, clause by clause, on a tiny network and random images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any, Final

import torch
from torch import Tensor, nn

from shoal.device import preserve_rng
from shoal.errors import UserError
from shoal.methods import METHODS, Method, MethodConfig, assemble
from shoal.models import Backbone, BackboneConfig, evaluating
from shoal.plugins import fault_line, place_of, words
from shoal.types import Batch, Clustering

_BACKBONE: Final = BackboneConfig(name="small", width=4)
_CPU: Final = torch.device("cpu")
_SIDE = 8  # px
_MIN_BATCH = 24
_K = 4

RESERVED = {
    *("epoch", "steps", "loss", "lr", "seconds", "images_per_second", "e_step_seconds"),
    *("acc", "nmi", "ari", "fmi", "clusters", "silhouette", "smallest", "largest", "changed", "feature_std"),
}
"""Columns of the metrics that no loss term may be called."""


def check_method(kind: type[Method], config: MethodConfig | None = None) -> None:
    """Check that a method keeps the contract of ``Method``, on a tiny network and random images; takes a second.

    Args:
        kind: the class.
        config: its settings; by default the defaults.

    Raises:
        UserError: naming the first clause that is broken.
    """
    METHODS.check(kind)
    settings = kind.config_class() if config is None else config
    with preserve_rng(_CPU):
        for clause in (
            _encoder_is_backbone_and_head,
            _terms_are_finite_scalars,
            _terms_are_float32_under_autocast,
            _gradients_reach_what_learns,
            _clusters_may_be_empty,
            _features_are_of_unit_length,
            _centres_are_in_the_space_of_the_features,
            _a_step_is_repeatable,
            _a_saved_method_goes_on_as_it_was,
        ):
            with torch.enable_grad():  # whatever a method leaves behind
                clause(_Trial(kind, settings))


class _Trial:
    """A method that is checked, and what to feed it."""

    def __init__(self, kind: type[Method], config: MethodConfig) -> None:
        self.kind, self.config = kind, config
        self.n = _MIN_BATCH * max(1, config.parts)
        self.method = self.build()

    def build(self) -> Method:
        """A fresh one with the same weights each time, in training mode."""
        torch.manual_seed(0)
        with self.calling("its constructor"):
            method = assemble(self.kind, self.config, _BACKBONE, _K, torch.Generator().manual_seed(0))
        return method.train()

    def require(self, kept: object, clause: str) -> None:
        """Raise a UserError with the clause unless it is kept."""
        if not kept:
            raise UserError(f"{place_of(self.kind)}: the method {self.kind.__name__} breaks the contract: {clause}.")

    @contextmanager
    def calling(self, what: str) -> Iterator[None]:
        """Tell an error of the method's code by what was called, and its line."""
        try:
            yield
        except (UserError, KeyboardInterrupt):
            raise
        except BaseException as error:
            line = fault_line(error) or _line_in_class(self.kind, error)
            where = f" in line {line}" if line else ""
            self.require(False, f"{what} fails{where}: {words(error)}")

    def batch(self, seed: int = 0) -> Batch:
        """Two views of some of twice as many images."""
        generator = torch.Generator().manual_seed(seed)
        view1, view2 = (torch.rand(self.n, 3, _SIDE, _SIDE, generator=generator) for _ in range(2))
        return Batch(view1, view2, torch.randperm(2 * self.n, generator=generator)[: self.n])

    @cached_property
    def dim(self) -> int:
        """Columns of the features that are clustered."""
        with torch.no_grad(), evaluating(self.method), self.calling("embed"):
            return self.method.embed(torch.rand(2, 3, _SIDE, _SIDE)).shape[1]

    def clusterings(self, labels: Callable[[int, int], Tensor] | None = None) -> tuple[Clustering, ...]:
        """One per granularity, of labels for n images and k clusters; by default random ones."""
        generator, n = torch.Generator().manual_seed(1), 2 * self.n
        found = []
        for k in self.method.granularities:
            centers = nn.functional.normalize(torch.randn(k, self.dim, generator=generator), dim=1)
            mine = labels(n, k) if labels else torch.randint(k, (n,), generator=generator)
            found.append(Clustering(mine, centers, torch.rand(n, generator=generator)))
        return tuple(found)

    def terms(self, method: Method, clusterings: Sequence[Clustering] = (), seed: int = 0) -> Mapping[str, Tensor]:
        """What its forward returns."""
        with self.calling("forward" if clusterings or not method.granularities else "forward without clusterings"):
            terms: Mapping[str, Tensor] = method(self.batch(seed), clusterings)
        return terms

    def step(self, method: Method, optimizer: torch.optim.Optimizer, seed: int) -> Mapping[str, Tensor]:
        """A step of training, as the trainer does it."""
        optimizer.zero_grad()
        terms = self.terms(method, self.clusterings(), seed)
        with self.calling("the backward pass"):
            _total(terms).backward()  # type: ignore[no-untyped-call]
        with self.calling("before_step"):
            method.before_step(0.5)
        optimizer.step()
        with self.calling("after_step"):
            method.after_step(0.5)
        return terms

    def optimizer(self, method: Method) -> torch.optim.Optimizer:
        """SGD on its groups of parameters."""
        with self.calling("param_groups"):
            groups = [{"params": list(group["params"])} for group in method.param_groups()]
            return torch.optim.SGD(groups, lr=0.01)


def _line_in_class(kind: type[Method], error: BaseException) -> int | None:
    """The last line of the class's own file that an error came through, for a class that no plugin file holds."""
    file, line, trace = place_of(kind).partition(", line ")[0], None, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == file:
            line = trace.tb_lineno
        trace = trace.tb_next
    return line


def _total(terms: Mapping[str, Tensor]) -> Tensor:
    return torch.stack(list(terms.values())).sum()


def _encoder_is_backbone_and_head(trial: _Trial) -> None:
    with trial.calling("encoder"):
        encoder = trial.method.encoder
    trial.require(
        isinstance(encoder, nn.Sequential) and len(encoder) and isinstance(encoder[0], Backbone),
        "encoder must be an nn.Sequential whose first part is the backbone that the constructor was given",
    )
    known = trial.method.granularities
    trial.require(
        isinstance(known, tuple) and all(isinstance(k, int) and k >= 1 for k in known),
        f"granularities must be a tuple of numbers of clusters, such as (n_clusters,), not {known!r}",
    )


def _terms_are_finite_scalars(trial: _Trial) -> None:
    for clusterings in ((), trial.clusterings()):
        terms = trial.terms(trial.method, clusterings)
        trial.require(
            isinstance(terms, dict) and terms,
            f"forward must return a dict of loss terms by name, such as {{'my_loss': loss}}, not {_named(terms)}",
        )
        for name, term in terms.items():
            _check_term(trial, name, term)


def _check_term(trial: _Trial, name: object, term: object) -> None:
    trial.require(isinstance(name, str) and name, f"a loss term is called {name!r}, which is not text")
    taken = f"no loss term may be called {name!r}, which is a column of the metrics already: take another name"
    trial.require(name not in RESERVED, taken)
    trial.require(isinstance(term, Tensor), f"the loss term {name!r} must be a tensor, not {_named(term)}")
    assert isinstance(term, Tensor)
    shape = tuple(term.shape)
    trial.require(shape == (), f"the loss term {name!r} must be a scalar, but has the shape {shape}: take its mean")
    what = str(term.dtype).removeprefix("torch.")
    trial.require(term.dtype == torch.float32, f"the loss term {name!r} must be float32, but is {what}")
    trial.require(term.isfinite(), f"the loss term {name!r} is not finite: {term.item()}")


def _terms_are_float32_under_autocast(trial: _Trial) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        terms = trial.terms(trial.method, trial.clusterings())
    for name, term in terms.items():
        what = str(term.dtype).removeprefix("torch.")
        trial.require(
            term.dtype == torch.float32,
            f"the loss term {name!r} must be float32 where the network computes in bfloat16, but is {what}: compute "
            "the loss from features.float(), in a function with @shoal.losses.in_float32 above it",
        )


def _gradients_reach_what_learns(trial: _Trial) -> None:
    method = trial.method
    learned = {name: p for name, p in method.named_parameters() if p.requires_grad}
    with trial.calling("param_groups"):
        grouped = [id(p) for group in method.param_groups() for p in group["params"]]
    missing = next((name for name, p in learned.items() if id(p) not in grouped), None)
    trial.require(missing is None, f"param_groups leaves out {missing}, which would never learn: add it, or freeze it")
    trial.require(len(grouped) == len(set(grouped)), "param_groups has a parameter twice")
    terms = trial.terms(method, trial.clusterings())
    total = _total(terms)
    trial.require(total.requires_grad, "the loss has no gradient: do not detach it, and compute it with gradients on")
    with trial.calling("the backward pass"):
        total.backward()  # type: ignore[no-untyped-call]
    for name, p in learned.items():
        trial.require(p.grad is not None, f"no gradient reaches {name}: freeze it, or use it in the loss")
        trial.require(p.grad is not None and p.grad.isfinite().all(), f"the gradient of {name} is not finite")
    backbones = (part for part in method.modules() if isinstance(part, Backbone))  # one may be a target network's
    moved = any(p.grad is not None and bool(p.grad.any()) for part in backbones for p in part.parameters())
    trial.require(moved, "no gradient reaches the backbone, so nothing would be learned")


def _clusters_may_be_empty(trial: _Trial) -> None:
    cases: dict[str, Callable[[int, int], Tensor]] = {
        "all images are in one cluster": lambda n, _k: torch.zeros(n, dtype=torch.int64),
        "half of the images are in no cluster (label -1)": lambda n, k: (torch.arange(n) % k).where(
            torch.arange(n) % 2 == 0, -1
        ),
        "all images are in no cluster (label -1)": lambda n, _k: torch.full((n,), -1),
    }
    for case, labels in cases.items() if trial.method.granularities else ():
        with trial.calling(f"forward, where {case},"):
            terms = trial.method(trial.batch(), trial.clusterings(labels))
        trial.require(_total(terms).isfinite(), f"the loss is not finite where {case}")
        with trial.calling(f"the backward pass, where {case},"):
            _total(terms).backward()  # type: ignore[no-untyped-call]
        finite = all(p.grad.isfinite().all() for p in trial.method.parameters() if p.grad is not None)
        trial.require(finite, f"a gradient is not finite where {case}")


def _features_are_of_unit_length(trial: _Trial) -> None:
    method, images = trial.method.eval(), torch.rand(5, 3, _SIDE, _SIDE)
    with torch.no_grad():
        with trial.calling("embed"):
            features, again, fewer = method.embed(images), method.embed(images), method.embed(images[:2])
        trial.require(isinstance(features, Tensor), f"embed must return a tensor, not {_named(features)}")
        trial.require(features.ndim == 2 and len(features) == 5, f"embed must return (b, d), not {_shape(features)}")
        off = (features.norm(dim=1) - 1).abs().max()
        trial.require(off < 1e-3, "embed must return features of unit length")
        trial.require(torch.equal(features, again), "embed must give the same features twice in evaluation mode")
        alone = torch.allclose(fewer, features[:2], atol=1e-4)
        trial.require(alone, "the features of an image must not depend on the others of its batch in evaluation mode")
        with trial.calling("represent"):
            found = method.represent(images)
        trial.require(isinstance(found, Tensor), f"represent must return a tensor, not {_named(found)}")
        trial.require(found.ndim == 2 and len(found) == 5, f"represent must return (b, f), not {_shape(found)}")


def _centres_are_in_the_space_of_the_features(trial: _Trial) -> None:
    with torch.no_grad(), trial.calling("head_centers"):
        centers, d = trial.method.head_centers(), trial.dim
    if centers is not None:
        trial.require(
            isinstance(centers, Tensor) and tuple(centers.shape) == (_K, d),
            f"head_centers must return None or (n_clusters, d), here ({_K}, {d}), not {_shape(centers)}",
        )


def _a_step_is_repeatable(trial: _Trial) -> None:
    found = []
    for _ in range(2):
        method = trial.build()
        optimizer = trial.optimizer(method)
        found.append([trial.step(method, optimizer, seed) for seed in (0, 1)])
    same = all(torch.equal(term, found[1][i][name]) for i in (0, 1) for name, term in found[0][i].items())
    trial.require(
        same,
        "two runs of one seed differ: draw random numbers from the generator that the constructor is given, on every "
        "call anew, and keep nothing outside of the method",
    )


def _a_saved_method_goes_on_as_it_was(trial: _Trial) -> None:
    """Weights, buffers and the generator are what a run saves."""
    method = trial.build()
    optimizer = trial.optimizer(method)
    for seed in range(2):
        trial.step(method, optimizer, seed)
    again = trial.build()
    with trial.calling("load_state_dict"):
        again.load_state_dict({name: value.clone() for name, value in method.state_dict().items()})
    one, other = method.eval(), again.eval()
    images = torch.rand(4, 3, _SIDE, _SIDE)
    with torch.no_grad():
        same = torch.equal(one.embed(images), other.embed(images))
        trial.require(
            same,
            "a method that is saved and loaded gives other features: keep what it learns in parameters "
            "and buffers (register_buffer)",
        )
        generators = {id(g): g for m in (one, other) for g in _generators(m)}
        for generator in generators.values():
            generator.manual_seed(7)
        torch.manual_seed(7)
        before = trial.terms(one.train(), trial.clusterings(), 5)
        for generator in generators.values():
            generator.manual_seed(7)
        torch.manual_seed(7)
        after = trial.terms(other.train(), trial.clusterings(), 5)
    differing = next((name for name, term in before.items() if not torch.equal(term, after[name])), None)
    trial.require(
        differing is None,
        f"a method that is saved and loaded continues with another {differing!r}: keep what changes from step to step "
        "in buffers (register_buffer), or a resumed run is another one",
    )


def _generators(method: Method) -> Iterator[torch.Generator]:
    for part in method.modules():
        for value in vars(part).values():
            if isinstance(value, torch.Generator):
                yield value


def _named(value: Any) -> str:
    return "None" if value is None else f"a {type(value).__name__}"


def _shape(value: Any) -> str:
    return str(tuple(value.shape)) if isinstance(value, Tensor) else _named(value)
