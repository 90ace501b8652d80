"""The batched fit against autograd and torch's Adam, its stop rule, its independence of batches."""

import numpy as np
import pytest
import torch
from torch import nn

from dwsnet.state import unpack, write_state
from dwsnet.symmetry import canonical_signs, permute, random_permutation
from dwsnet.weight_space import WeightSpace
from pipeline.config import FitConfig, SignalsConfig, SirenConfig, ZooConfig
from pipeline.decode import coordinates_of
from pipeline.fit import adam
from pipeline.fit.adam import fit, gradients
from pipeline.fit.inr import decode_contract, init_rows, inr_space, psnr
from pipeline.fit.seeds import member_keys, uniform
from pipeline.signals import coordinates, load_signals
from pipeline.zoos.inrs import Inrs
from tests.rendering import render

pytestmark = pytest.mark.fast

INR = SirenConfig(hidden=(7, 5))
SPACE = inr_space(INR, 2, 3)
GRID = torch.from_numpy(coordinates((4, 6)))


def keys(count: int) -> np.ndarray:
    return member_keys(3, np.arange(count), np.zeros(count, int))


def targets(count: int) -> torch.Tensor:
    return torch.rand(count, 3, len(GRID), generator=torch.Generator().manual_seed(0))


def test_gradients_are_those_of_autograd():
    rows = init_rows(SPACE, INR, keys(4)).double().requires_grad_()
    wanted = targets(4).double()
    error = (render(unpack(SPACE, rows), INR, GRID.double()) - wanted).square().mean((1, 2))
    error.sum().backward()
    gradient, own_error = gradients(
        SPACE, INR, rows.detach(), GRID.double(), wanted - INR.output_offset
    )
    assert torch.allclose(gradient, rows.grad, rtol=1e-9, atol=1e-12)
    assert torch.allclose(own_error, error.detach(), rtol=1e-9)


def test_the_fit_is_torchs_adam_one_network_at_a_time():
    config = FitConfig(max_steps=25, learning_rate=2e-3)
    fitted = fit(SPACE, INR, config, keys(3), GRID, targets(3))
    for member in range(3):
        row = init_rows(SPACE, INR, keys(3))[member : member + 1].requires_grad_()
        optimizer = torch.optim.Adam([row], lr=config.learning_rate)
        for _ in range(config.max_steps):
            optimizer.zero_grad()
            (
                render(unpack(SPACE, row), INR, GRID) - targets(3)[member : member + 1]
            ).square().mean().backward()
            optimizer.step()
        assert torch.allclose(fitted.rows[member], row.detach()[0], rtol=1e-3, atol=1e-5)
    assert fitted.steps.tolist() == [25, 25, 25]


class Sine(nn.Module):
    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return torch.sin(30 * values)


def test_scaled_outputs_are_fitted_to_the_signal_as_it_is_before_it_is_scaled():
    """Waves of amplitude up to 10 on [-pi, pi] as signals in [0, 1]: the INR returns the wave."""
    inr = SirenConfig(hidden=(7, 5), output_scale=0.05, coordinate_range=(-np.pi, np.pi))
    space, points = inr_space(inr, 1, 1), coordinates_of(decode_contract(inr, 1), (40,))
    assert points[[0, -1], 0].tolist() == pytest.approx([-np.pi, np.pi])
    wave = torch.tensor([[2.0], [6.0], [10.0]]) * torch.sin(2 * points.T)  # (members, points)
    signals = (0.5 + wave / 20).unsqueeze(1)
    config = FitConfig(max_steps=25, learning_rate=2e-3)
    fitted = fit(space, inr, config, keys(3), points, signals)
    for state, row, target in zip(unpack_each(space, keys(3), inr), fitted.rows, wave, strict=True):
        net = nn.Sequential(nn.Linear(1, 7), Sine(), nn.Linear(7, 5), Sine(), nn.Linear(5, 1))
        net.load_state_dict(dict(zip(net.state_dict(), state, strict=True)))
        optimizer = torch.optim.Adam(net.parameters(), lr=config.learning_rate)
        for _ in range(config.max_steps):
            optimizer.zero_grad()
            (net(points)[:, 0] - target).square().mean().backward()
            optimizer.step()
        own = torch.cat([parameter.detach().flatten() for parameter in net.parameters()])
        torch.testing.assert_close(row, own, rtol=1e-3, atol=1e-4)


