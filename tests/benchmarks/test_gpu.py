"""The GPU sheet in small, on a CPU: its parts, and what becomes of one that does not end well."""

import json
import sys
from dataclasses import replace

import pytest
import torch

from shoal.models import Backbone
from shoal.models.small import SmallNet, _Convolution


@pytest.fixture
def sheet(tmp_path):
    from gpu_sheet import TINY, Sheet

    known = {"float32": 1e10, "tf32": 1e10, "bfloat16": 1e10, "copy": 1e10}
    return Sheet(TINY, torch.device("cpu"), tmp_path / "part.json", known)


def found(sheet):
    return json.loads(sheet.file.read_text())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the compiler's own
@pytest.mark.slow
def test_the_ladder_does_the_same_work_on_all_rungs_and_tells_of_those_that_fail(sheet, capsys, monkeypatch):
    from gpu_steps import ladder

    for network in (Backbone, SmallNet, _Convolution):  # the tests' checks of shapes are not for a compiler
        monkeypatch.setattr(network, "forward", getattr(network.forward, "__wrapped__", network.forward))
    ladder(sheet, "small")
    rungs = found(sheet)["rungs"]
    assert "need a GPU" in rungs.pop("+ CUDA graphs")["failed"]
    assert "+ CUDA graphs    failed: RuntimeError: CUDA graphs need a GPU" in capsys.readouterr().out
    assert {"float32", "bfloat16", "+ channels last", "+ compiled"} <= rungs.keys()
    for name, rung in rungs.items():
        assert rung.get("images_per_second", 0) > 0, (name, rung)
        assert rung["share_of_peak"] == pytest.approx(
            rung["images_per_second"] * found(sheet)["flops_per_image"] / 1e10
        )
        if name not in ("float32", "lightly's BYOL"):
            assert 0 < rung["moved_otherwise"] < 0.3, name
    assert rungs["+ compiled"]["graph_breaks"] == 0
    assert found(sheet)["milliseconds"]["augment"] > 0


def test_a_rung_that_fails_in_the_middle_is_told_and_the_others_go_on(sheet, monkeypatch):
    import gpu_steps

    def failing(rung, config, sheet, folder):
        run, step = whole(rung, config, sheet, folder)
        calls = iter(range(sheet.sizes.warm_up))

        def fails():
            if next(calls, None) is None:
                raise RuntimeError("out of\nmemory")
            step()

        return run, fails if rung.precision == "float32" else step

    whole = gpu_steps.rung_step
    monkeypatch.setattr(gpu_steps, "rung_step", failing)
    monkeypatch.setattr(gpu_steps, "PHASES", gpu_steps.PHASES[:1])
    gpu_steps.ladder(sheet, "small")
    rungs = found(sheet)["rungs"]
    assert rungs["float32"]["failed"] == "RuntimeError: out of memory"
    assert rungs["+ channels last"]["images_per_second"] > 0


def test_a_rung_is_laid_out_and_compiled_as_it_says(sheet, tmp_path, monkeypatch):
    from gpu_steps import PHASES, rung_step
    from step import config_of

    compiled, marks = [], []
    monkeypatch.setattr(Backbone, "compile_training", lambda _, mode: compiled.append(mode))
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", lambda: marks.append(None))
    on_gpu = replace(sheet, device=torch.device("cuda"))
    for rung in {rung: None for phase in PHASES for rung in phase}:
        run, step = rung_step(rung, config_of(8, "small", 8), on_gpu, tmp_path / rung.name)
        step()
        for weight in run.method.parameters():
            if weight.ndim == 4 and weight.shape[1] > 1:
                assert weight.is_contiguous(memory_format=torch.channels_last) == rung.channels_last
                assert weight.is_contiguous() != rung.channels_last
        assert run.config.precision == rung.precision
        mode = "reduce-overhead" if rung.graphs else None
        assert compiled == [mode, mode] * rung.compiled  # the network and the target network
        assert len(marks) == rung.graphs
        compiled.clear()


def test_a_rung_that_does_other_work_is_seen():
    from gpu_steps import described

    row = {"images_per_second": 1.0, "share_of_peak": None, "peak": "bfloat16", "warm_up_seconds": 0.0}
    assert "otherwise" in described("+ CUDA graphs", row | {"moved_otherwise": 0.9})
    assert "otherwise" not in described("+ CUDA graphs", row | {"moved_otherwise": 0.1})
    assert "2 parts without a CUDA graph" in described("+ CUDA graphs", row | {"without_cuda_graph": 2})


