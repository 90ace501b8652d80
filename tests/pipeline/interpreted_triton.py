"""The GPU kernel in Triton's interpreter, on a CPU with the rounding of TF32.

`test_triton_kernel.py` starts these tests. They compare the kernel with the gradient in double
precision, the eager fit and `kernel.cpp`. TF32 has 11 significant bits: a gradient through one
product between hidden layers may be off by some 2^-11 = 5e-4 of its norm, and Adam's first steps
amplify that.
"""

import math

import numpy as np
import pytest
import torch
import triton

from dwsnet.state import unpack
from pipeline.config import FitConfig, SirenConfig
from pipeline.fit import adam, triton_kernel
from pipeline.fit.inr import init_rows, inr_space
from pipeline.fit.kernel import load_kernel
from pipeline.fit.seeds import member_keys
from pipeline.signals import coordinates
from tests.rendering import render

assert triton.knobs.runtime.interpret

CASES = {
    "the demo's net": ((16, 16), (4, 5), 1),
    "unequal widths, colour": ((24, 16), (3, 7), 3),
    "one hidden layer, a wave": ((33,), (20,), 1),
    "deep and narrow, a volume": ((7, 20, 5), (4, 3, 7), 2),
    "one neuron": ((1,), (3,), 1),
}


def problem(hidden: tuple[int, ...], grid: tuple[int, ...], channels: int, members: int = 2):
    inr = SirenConfig(hidden=hidden)
    points = torch.from_numpy(coordinates(grid))
    keys = member_keys(3, np.arange(members), np.zeros(members, int))
    targets = torch.rand(members, channels, len(points), generator=torch.Generator().manual_seed(0))
    return inr_space(inr, len(grid), channels), inr, keys, points, targets


@pytest.fixture
def fit_with(monkeypatch):
    """`fit` with a kernel: 'triton', 'c++' or 'eager'."""
    kernels = {
        "triton": triton_kernel.fit_members,
        "c++": getattr(load_kernel(), "fit_members", None),
        "eager": None,
    }

    def run(name: str, space, inr, config, *rest) -> adam.Fit:
        with monkeypatch.context() as patch:
            patch.setattr(adam, "find_kernel", lambda inr, sizes, device: kernels[name])
            return adam.fit(space, inr, config, *rest)

    return run


@pytest.fixture
def launches(monkeypatch) -> list[tuple[list[int], int]]:
    """The members of each launch, and the step to which they were fitted."""
    seen, kernel = [], triton_kernel._fit

    class Recorder:
        def __getitem__(self, grid):
            def launch(active, *arguments, **constants):
                assert grid == (len(active),)
                seen.append((active.tolist(), arguments[9]))
                kernel[grid](active, *arguments, **constants)

            return launch

    monkeypatch.setattr(triton_kernel, "_fit", Recorder())
    return seen


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_gradient_is_that_of_double_precision(case):
    space, inr, keys, points, targets = problem(*case)
    rows, targets = init_rows(space, inr, keys), targets - 0.5
    wanted, _ = adam.gradients(space, inr, rows.double(), points.double(), targets.double())
    moved, steps = rows.clone(), torch.zeros(len(rows), dtype=torch.int64)
    # So large an epsilon makes Adam's first step the gradient itself, times 2^20.
    triton_kernel.fit_members(
        (points.shape[1], *inr.hidden, targets.shape[1]),
        points,
        targets,
        moved,
        steps,
        omega=inr.omega,
        rates=torch.tensor([2.0**20 * 1e20], dtype=torch.float64),
        target_psnr=None,
        check_every=10,
        betas=(0.9, 0.999),
        epsilon=1e20,
    )
    gradient = (rows - moved) / 2**20
    error = (gradient - wanted).norm(dim=1) / wanted.norm(dim=1)
    assert error.max() < (1e-3 if len(inr.hidden) > 1 else 1e-5)


@pytest.mark.parametrize(
    ("case", "schedule"),
    [*zip([*CASES.values()][:3], ["constant", "cosine", "cosine"], strict=True)],
    ids=[*CASES][:3],
)
def test_it_takes_the_steps_of_the_other_fits(fit_with, case, schedule):
    space, inr, *rest = problem(*case)
    config = FitConfig(max_steps=5, learning_rate=1e-3, schedule=schedule)
    ours, start = fit_with("triton", space, inr, config, *rest), init_rows(space, inr, rest[0])
    for name in ["eager"] + ["c++"] * (load_kernel() is not None):
        other = fit_with(name, space, inr, config, *rest)
        moved = (other.rows - start).norm()
        assert moved > 0.02
        assert (ours.rows - other.rows).norm() < (5e-3 if len(inr.hidden) > 1 else 1e-5) * moved
        assert ours.steps.tolist() == other.steps.tolist() == [5, 5]
        np.testing.assert_allclose(ours.psnr, other.psnr, atol=1e-2)