def unpack_each(space: WeightSpace, keys: np.ndarray, inr: SirenConfig) -> list[list[torch.Tensor]]:
    """Initial tensors of each member."""
    tensors = unpack(space, init_rows(space, inr, keys)).values()
    return [list(member) for member in zip(*tensors, strict=True)]


@pytest.mark.parametrize("is_compiled", [True, False])
def test_the_target_is_of_the_signal_whatever_scale_the_outputs_have(monkeypatch, is_compiled):
    if not is_compiled:
        monkeypatch.setattr(adam, "load_kernel", lambda: None)
    inr = SirenConfig(hidden=(16, 16), output_scale=0.05)
    space, points = inr_space(inr, 1, 1), torch.from_numpy(coordinates((30,)))
    signals = (0.5 + torch.tensor([[0.1], [0.4]]) * torch.sin(3 * points.T)).unsqueeze(1)
    config = FitConfig(max_steps=900, target_psnr=35.0)
    fitted = fit(space, inr, config, keys(2), points, signals)
    assert set(fitted.stop_reason) == {"target"}
    rendered = render(unpack(space, fitted.rows), inr, points)
    np.testing.assert_allclose(psnr(rendered, signals), fitted.psnr, atol=1e-3)
    assert (fitted.psnr >= 34.99).all()
    for member, steps in enumerate(fitted.steps.tolist()):  # and not a look earlier
        before = FitConfig(max_steps=steps - adam.CHECK_EVERY)
        one = slice(member, member + 1)
        assert fit(space, inr, before, keys(2)[one], points, signals[one]).psnr < 35


def test_each_member_stops_at_its_own_target_and_its_psnr_is_that_of_the_stored_weights():
    smooth = (
        torch.stack([0.5 + slope * GRID[:, 0] for slope in (0.0, 0.1, 0.4)])[:, None]
        .expand(-1, 3, -1)
        .contiguous()
    )
    config = FitConfig(max_steps=400, target_psnr=35.0)
    fitted = fit(SPACE, INR, config, keys(3), GRID, smooth)
    assert len(set(fitted.steps.tolist())) == 3
    assert set(fitted.stop_reason) == {"target"}
    assert (fitted.steps < 400).all()
    again = psnr(render(unpack(SPACE, fitted.rows), INR, GRID), smooth)
    np.testing.assert_allclose(fitted.psnr, again.numpy(), rtol=1e-5)
    assert (fitted.psnr >= 35).all()


def test_a_member_that_never_reaches_the_target_stops_at_the_cap():
    noise = targets(1).round()
    fitted = fit(SPACE, INR, FitConfig(max_steps=15, target_psnr=90.0), keys(1), GRID, noise)
    assert fitted.stop_reason.tolist() == ["max_steps"]
    assert fitted.steps.tolist() == [15]


def test_a_fit_that_blows_up_is_told_from_the_others():
    wanted = targets(3)
    wanted[1] = float("nan")
    fitted = fit(SPACE, INR, FitConfig(max_steps=5), keys(3), GRID, wanted)
    assert fitted.stop_reason.tolist() == ["max_steps", "diverged", "max_steps"]
    assert fitted.rows[[0, 2]].isfinite().all()


