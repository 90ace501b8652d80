"""The compiled fit against the eager one and torch's Adam for all shapes; build and fallback."""

import logging
import math
import multiprocessing
import threading
import time

import numpy as np
import pytest
import torch

from dwsnet.compiled import load_library
from dwsnet.state import unpack
from dwsnet.weight_space import WeightSpace
from pipeline.config import FitConfig, SirenConfig
from pipeline.fit import adam, kernel
from pipeline.fit.adam import Fit, fit
from pipeline.fit.inr import init_rows, inr_space
from pipeline.fit.seeds import member_keys
from pipeline.signals import coordinates
from tests.rendering import render

compiled = pytest.mark.skipif(kernel.load_kernel() is None, reason="no C++ compiler here")

CASES = {
    "the usual net": ((32, 32), (28, 28), 1),
    "one hidden layer, a wave": ((33,), (50,), 1),
    "narrow, colour": ((7, 5), (4, 6), 3),
    "deep, a volume": ((16, 20, 33), (4, 5, 7), 2),
    "wide, many outputs": ((70, 130), (9, 9), 18),
    "one neuron": ((1,), (3,), 1),
}


def problem(hidden: tuple[int, ...], grid: tuple[int, ...], channels: int, members: int = 3, **inr):
    config = SirenConfig(hidden=hidden, **inr)
    generator = torch.Generator().manual_seed(0)
    points = torch.from_numpy(coordinates(grid))
    keys = member_keys(3, np.arange(members), np.zeros(members, int))
    return (
        inr_space(config, len(grid), channels),
        config,
        keys,
        points,
        torch.rand(members, channels, len(points), generator=generator),
    )


def fit_eagerly(monkeypatch, space: WeightSpace, inr: SirenConfig, config: FitConfig, *rest) -> Fit:
    with monkeypatch.context() as patch:
        patch.setattr(adam, "load_kernel", lambda: None)
        return fit(space, inr, config, *rest)


def smooth(points: torch.Tensor, count: int) -> torch.Tensor:
    """`(count, 1, points)`: pictures of increasing difficulty."""
    return torch.stack(
        [0.5 + 0.4 * torch.sin(k * points.sum(1)) for k in range(1, count + 1)]
    ).unsqueeze(1)


@compiled
@pytest.mark.parametrize(("init", "schedule"), [("dws", "constant"), ("siren", "cosine")])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_kernel_takes_the_steps_of_the_eager_fit(monkeypatch, case, init, schedule):
    space, inr, *rest = problem(*case, init=init)
    config = FitConfig(max_steps=20, learning_rate=1e-3, schedule=schedule)
    fast, eager = (
        fit(space, inr, config, *rest),
        fit_eagerly(monkeypatch, space, inr, config, *rest),
    )
    moved = (eager.rows - init_rows(space, inr, rest[0])).abs().max()
    assert moved > 5e-3
    assert (fast.rows - eager.rows).abs().max() < 1e-3 * moved
    assert fast.steps.tolist() == eager.steps.tolist() == [20, 20, 20]
    np.testing.assert_allclose(fast.psnr, eager.psnr, atol=1e-3)