def test_members_stop_where_the_eager_fit_stops_them_and_leave_the_launches(
    fit_with, launches, monkeypatch
):
    monkeypatch.setattr(triton_kernel, "STEPS", 12)
    space, inr, keys, points, _ = problem((16, 16), (3, 5), 1, members=4)
    targets = torch.stack(
        [0.5 + slope * points[:, 0] * points[:, 1] for slope in (0.1, 0.0, 3.0, 0.2)]
    ).unsqueeze(1)
    targets[1] = render(unpack(space, init_rows(space, inr, keys)), inr, points)[1]
    config = FitConfig(max_steps=30, target_psnr=20.0)
    ours, eager = (
        fit_with(name, space, inr, config, keys, points, targets) for name in ("triton", "eager")
    )
    assert ours.steps.tolist() == eager.steps.tolist() == [10, 0, 30, 20]
    assert (
        ours.stop_reason.tolist()
        == eager.stop_reason.tolist()
        == ["target", "target", "max_steps", "target"]
    )
    assert launches == [([0, 1, 2, 3], 12), ([2, 3], 24), ([2], 30)]


def test_launches_do_not_change_a_bit(fit_with, monkeypatch):
    space, inr, *rest = problem((16, 5), (4, 4), 1)
    config = FitConfig(max_steps=5, schedule="cosine")
    whole = fit_with("triton", space, inr, config, *rest)
    monkeypatch.setattr(triton_kernel, "STEPS", 2)
    assert torch.equal(fit_with("triton", space, inr, config, *rest).rows, whole.rows)


def test_one_bad_value_fails_its_member_alone(fit_with):
    space, inr, keys, points, targets = problem((7, 16), (3, 5), 1, members=3)
    config = FitConfig(max_steps=12, target_psnr=20.0)
    alone = fit_with("triton", space, inr, config, keys[2:], points, targets[2:])
    targets[1, 0, 3] = math.nan
    fitted = fit_with("triton", space, inr, config, keys, points, targets)
    assert fitted.stop_reason[1] == "diverged"
    assert (
        fitted.steps[1]
        == fit_with("eager", space, inr, config, keys, points, targets).steps[1]
        == 12
    )
    assert fitted.ok.tolist() == [True, False, True]
    assert torch.equal(fitted.rows[2:], alone.rows)


def test_a_member_that_starts_at_its_target_takes_no_step(fit_with, launches):
    space, inr, keys, points, _ = problem((7, 5), (6, 6), 1)
    rows = init_rows(space, inr, keys)
    targets = render(unpack(space, rows), inr, points)
    fitted = fit_with(
        "triton", space, inr, FitConfig(max_steps=900, target_psnr=60.0), keys, points, targets
    )
    assert fitted.steps.tolist() == [0, 0]
    assert torch.equal(fitted.rows, rows)
    assert launches == [([0, 1], 500)]


@pytest.mark.parametrize("omega", [1.0, 30.0, 5000.0])
def test_sines_and_cosines_are_right_far_from_zero(omega):
    """As for `kernel.cpp`: one point, one neuron per phase; gradients are sines and cosines."""
    phase = np.arange(-1024, 1024) / 512
    width = len(phase)
    row = torch.cat(
        [
            torch.from_numpy(phase).float(),
            torch.zeros(width),
            torch.full((width,), 1 / 64),
            torch.zeros(1),
        ]
    )[None]
    plain = dict(target_psnr=None, check_every=10, betas=(0.9, 0.999), epsilon=1e20, omega=omega)
    steps, rates = torch.zeros(1, dtype=torch.int64), torch.tensor([1e20], dtype=torch.float64)
    one = torch.ones(1, 1)
    triton_kernel.fit_members(
        (1, width, 1), one, -0.5 * one[None], row, steps, rates=rates, **plain
    )
    _, bias, weight, last = (
        part.double().numpy() for part in row[0].split([width, width, width, 1])
    )
    rounding = 1e-6 + 2 * omega * 2**-23
    np.testing.assert_allclose(
        (1 / 64 - weight) / -last, np.sin(omega * phase), rtol=0, atol=rounding
    )
    np.testing.assert_allclose(
        bias / last / (omega / 64), np.cos(omega * phase), rtol=0, atol=rounding
    )