def test_a_member_does_not_depend_on_its_neighbours():
    config = FitConfig(max_steps=40, target_psnr=30.0)
    together = fit(SPACE, INR, config, keys(6), GRID, targets(6))
    alone = fit(SPACE, INR, config, keys(6)[2:3], GRID, targets(6)[2:3])
    assert torch.allclose(together.rows[2], alone.rows[0], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("init", ["dws", "siren"])
def test_initial_values_have_the_bounds_of_their_preset(init):
    inr = SirenConfig(hidden=(32, 32), init=init)
    space = inr_space(inr, 2, 1)
    tensors = unpack(space, init_rows(space, inr, keys(400)))
    first = (6 / 2) ** 0.5 / 30 if init == "dws" else 1 / 2
    bounds = {
        "layers.0.weight": first,
        "layers.1.weight": (6 / 32) ** 0.5 / 30,
        "layers.2.weight": 32**-0.5,
    }
    for name, bound in bounds.items():
        assert tensors[name].abs().max() <= bound
        assert tensors[name].std() == pytest.approx(bound / 3**0.5, rel=0.02)
    assert (tensors["layers.0.bias"].abs().max() == 0) == (init == "dws")


def test_random_numbers_belong_to_zoo_seed_source_and_view():
    some = member_keys(0, np.array([4, 5, 4]), np.array([0, 0, 1]))
    assert len(np.unique(np.concatenate([some, member_keys(1, np.array([4]), np.array([0]))]))) == 4
    assert member_keys(0, np.array([4]), np.array([1]))[0] == some[2]
    values = uniform(member_keys(0, np.arange(2000), np.zeros(2000, int)), 50)
    assert values.min() >= -1
    assert values.max() < 1
    assert abs(values.mean()) < 0.01
    assert values.std() == pytest.approx(3**-0.5, rel=0.01)
    assert abs(np.corrcoef(values[:, 0], values[:, 1])[0, 1]) < 0.1
    assert abs(np.corrcoef(values[:-1, 0], values[1:, 0])[0, 1]) < 0.1


@pytest.mark.parametrize("move", ["permutation", "signs"])
def test_symmetries_leave_the_picture_as_it_is(move):
    tensors = [*unpack(SPACE, init_rows(SPACE, INR, keys(4)).double() + 0.01).values()]
    generator = torch.Generator().manual_seed(0)
    if move == "permutation":
        moved = permute(SPACE, tensors, random_permutation(SPACE, generator))
    else:
        tensors[1].add_(torch.randn(tensors[1].shape, generator=generator))
        moved = canonical_signs(SPACE, tensors)
        assert (moved[1] >= 0).all()
        assert (moved[3] >= 0).all()
    assert not torch.equal(moved[0], tensors[0])
    assert torch.allclose(
        render(write_state(SPACE, moved), INR, GRID.double()),
        render(write_state(SPACE, tensors), INR, GRID.double()),
        atol=1e-12,
    )


@pytest.mark.parametrize("budget", [1e9, 0.1])
def test_the_time_of_a_fit_is_forecast_from_a_part_of_it(monkeypatch, budget):
    """Each step of a member takes a hundredth of a second."""
    config = ZooConfig(
        signals=SignalsConfig(limit=200), fit=FitConfig(max_steps=64), shard_size=100
    )
    kind, tried = Inrs(config, load_signals(config.signals)), []

    def seconds(self, shard, members, steps, device):
        tried.append((min(members, len(shard.view)), steps))
        return 0.01 * min(members, len(shard.view)) * steps

    monkeypatch.setattr(Inrs, "_seconds", seconds)
    shards = kind.plan_shards()
    assert kind.fit_seconds(shards, "cpu", budget) == pytest.approx(0.01 * 200 * 64)
    largest = max(len(shard.view) for shard in shards)
    assert tried[-1] == ((largest, 64) if budget > 1 else (8, 1))
    assert kind.fit_seconds(shards[1:], "cpu", budget) == pytest.approx(
        0.01 * 64 * sum(len(shard.view) for shard in shards[1:])
    )
