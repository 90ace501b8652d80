"""The GPU kernel without a GPU: interpreted, compiled for one, and the fallback without Triton.

They need Triton (`pip install triton`; CUDA builds of torch bring it), and no GPU.
"""

import importlib.util
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from flows.recipes import smoke
from flows.stages import build
from pipeline.config import FitConfig, ResourcesConfig, SirenConfig
from pipeline.errors import InputError, WorkError
from pipeline.fit import adam, gpu
from pipeline.fit.inr import inr_space
from pipeline.progress import no_progress

has_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="no Triton here: `pip install triton`"
)
HOPPER = 232_448
"""Bytes of shared memory that a program can have on an H100 or H200."""


@has_triton
def test_it_fits_in_the_interpreter():
    """In another process: Triton decides once, when it is imported, whether it interprets."""
    cases = Path(__file__).with_name("interpreted_triton.py")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(cases)]
    run = subprocess.run(
        command, env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stdout
    assert " passed" in run.stdout


@has_triton
@pytest.mark.parametrize("sizes", [(2, 32, 32, 1), (3, 24, 7, 3)])
def test_it_compiles_for_hopper_within_its_registers_and_its_bound_of_shared_memory(
    monkeypatch, tmp_path, sizes
):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    from pipeline.fit import triton_kernel

    compiled = compile_kernel(triton_kernel, sizes)
    assert "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32" in compiled.asm["ptx"]
    assert {"sin.approx.ftz.f32", "cos.approx.ftz.f32"} <= set(compiled.asm["ptx"].split())
    assert "STL" not in compiled.asm["sass"], "registers were spilled"
    assert "HMMA" in compiled.asm["sass"]
    assert compiled.metadata.shared <= triton_kernel.shared_bytes(sizes) <= HOPPER


def compile_kernel(module, sizes: tuple[int, ...]):
    """The kernel for nets of these sizes, compiled for sm_90."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    constants = module.constants(sizes) | {
        "CHECK_EVERY": 10,
        "BETA1": 0.9,
        "BETA2": 0.999,
        "EPSILON": 1e-8,
    }
    types = {
        "active": "*i64",
        "steps": "*i64",
        "end": "i32",
        "num_points": "i32",
        "threshold": "fp32",
        "omega": "fp32",
    }
    signature = {
        name: "constexpr" if name in constants else types.get(name, "*fp32")
        for name in module._fit.arg_names
    }
    return compile(
        ASTSource(module._fit, signature, constants),
        GPUTarget("cuda", 90, 32),
        module.options(sizes),
    )


@has_triton
@pytest.mark.parametrize(
    ("sizes", "gpu", "words"),
    [
        ((2, 32, 32, 1), (90, HOPPER), None),
        ((2, 128, 128, 3), (90, HOPPER), None),
        (
            (2, 128, 128, 3),
            (89, 101_376),
            "2-128-128-3 needs 163,840 bytes of shared memory, and this GPU has 101,376",
        ),
        ((2, 256, 256, 3), (90, HOPPER), "up to 128 neurons"),
        ((2, 32, 32, 18), (90, HOPPER), "up to 8 outputs, the net is 2-32-32-18"),
        ((2, 32, 32, 1), (75, HOPPER), "from Ampere on"),
    ],
)
def test_which_nets_have_a_kernel_on_which_gpu(sizes, gpu, words):
    from pipeline.fit import triton_kernel

    reason = triton_kernel.why_not(sizes, *gpu)
    assert reason is None if words is None else words in reason


def test_a_net_without_a_kernel_is_fitted_by_pytorch_which_is_said_once(monkeypatch, caplog):
    monkeypatch.setattr(gpu, "load_gpu_kernel", gpu.cache(gpu.load_gpu_kernel.__wrapped__))
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delitem(sys.modules, "pipeline.fit.triton_kernel", raising=False)
    monkeypatch.delattr("pipeline.fit.triton_kernel", raising=False)
    with caplog.at_level(logging.WARNING):
        assert [gpu.load_gpu_kernel((2, 32, 32, 1)) for _ in range(2)] == [None, None]
    (record,) = caplog.records
    assert "batched PyTorch" in record.message
    assert "comes with CUDA builds of torch" in record.message


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_workers_get_their_part_of_a_gpu_and_say_what_to_do_where_pytorch_cannot_see_it(
    monkeypatch, tmp_path
):
    asked = []

    def run_here(function, shards, shared, *resources, **options):
        asked.append(resources[:2])
        with pytest.raises(InputError, match="go without --num-gpus") as refused:
            function(*shared, shards[0], advance=no_progress, **options)
        return ((shard, refused.value) for shard in shards)

    monkeypatch.setattr("flows.stages.build.run_tasks", run_here)
    plan = build.plan(smoke().zoo, tmp_path)
    with pytest.raises(InputError, match="go without --num-gpus"):
        build.fit_zoo(plan, tmp_path, ResourcesConfig(workers=4, gpus_per_worker=0.25))
    assert asked == []
    monkeypatch.setenv("RAY_ADDRESS", "a cluster whose machines may have GPUs")
    with pytest.raises(
        WorkError, match=r"could not be fitted and 0 are committed.*go without --num-gpus"
    ):
        build.fit_zoo(plan, tmp_path, ResourcesConfig(workers=4, gpus_per_worker=0.25))
    assert asked == [(4, 0.25)]


def test_no_tensor_of_the_eager_fit_is_left_on_the_cpu(monkeypatch):
    """Meta tensors replace those of a GPU: torch refuses to mix them with a CPU's."""
    monkeypatch.setitem(adam.CHUNK, "meta", 2)
    inr = SirenConfig(hidden=(5, 4))
    space = inr_space(inr, 2, 3)
    rows, steps = (
        torch.empty(3, 5 * 3 + 4 * 6 + 3 * 5, device="meta"),
        torch.zeros(3, dtype=torch.int64, device="meta"),
    )
    points, targets = torch.empty(6, 2, device="meta"), torch.empty(3, 3, 6, device="meta")
    adam._fit_eagerly(space, inr, FitConfig(max_steps=3), rows, steps, points, targets, no_progress)
    with pytest.raises(RuntimeError, match="device"):
        adam._fit_eagerly(
            space, inr, FitConfig(max_steps=3), rows, steps, torch.empty(6, 2), targets, no_progress
        )