def test_flops_are_those_of_the_products():
    from gpu_sheet import forward_flops
    from step import config_of

    assert forward_flops(config_of(8), 32) == pytest.approx(2 * 0.5554e9, rel=1e-3)  # ResNet-18 on CIFAR: 0.56 GMAC


def test_peaks_augmentation_clustering_and_embedding(sheet):
    from gpu_parts import augmentation, clustering, embedding_rates, peaks

    before = torch.get_float32_matmul_precision()
    peaks(sheet)
    assert torch.get_float32_matmul_precision() == before
    assert all(rate > 0 for rate in found(sheet).values())
    augmentation(sheet)
    assert [case["side"] for case in found(sheet)["cases"] if case["by"] == "shoal"] == [8, 32]
    clustering(sheet, sheet.sizes.clustered, ("clustered",))
    (case,) = found(sheet)["cases"]
    assert case["share_of_peak"] == pytest.approx(2 * 400 * 8 * 3 * case["updates"] / case["seconds"] / 1e10)
    embedding_rates(replace(sheet, peaks={}))
    assert found(sheet)["batches"].keys() == {"64", "128"}
    assert found(sheet)["batches"]["64"]["share_of_peak"] is None
    assert found(sheet)["e_step_seconds"] > 0


def test_a_batch_is_as_large_as_asked(sheet, monkeypatch):
    import gpu_parts
    from shoal.methods.base import Method

    seen = []
    monkeypatch.setattr(Method, "embed", lambda _, images: seen.append(len(images)) or images.flatten(1)[:, :2])
    monkeypatch.setattr(gpu_parts, "e_step", lambda *_: None)
    gpu_parts.embedding_rates(replace(sheet, sizes=replace(sheet.sizes, embedding=(128,))))
    assert set(seen[1:]) == {128, 72}  # the first is the run's own, to see whether the backbone takes the images


@pytest.fixture
def parent(tmp_path, monkeypatch):
    """A parent whose parts are small programs."""
    import gpu

    class Small(gpu.Parent):
        program = ""

        def command(self, name):
            write = (
                f"from pathlib import Path; part = Path({str(tmp_path)!r}, '{name}.json'); new = Path(f'{{part}}.new');"
            )
            write += "new.write_text('[1]'); new.rename(part);"
            return [sys.executable, "-c", f"{write} import time, os, sys; {self.program}"]

    monkeypatch.setattr(gpu, "PATIENCE", 0.1)
    return Small(tmp_path, 60, False, tmp_path / "out")


def kept(parent):
    return json.loads((parent._out / "gpu_cpu.json").read_text())


@pytest.mark.parametrize(
    ("program", "status"),
    [
        ("pass", "done"),
        ("os.kill(os.getpid(), 9)", "failed: ended by signal 9"),
        ("part.with_name('peaks.failed').write_text('Error: why'); sys.exit(1)", "failed: Error: why"),
        ("sys.exit(1)", "failed: see above"),
    ],
)
def test_what_a_part_has_found_is_kept_however_it_ends(parent, program, status):
    parent.program = program
    parent.part("peaks")
    assert kept(parent)["status"]["peaks"].startswith(status)
    assert kept(parent)["parts"] == {"peaks": [1]}


@pytest.mark.slow
def test_a_part_that_hangs_is_cut_off(parent, monkeypatch):
    import gpu

    parent.program = "time.sleep(60)"
    parent._ends_at -= 56
    monkeypatch.setitem(gpu.PARTS, "peaks", replace(gpu.PARTS["peaks"], least=0))
    parent.part("peaks", last=True)
    assert kept(parent)["status"]["peaks"].startswith("cut off at the time limit")
    assert kept(parent)["parts"] == {"peaks": [1]}


def test_a_part_that_no_longer_fits_is_skipped(parent):
    parent._ends_at -= 55
    parent.part("resnet34")
    assert kept(parent)["status"]["resnet34"].startswith("skipped: 5 s are left")
    assert kept(parent)["parts"] == {}


def test_a_part_fails_with_its_reason(tmp_path, monkeypatch):
    import gpu

    def fails(_sheet):
        raise RuntimeError("no\nluck")

    monkeypatch.setitem(gpu.PARTS, "augment", replace(gpu.PARTS["augment"], measure=fails))
    with pytest.raises(RuntimeError):
        gpu.run_part("augment", tmp_path, gpu.TINY)
    assert (tmp_path / "augment.failed").read_text() == "RuntimeError: no luck"
