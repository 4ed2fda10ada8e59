"""What a GPU computes against float32 on the CPU: ``pytest -m gpu``, four minutes on one; see docs/speed.md."""

import os
import resource
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import adjusted_rand_score
from tests.contract.examples import SMALL
from tests.features.examples import write_weights
from tests.gpu.stepping import CPU, FIRST_OF_EACH, MODES, deviation, gradients_of_ranks, steps
from tests.ranks import PROCESSES

from shoal.clustering import BetaMixture, GaussianMixture, KMeans, MiniBatchKMeans
from shoal.device import multiplies_bfloat16
from shoal.features import load_encoder
from shoal.features.batching import _ON_CPU, _ON_GPU, choose_batch_size

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("default")]

EAGER = [(name, mode) for name in SMALL for mode in MODES if not MODES[mode].compiled]
COMPILED = [(name, mode) for mode in MODES if MODES[mode].compiled for name in FIRST_OF_EACH]


@pytest.fixture(scope="module")
def reference():
    """The steps of each method in float32 on the CPU."""
    return {name: steps(name, CPU, MODES["float32"]) for name in SMALL}


@pytest.mark.timeout(240)  # the first that is compiled starts the compiler's processes
@pytest.mark.parametrize(("name", "mode"), [*EAGER, *COMPILED])
def test_a_step_is_that_of_float32_on_the_cpu(device, figures, reference, name, mode):
    if MODES[mode].precision == "bfloat16" and device.type == "cuda" and not multiplies_bfloat16(device):
        pytest.skip("this GPU has no bfloat16")
    terms, moved = steps(name, device, MODES[mode])
    known, way = reference[name]
    off = float((moved - way).norm() / way.norm())
    found = {"moved_otherwise": off, "terms": deviation(terms, known)}
    figures.setdefault("steps", {}).setdefault(mode, {})[name] = found
    assert off <= MODES[mode].tolerance
    assert found["terms"] <= MODES[mode].tolerance


def blobs(n=4000, d=16, k=8):
    generator = torch.Generator().manual_seed(0)
    centers = torch.randn(k, d, generator=generator) * 6
    labels = torch.arange(n) % k
    return centers[labels] + torch.randn(n, d, generator=generator), labels


def test_no_group_of_the_rows_is_in_doubt():
    """Else the device would not need to find the same."""
    rows, labels = blobs()
    assert adjusted_rand_score(labels, KMeans(8, n_init=3, random_state=0).fit(rows).labels_) == 1


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("kind", [KMeans, MiniBatchKMeans])
def test_kmeans_finds_what_it_finds_on_the_cpu(device, figures, kind, metric):
    rows, _ = blobs()
    one, other = (kind(8, n_init=3, metric=metric, random_state=0).fit(rows.to(place)) for place in (device, CPU))
    assert one.labels_.device.type == device.type
    assert adjusted_rand_score(one.labels_.cpu(), other.labels_) == 1
    found = float(one.inertia_) / float(other.inertia_) - 1
    figures.setdefault("inertia", {})[f"{kind.__name__}, {metric}"] = found
    assert abs(found) <= (1e-4 if kind is KMeans else 1e-2)  # mini-batches end at other places of a flat optimum
    assert adjusted_rand_score(one.predict(rows.to(device)).cpu(), other.predict(rows)) == 1


@pytest.mark.parametrize("covariance", ["full", "tied", "diag", "spherical"])
def test_gaussian_mixtures_find_what_they_find_on_the_cpu(device, figures, covariance):
    rows, _ = blobs()
    one, other = (
        GaussianMixture(8, covariance_type=covariance, random_state=0).fit(rows.to(place)) for place in (device, CPU)
    )
    off = float(one.lower_bound_) - float(other.lower_bound_)
    figures.setdefault("lower_bound", {})[covariance] = off
    assert abs(off) <= 1e-4
    assert adjusted_rand_score(one.predict(rows.to(device)).cpu(), other.predict(rows)) == 1
    mine, theirs = one.predict_proba(rows.to(device)).cpu(), other.predict_proba(rows)
    torch.testing.assert_close(mine.max(1).values, theirs.max(1).values, rtol=1e-4, atol=1e-4)


