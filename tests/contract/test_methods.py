"""What every method promises, whatever it computes."""

import dataclasses
import functools
from contextlib import closing

import pytest
import torch

from shoal.clustering.kmeans import assign
from shoal.config import load_recipe
from shoal.data import ViewConfig, load_images, order_of_epoch
from shoal.folder import ResultFolder
from shoal.methods import METHODS, PCLConfig
from shoal.models import Queue
from shoal.progress import Progress
from shoal.testing import check_method
from shoal.training import Run, fit
from shoal.training.loop import _backward, e_step, pixels_to_come, train_step
from shoal.training.run import Interrupted
from shoal.training.trained import Trained
from tests.contract.examples import SMALL, B, N, batch, clusterings, method, total
from tests.runs import StopAfter, new_run, reopened, same_files, tiny_config, tiny_images

every_method = pytest.mark.parametrize("name", SMALL)


def test_every_method_is_checked():
    assert {name.partition(",")[0] for name in SMALL} == set(METHODS)


@every_method
def test_the_contract_is_kept(name):
    check_method(METHODS[name.partition(",")[0]], SMALL[name])


@every_method
def test_gradients_reach_all_that_learns_and_no_target(name):
    ours = method(name)
    total(ours(batch(), clusterings(ours))).backward()
    for parameter, p in ours.named_parameters():
        if parameter.startswith("target."):
            assert not p.requires_grad
            assert p.grad is None
        else:
            assert p.grad.any(), parameter


@every_method
def test_images_of_no_cluster_change_only_the_terms_of_clusters(name):
    ours, nobody = method(name), torch.full((N,), -1)
    terms = ours(batch(), clusterings(ours, nobody))
    for of_clusters in {"psl", "proto_nce", "pos", "neg"} & terms.keys():
        assert terms[of_clusters].item() == 0


@every_method
def test_queues_turn_after_the_step_and_not_before(name):
    ours = method(name)
    for queue in (part for part in ours.modules() if isinstance(part, Queue)):
        before = queue.keys.clone()
        total(ours(batch(), clusterings(ours))).backward()
        ours.before_step(0.5)
        assert torch.equal(queue.keys, before)
        ours.after_step(0.5)
        pushed = int((queue.keys != before).any(1).sum())
        assert pushed in (B, 2 * B)
        assert int(queue.head) == pushed
        total(ours(batch(1), clusterings(ours))).backward()
        ours.after_step(0.5)
        assert int(queue.head) == 2 * pushed % 50
        assert torch.equal(queue.index[pushed : min(2 * pushed, 50)], batch(1).index.repeat(2)[: 50 - pushed][:pushed])
        torch.testing.assert_close(queue.keys.norm(dim=1), torch.ones(50))


def config_of(name):
    """A run of three epochs of two steps on 40 images."""
    return tiny_config(method=dataclasses.replace(SMALL[name]), cluster_every=1)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run of each method, made when it is first asked for."""

    @functools.cache
    def of(name):
        run = new_run(tmp_path_factory.mktemp("finished") / "run", config_of(name))
        fit(run, Progress())
        return run

    return of


@every_method
def test_a_saved_method_is_the_same(name, finished):
    run = finished(name)
    Trained.of(run).save(run.folder.model)
    loaded = Trained.load(run.folder.path)
    again = loaded.embed(tiny_images())
    run.folder.model.unlink()
    assert torch.equal(assign(again, loaded.centers, "cosine")[0], run.clusterings[0].labels)
    torch.testing.assert_close(again, run.features)
    state = loaded.method.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in run.method.state_dict().items())


@every_method
def test_a_resumed_run_is_the_same_run_bit_for_bit(name, finished, tmp_path):
    with pytest.raises(Interrupted):
        fit(new_run(tmp_path / "broken", config_of(name)), Progress(), [StopAfter(3)])
    fit(reopened(tmp_path / "broken"), Progress())
    same_files(finished(name).folder.path, tmp_path / "broken")


@every_method
def test_gradients_may_be_accumulated(name, tmp_path):
    config = config_of(name)
    config = dataclasses.replace(config, max_steps=1, optim=dataclasses.replace(config.optim, accumulate=2))
    run = new_run(tmp_path, dataclasses.replace(config, cluster_from=0))
    fit(run, Progress())
    assert run.steps_done == 1


def test_accumulated_gradients_are_those_of_the_whole_batch(tmp_path):
    """Of a loss that is a mean over images, with batch-norm at rest and views that chance does not touch."""
    still = ViewConfig(crop_scale=(1.0, 1.0), flip_p=0.0, jitter_p=0.0, grey_p=0.0)
    found = []
    for parts in (1, 2, 4):
        config = dataclasses.replace(config_of("byol"), augment=still)
        config = dataclasses.replace(config, optim=dataclasses.replace(config.optim, accumulate=parts))
        run = new_run(tmp_path / str(parts), config)
        run.method.eval()
        run.state.order = torch.arange(16)
        terms = _backward(run, run.state.order, pixels_to_come(run))
        found.append({"term": terms["byol"]} | {n: p.grad for n, p in run.method.named_parameters() if p.requires_grad})
    for other in found[1:]:
        for name, value in found[0].items():
            torch.testing.assert_close(other[name], value, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    "name", ["propos", *(pytest.param(n, marks=pytest.mark.slow) for n in METHODS if n != "propos")]
)
def test_the_loss_falls_over_twenty_steps_on_digits(name, tmp_path):
    recipe = load_recipe("simclr-digits" if name == "emp" else f"{name}-digits")
    if name == "emp":  # which has no recipe for digits
        recipe = dataclasses.replace(recipe, method=SMALL["emp"])
    optim = dataclasses.replace(recipe.optim, warmup_epochs=0)
    config = dataclasses.replace(recipe, cluster_from=0, precision="float32", optim=optim)
    if isinstance(config.method, PCLConfig):  # so many that no batch belongs to all: the term of one that does is zero
        config = dataclasses.replace(config, method=dataclasses.replace(config.method, granularities=(100, 200)))
    run = Run(config, load_images(config.data), ResultFolder(tmp_path))
    run.state.clusterings = e_step(run, Progress()).clusterings
    queues = [part for part in run.method.modules() if isinstance(part, Queue)]
    losses = []
    while len(losses) < 20:
        run.state.order = order_of_epoch(run.images.clustered, run.batch_size, None, run.generator)
        run.state.step = 0
        with closing(pixels_to_come(run)) as pixels:
            while run.state.step < run.steps_per_epoch and len(losses) < 20:
                # The random keys that a queue starts with are told apart at once: losses count once it holds none.
                filled = not any((queue.index < 0).any() for queue in queues)
                terms = train_step(run, pixels)
                losses += [float(sum(terms.values()))] if filled else []
                run.state.step += 1
    assert sum(losses[17:20]) < sum(losses[:3])
