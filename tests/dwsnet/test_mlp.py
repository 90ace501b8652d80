"""Equivariant layers as one step of autograd, with activations that are kept and that are computed again."""

import pytest
import torch

from dwsnet import EquivariantMLP, WeightSpace
from dwsnet.testing import assert_equivariant, equivariance_error, random_features

SPACES = [WeightSpace.mlp((2, 9, 17, 5, 1)), WeightSpace.cnn(2, (5, 4), 3, 7)]


def in_a_row(net: EquivariantMLP):
    def call(features):
        for layer in net.layers:
            features = layer(features)
        return features

    return call


def outputs_and_gradients(call, net, features):
    outputs = call(features)
    generator = torch.Generator().manual_seed(1)
    cotangents = [torch.randn(y.shape, generator=generator, dtype=y.dtype) for y in outputs]
    wanted = [x for x in (*features, *net.parameters()) if x.requires_grad]
    return [*outputs, *torch.autograd.grad(outputs, wanted, cotangents)]


@pytest.mark.parametrize("space", SPACES, ids=["mlp", "cnn"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("input_wanted", [True, False])
@pytest.mark.parametrize("members_at_once", [0, 1, 3, 20])
def test_it_is_its_layers_in_a_row(space, dtype, input_wanted, members_at_once):
    net = EquivariantMLP(space, 16, 32, 3, members_at_once).to(dtype)
    features = [
        x.to(dtype).requires_grad_(input_wanted)
        for x in random_features(space, 7, 16, torch.Generator())
    ]
    expected = outputs_and_gradients(in_a_row(net), net, features)
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    for one, other in zip(outputs_and_gradients(net, net, features), expected, strict=True):
        torch.testing.assert_close(
            one, other, rtol=tolerance, atol=tolerance * max(1, other.abs().max().item())
        )


@pytest.mark.parametrize("space", SPACES, ids=["mlp", "cnn"])
def test_it_respects_the_symmetry_in_float64(space):
    net = EquivariantMLP(space, 2, 3, 2, members_at_once=2).double()
    assert_equivariant(space, net, 2)
    assert (
        equivariance_error(
            space,
            lambda x: [y * torch.arange(float(y[0].numel())).view(y[0].shape) for y in net(x)],
            2,
        )
        > 1e-3
    )


def numbers_kept(net: EquivariantMLP, features) -> int:
    """Numbers that are saved for the backward pass, apart from the parameters."""
    saved: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x) or x, lambda x: x):
        net(features)
    return sum(x.numel() for x in saved) - sum(
        x.numel() for layer in net.layers for x in layer.tensors()
    )


def test_what_is_computed_again_is_not_kept():
    features = [x.float() for x in random_features(SPACES[0], 8, 16, torch.Generator())]
    inputs = sum(x.numel() for x in features)
    assert numbers_kept(EquivariantMLP(SPACES[0], 16, 32, 4, members_at_once=2), features) == inputs
    assert (
        numbers_kept(EquivariantMLP(SPACES[0], 16, 32, 4), features) >= inputs + 4 * 2 * inputs
    )  # twice as many channels


def test_gradients_of_a_sum_are_the_same_for_any_number_of_members_at_once():
    gradients = []
    for members_at_once in (1, 4, 0):
        torch.manual_seed(0)
        net = EquivariantMLP(SPACES[0], 1, 3, 2, members_at_once).double()
        outputs = net(random_features(SPACES[0], 6, 1, torch.Generator().manual_seed(0)))
        sum(y.square().sum() for y in outputs).backward()
        gradients.append([parameter.grad for parameter in net.parameters()])
    for found in gradients[:2]:
        for one, other in zip(found, gradients[2], strict=True):
            torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.usefixtures("unchecked")
def test_it_compiles_without_graph_breaks():
    torch.manual_seed(0)
    net = EquivariantMLP(SPACES[1], 16, 16, 2, members_at_once=2)
    features = [x.float() for x in random_features(SPACES[1], 5, 16, torch.Generator())]
    expected = outputs_and_gradients(net, net, features)
    found = outputs_and_gradients(
        torch.compile(net, fullgraph=True, backend="aot_eager"), net, features
    )
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("count", [-1, 2.5])
def test_members_at_once_are_counted(count):
    with pytest.raises(ValueError, match="members_at_once must be a whole number of at least 1"):
        EquivariantMLP(SPACES[0], 1, 1, 1, count)
