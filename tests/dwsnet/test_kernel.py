"""The compiled layers against the same layers in PyTorch, for spaces and channels of all shapes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dwsnet import EquivariantAttention, EquivariantLinear, WeightSpace, kernel, operators
from dwsnet.testing import random_features

pytestmark = pytest.mark.skipif(kernel.load_kernel() is None, reason="no C++ compiler here")

SPACES = [
    WeightSpace.mlp((2, 9, 17, 1)),
    WeightSpace.mlp((3, 33, 32, 5, 2)),
    WeightSpace.mlp((4, 70, 3)),
    WeightSpace.cnn(2, (5, 4, 3), 3, 7),
]


def outputs_and_gradients(
    layer, features: list[torch.Tensor], parameters, seed: int = 1
) -> list[torch.Tensor]:
    """Outputs of the layer, and gradients of all its inputs for a random cotangent."""
    outputs = layer(features)
    generator = torch.Generator().manual_seed(seed)
    cotangents = [torch.randn(y.shape, generator=generator) for y in outputs]
    wanted = [x for x in (*features, *parameters) if x.requires_grad]
    return [*outputs, *torch.autograd.grad(outputs, wanted, cotangents)]


def assert_the_same_without_the_kernel(
    layer, features: list[torch.Tensor], routine: str, seed: int = 1
):
    place = operators if hasattr(operators, routine) else kernel
    calls, compiled = [], getattr(place, routine)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(place, routine, lambda *inputs: calls.append(1) or compiled(*inputs))
        found = outputs_and_gradients(layer, features, layer.parameters(), seed)
    assert calls, f"{routine} was not called"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernel, "takes", lambda *features: False)
        expected = outputs_and_gradients(layer, features, layer.parameters(), seed)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(
            one, other, rtol=1e-4, atol=1e-4 * max(1, other.abs().max().item())
        )


def floats(
    space: WeightSpace, batch: int, channels: int, seed: int, grad: bool = True
) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [
        x.float().requires_grad_(grad) for x in random_features(space, batch, channels, generator)
    ]


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 99),
    batch=st.integers(1, 40),
    hidden=st.lists(st.integers(1, 19), min_size=1, max_size=4),
    ends=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    channels=st.sampled_from([(16, 16), (16, 48), (32, 16)]),
)
def test_affine_layers_of_all_sizes(seed, batch, hidden, ends, channels):
    space = WeightSpace.mlp((ends[0], *hidden, ends[1]))
    layer = EquivariantLinear(space, *channels)
    assert_the_same_without_the_kernel(
        layer, floats(space, batch, channels[0], seed), "normalised_layer", seed
    )


@pytest.mark.parametrize(
    "space", SPACES, ids=lambda space: "-".join(map(str, space.hidden.values()))
)
@pytest.mark.parametrize("pooling", ["mean", "sum", "max"])
def test_the_halves_of_a_layer(space, pooling):
    layer = EquivariantAttention(space, 16, 32, pooling=pooling)
    routine = "scatter" if pooling == "max" else "gather"
    assert_the_same_without_the_kernel(layer, floats(space, 5, 16, 0), routine)


def test_a_first_layer_of_one_channel_whose_input_needs_no_gradient():
    layer = EquivariantLinear(SPACES[0], 1, 16)
    assert_the_same_without_the_kernel(
        layer, floats(SPACES[0], 6, 1, 0, grad=False), "normalised_layer"
    )


def test_members_in_groups_where_the_global_matrix_is_large():
    space = WeightSpace.mlp((2, *[3] * 9, 1))
    layer = EquivariantLinear(space, 16, 16)
    assert layer.weights[0].numel() > 65536
    assert_the_same_without_the_kernel(layer, floats(space, 50, 16, 0), "normalised_layer")


def test_threads_share_the_members():
    layer, features = EquivariantLinear(SPACES[1], 16, 16), floats(SPACES[1], 7, 16, 0)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = outputs_and_gradients(layer, features, layer.parameters())
        torch.set_num_threads(3)
        together = outputs_and_gradients(layer, features, layer.parameters())
    finally:
        torch.set_num_threads(before)
    for one, other in zip(alone, together, strict=True):
        torch.testing.assert_close(
            one, other, rtol=1e-5, atol=1e-5 * max(1, other.abs().max().item())
        )


@pytest.mark.parametrize("dim", [0, 1, 2])
def test_strides_do_not_matter(dim):
    layer, features = EquivariantLinear(SPACES[0], 16, 16), floats(SPACES[0], 3, 16, 0, grad=False)
    strided = [x.movedim(dim, -1).contiguous().movedim(-1, dim) for x in features]
    assert not strided[0].is_contiguous()
    for one, other in zip(layer(strided), layer(features), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_the_kernel_leaves_other_types_and_wide_features_to_pytorch():
    features = [torch.ones(2, 3, 16)]
    assert kernel.takes(features, [16, 32])
    assert not kernel.takes([*features, features[0].double()], [16])
    assert not kernel.takes([features[0].bfloat16()], [16])
    assert not kernel.takes(features, [24])
    assert not kernel.takes(features, [kernel.WIDEST + 16])
    assert not kernel.takes([features[0].to("meta")], [16])