def test_beta_mixtures_find_what_they_find_on_the_cpu(device):
    rng = np.random.default_rng(0)
    values = torch.from_numpy(np.concatenate([rng.beta(2, 10, 3000), rng.beta(8, 3, 2000)])).float()
    one, other = (BetaMixture().fit(values.to(place)) for place in (device, CPU))
    for name in ("alphas_", "betas_", "weights_"):
        mine, theirs = (torch.as_tensor(getattr(each, name)).cpu() for each in (one, other))
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-3)


@pytest.fixture(scope="module")
def spec(tmp_path_factory):
    return write_weights(tmp_path_factory.mktemp("weights") / "vit.safetensors", "test_vit")


def test_features_are_those_of_the_cpu_in_a_batch_that_pays(device, figures, spec):
    encoder, plain = load_encoder(spec, device), load_encoder(spec, CPU)
    size = choose_batch_size(encoder)
    figures["batch_size"] = size
    least, most = _ON_GPU if device.type == "cuda" else _ON_CPU
    assert least <= size <= most
    assert size & (size - 1) == 0
    pixels = torch.randint(0, 256, (64, 3, *encoder.input_size), dtype=torch.uint8)
    cosines = torch.cosine_similarity(encoder.embed(pixels).float().cpu(), plain.embed(pixels).float())
    figures["least_cosine_of_features"] = float(cosines.min())
    assert cosines.min() > 0.99  # both may compute in bfloat16


def test_a_batch_that_does_not_fit_is_halved_and_the_search_stops_before_it(gpu, figures, spec):
    """With so little memory that 1024 images have no room."""
    encoder = load_encoder(spec, gpu)
    pixels = torch.zeros(1024, 3, *encoder.input_size, dtype=torch.uint8)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    encoder.embed(pixels)
    peak, whole = torch.cuda.max_memory_allocated(), torch.cuda.get_device_properties(gpu).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(min(1.0, 0.6 * peak / whole))
    try:
        with pytest.raises(torch.OutOfMemoryError):
            encoder.embed(pixels)
        torch.cuda.empty_cache()
        figures["batch_size_in_little_memory"] = size = choose_batch_size(encoder)
        assert size < 1024
        encoder.embed(pixels[:size])
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()


def memory(device):
    """Bytes at the most so far: of tensors on a GPU, of the process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def test_steps_take_the_memory_of_the_first_and_about_what_a_dry_run_says(device, figures, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    from shoal.training import dry_run
    from shoal.training.dry_run import Extent, _memory
    from step import config_of, noise_run, step_of

    batch, backbone, side = (512, "resnet18", 32) if device.type == "cuda" else (16, "small", 16)
    config = config_of(batch, backbone, side)
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    before = memory(device)
    run = noise_run(config, side, tmp_path / "run", 4 * batch)
    step = step_of(run)
    peaks = []
    for _ in range(6):
        step()
        peaks.append(memory(device))
    monkeypatch.setattr(dry_run, "_bytes", lambda n: f"{n:.0f}B")
    extent = Extent(len(run.images), len(run.images), (side, side))
    said = _memory(config, run.method.to("cpu"), extent, batch)["memory"]
    forecast = int(said.split(" for ")[0].removeprefix("about ").removesuffix("B"))
    figures["peak_memory"] = {"bytes": peaks[-1] - before, "forecast": forecast}
    assert peaks[-1] <= 1.01 * peaks[2] + 2**20
    if device.type == "cuda":
        assert 0.5 <= (peaks[-1] - before) / forecast <= 1.5


def _rank(rank, n, port, answers):
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(n), "LOCAL_WORLD_SIZE": str(n)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    answers.put((rank, gradients_of_ranks()))


def test_two_processes_are_one(device, figures):
    """Over NCCL on two GPUs; over gloo in a rehearsal."""
    if device.type == "cuda" and torch.cuda.device_count() < 2:
        pytest.skip("there is one GPU: NCCL needs two")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    answers = PROCESSES.Queue()
    ranks = [PROCESSES.Process(target=_rank, args=(rank, 2, port, answers)) for rank in range(2)]
    for rank in ranks:
        rank.start()
    found = dict(answers.get(timeout=100) for _ in ranks)
    for rank in ranks:
        rank.join()
    alone = gradients_of_ranks()
    off = 0.0
    for name, values in alone.items():
        for what, value in values.items():
            one, other = torch.tensor(found[0][name][what]), torch.tensor(value)
            assert found[0][name][what] == found[1][name][what], (name, what)
            off = max(off, float((one - other).norm() / (other.norm() + 0.01)))
    figures["two_processes"] = off
    assert off <= 2e-3