@compiled
@pytest.mark.parametrize("schedule", ["constant", "cosine"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_kernel_is_torchs_adam_in_double_precision(case, schedule):
    space, inr, keys, points, targets = problem(*case)
    fitted = fit(
        space,
        inr,
        FitConfig(max_steps=10, learning_rate=1e-3, schedule=schedule),
        keys,
        points,
        targets,
    )
    row = init_rows(space, inr, keys).double().requires_grad_()
    optimizer = torch.optim.Adam([row], lr=1e-3)
    scheduler = (
        torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=10)
        if schedule == "cosine"
        else None
    )
    for _ in range(10):
        optimizer.zero_grad()
        (render(unpack(space, row), inr, points.double()) - targets).square().mean(
            (1, 2)
        ).sum().backward()
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
    assert (fitted.rows - row.detach()).abs().max() < 1e-5


@compiled
def test_members_stop_at_the_steps_of_the_eager_fit(monkeypatch):
    space, inr, keys, points, _ = problem((32, 32), (12, 12), 1, members=4)
    config = FitConfig(max_steps=120, target_psnr=30.0, learning_rate=1e-3)
    rest = keys, points, smooth(points, 4)
    fast, eager = (
        fit(space, inr, config, *rest),
        fit_eagerly(monkeypatch, space, inr, config, *rest),
    )
    assert fast.steps.tolist() == eager.steps.tolist()
    assert fast.stop_reason.tolist() == eager.stop_reason.tolist()
    assert set(fast.stop_reason) == {"target", "max_steps"}
    assert len(set(fast.steps.tolist())) > 2


@compiled
def test_a_member_that_starts_at_its_target_takes_no_step():
    space, inr, keys, points, _ = problem((7, 5), (6, 6), 1)
    start = render(unpack(space, init_rows(space, inr, keys)), inr, points)
    fitted = fit(space, inr, FitConfig(max_steps=9, target_psnr=60.0), keys, points, start)
    assert fitted.steps.tolist() == [0, 0, 0]
    assert set(fitted.stop_reason) == {"target"}
    assert torch.equal(fitted.rows, init_rows(space, inr, keys))


@compiled
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_one_bad_value_fails_its_member_alone(monkeypatch, value):
    space, inr, keys, points, targets = problem((7, 5), (5, 5), 1)
    config = FitConfig(max_steps=30, target_psnr=20.0)
    good = fit(space, inr, config, keys, points, targets)
    targets[1, 0, 3] = value
    fitted = fit(space, inr, config, keys, points, targets)
    assert fitted.stop_reason[1] == "diverged"
    assert (
        fitted.steps[1]
        == fit_eagerly(monkeypatch, space, inr, config, keys, points, targets).steps[1]
        == 30
    )
    assert torch.equal(fitted.rows[[0, 2]], good.rows[[0, 2]])


@compiled
def test_a_member_is_the_same_to_the_bit_in_any_company():
    space, inr, keys, points, targets = problem((20, 33), (7, 9), 3, members=5)
    config = FitConfig(max_steps=50, target_psnr=25.0)
    together = fit(space, inr, config, keys, points, targets)
    again = fit(space, inr, config, keys, points, targets)
    alone = fit(space, inr, config, keys[3:4], points, targets[3:4])
    assert torch.equal(together.rows, again.rows)
    assert torch.equal(together.rows[3:4], alone.rows)
    assert together.psnr[3] == pytest.approx(alone.psnr[0], abs=1e-4)


@compiled
@pytest.mark.parametrize("omega", [1.0, 30.0, 5000.0])
def test_sines_and_cosines_are_right_far_from_zero(omega):
    """One point, one neuron per phase: gradients are sines and cosines of exact floats."""
    phase = np.arange(-2048, 2049) / 1024
    width = len(phase)
    row = torch.cat(
        [
            torch.from_numpy(phase).float(),
            torch.zeros(width),
            torch.full((width,), 1 / 64),
            torch.zeros(1),
        ]
    )
    # So large an epsilon makes Adam's first step the gradient itself.
    plain = dict(target_psnr=None, check_every=10, betas=(0.9, 0.999), epsilon=1e20)
    one, rates = torch.ones(1, 1), torch.tensor([1e20], dtype=torch.float64)
    steps = torch.zeros(1, dtype=torch.int64)
    kernel.load_kernel().fit_members(
        (1, width, 1), one, -0.5 * one[None], row[None], steps, omega=omega, rates=rates, **plain
    )
    _, bias, weight, last = (part.double().numpy() for part in row.split([width, width, width, 1]))
    np.testing.assert_allclose((1 / 64 - weight) / -last, np.sin(omega * phase), rtol=0, atol=5e-7)
    np.testing.assert_allclose(bias / last / (omega / 64), np.cos(omega * phase), rtol=0, atol=5e-7)


def test_without_a_compiler_pytorch_takes_over_and_says_so_once(monkeypatch, tmp_path, caplog):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(kernel, "load_library", kernel.cache(load_library.__wrapped__))
    monkeypatch.setattr(adam, "load_kernel", cache := kernel.cache(kernel.load_kernel.__wrapped__))
    space, inr, *rest = problem((7, 5), (4, 6), 3)
    with caplog.at_level(logging.WARNING):
        fitted = [fit(space, inr, FitConfig(max_steps=3), *rest) for _ in range(2)]
    assert cache() is None
    assert fitted[0].steps.tolist() == [3, 3, 3]
    (record,) = caplog.records
    assert "none of c++, g++, clang++ is on the PATH" in record.message
    assert "apt install g++" in record.message
    assert not list(tmp_path.iterdir())


@compiled
def test_a_compiler_that_fails_is_quoted(monkeypatch, tmp_path, caplog):
    broken = tmp_path / "broken.cpp"
    broken.write_text("int main() { return nothing_of_that_name; }")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert load_library(broken, "Nothing runs") is None
    assert "Nothing runs" in caplog.text
    assert "nothing_of_that_name" in caplog.text
    assert not list((tmp_path / "cache").rglob("*.so"))


@compiled
def test_processes_that_build_at_once_end_with_one_library(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    context = multiprocessing.get_context("spawn")
    builders = [context.Process(target=kernel.load_kernel) for _ in range(2)]
    for builder in builders:
        builder.start()
    for builder in builders:
        builder.join()
    assert [builder.exitcode for builder in builders] == [0, 0]
    (library,) = (tmp_path / "dwszoo").iterdir()
    before = library.stat().st_mtime_ns
    assert load_library.__wrapped__(kernel.SOURCE, "") is not None
    assert library.stat().st_mtime_ns == before


@compiled
def test_other_threads_run_during_a_fit():
    space, inr, *rest = problem((32, 32), (28, 28), 1, members=1)
    worker = threading.Thread(target=fit, args=(space, inr, FitConfig(max_steps=8000), *rest))
    worker.start()
    longest, last = 0.0, time.perf_counter()
    while worker.is_alive():
        time.sleep(0.005)
        now = time.perf_counter()
        longest, last = max(longest, now - last), now
    assert longest < 0.2


@compiled
def test_strides_do_not_matter():
    space, inr, keys, points, targets = problem((7, 5), (4, 6), 3)
    channels_last, by_axis = (tensor.mT.contiguous().mT for tensor in (targets, points))
    assert not channels_last[0].is_contiguous()
    config = FitConfig(max_steps=5)
    strided = fit(space, inr, config, keys, by_axis, channels_last)
    assert torch.equal(strided.rows, fit(space, inr, config, keys, points, targets).rows)


@compiled
def test_tensors_the_kernel_cannot_read_are_refused():
    space, inr, keys, points, targets = problem((7, 5), (4, 6), 3)
    with pytest.raises(ValueError, match="float32"):
        fit(space, inr, FitConfig(max_steps=1), keys, points.double(), targets)
