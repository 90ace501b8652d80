"""Batch norm and GELU in one operation: outputs, gradients and running statistics of PyTorch's."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dwsnet import WeightSpace, kernel, norm_gelu
from dwsnet.models import DWSNet
from dwsnet.normalize import BatchNorm

pytestmark = [
    pytest.mark.fast,
    pytest.mark.skipif(not kernel.is_there(), reason="there is no C++ compiler"),
]
SPACE = WeightSpace.mlp((2, 5, 3, 4))
EPSILON = 1e-5


def case(channels: int, batch: int = 9) -> list[list[Tensor]]:
    """Features with means far from 0, gains and shifts, which require gradients."""
    torch.manual_seed(channels)
    features = [
        torch.randn(batch, *spec.shape, channels) * 3 + 20 * torch.randn(channels)
        for spec in SPACE.tensors
    ]
    gains, shifts = ([torch.randn(channels) for _ in features] for _ in range(2))
    return [[x.requires_grad_() for x in part] for part in (features, gains, shifts)]


def gradients(outputs, parts, weights) -> list[Tensor]:
    return list(torch.autograd.grad(outputs, [x for part in parts for x in part], weights))


@pytest.mark.parametrize("channels", [16, 48])
@pytest.mark.parametrize("threads", [1, 2])
def test_it_is_what_pytorch_gives_in_double_precision(channels, threads):
    parts, before = case(channels), torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        outputs, means, variances = norm_gelu.norm_gelu(*parts, EPSILON)
        weights = [torch.randn_like(x) for x in outputs]
        found = gradients(outputs, parts, weights)
    finally:
        torch.set_num_threads(before)
    exact = [[x.detach().double().requires_grad_() for x in part] for part in parts]
    wanted = norm_gelu.plain(EPSILON, *exact[0], *exact[1], *exact[2])
    for x, y in zip(outputs, wanted, strict=True):
        assert (x - y).abs().max() < 2e-5
    back = gradients(wanted, exact, [x.double() for x in weights])
    for x, y in zip(found, back, strict=True):
        assert (x - y).norm() < 2e-5 * y.norm()
    for mean, variance, x in zip(means, variances, exact[0], strict=True):
        rows = x.detach().flatten(0, -2)
        assert torch.allclose(mean.double(), rows.mean(0), rtol=1e-6, atol=1e-6)
        assert torch.allclose(variance.double(), rows.var(0, unbiased=False), rtol=1e-5)


def test_another_activation_is_told_apart():
    parts = case(16)
    outputs, *_ = norm_gelu.norm_gelu(*parts, EPSILON)
    x, gain, shift = (part[0] for part in parts)
    z = F.batch_norm(x.flatten(0, -2), None, None, gain, shift, True).view_as(x)
    assert (outputs[0] - F.gelu(z, approximate="tanh")).abs().max() > 1e-4


def test_far_from_zero_it_is_the_identity_or_nothing():
    x = torch.tensor([[-1.0], [1.0]]).repeat(1, 16)
    gain, shift = torch.full((16,), 50.0), torch.zeros(16)
    (output,), *_ = norm_gelu.norm_gelu([x], [gain], [shift], 0.0)
    assert output[0].abs().max() == 0
    assert torch.equal(output[1], gain)


def test_it_is_differentiated_again():
    parts = case(16, batch=3)
    outputs, *_ = norm_gelu.norm_gelu(*parts, EPSILON)
    twin = norm_gelu.plain(EPSILON, *parts[0], *parts[1], *parts[2])
    second = []
    for some in (outputs, twin):
        (first,) = torch.autograd.grad(some[0].square().sum(), parts[0][0], create_graph=True)
        second.append(torch.autograd.grad(first.square().sum(), parts[0][0])[0])
    assert torch.allclose(*second, rtol=1e-3, atol=1e-5 * float(second[1].abs().max()))


def test_running_statistics_are_those_of_pytorch():
    fast, plain = BatchNorm(SPACE, 16, gelu=True), BatchNorm(SPACE, 16)
    for seed in range(3):
        features = [x.detach() + seed for x in case(16)[0]]
        outputs, wanted = fast(features), plain(features)
        assert all(
            torch.allclose(x, F.gelu(y), atol=2e-5) for x, y in zip(outputs, wanted, strict=True)
        )
    for (name, x), y in zip(fast.state_dict().items(), plain.state_dict().values(), strict=True):
        assert torch.allclose(x, y, rtol=1e-5, atol=1e-5), name
    assert all(
        torch.allclose(x, F.gelu(y), atol=2e-5)
        for x, y in zip(fast.eval()(features), plain.eval()(features), strict=True)
    )


def test_a_trunk_that_trains_takes_it_and_whoever_looks_into_the_norm_sees_all(monkeypatch):
    trunk = DWSNet(SPACE, 1, 16, 2, skip=True)
    watched = copy.deepcopy(trunk)
    seen = []
    watched.norms[1].norms[0].register_forward_hook(lambda *_: seen.append(1))
    features = [torch.randn(6, *spec.shape, 1) for spec in SPACE.tensors]
    calls = []
    monkeypatch.setattr(
        norm_gelu, "norm_gelu", lambda *a, f=norm_gelu.norm_gelu: calls.append(1) or f(*a)
    )
    outputs, wanted = trunk(features), watched(features)
    assert len(calls) == 3
    assert seen == [1]
    assert all(torch.allclose(x, y, atol=2e-5) for x, y in zip(outputs, wanted, strict=True))


@pytest.mark.parametrize("change", [nn.Module.double, nn.Module.eval])
def test_elsewhere_pytorch_does_it(monkeypatch, change):
    monkeypatch.setattr(norm_gelu, "norm_gelu", None)
    norm = change(BatchNorm(SPACE, 16, gelu=True))
    dtype = next(norm.parameters()).dtype
    norm([x.detach().to(dtype) for x in case(16)[0]])
