"""The compiled passes against PyTorch, for tensors of every shape, and the layers with and without them."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dwsnet import EquivariantAttention, EquivariantLinear, WeightSpace, kernel
from dwsnet.testing import random_features

pytestmark = pytest.mark.skipif(kernel.load_kernel() is None, reason="no C++ compiler here")

sizes = st.integers(1, 19)
widths = st.integers(1, 50)


def tensors(seed: int, members: int, rows: int, columns: int, inputs: int, outputs: int) -> list[torch.Tensor]:
    """Features, a matrix, a term for each row and one for each column, and features as wide as the result."""
    generator = torch.Generator().manual_seed(seed)
    shapes = (members, rows, columns, inputs), (inputs, outputs), (members, rows, outputs), (members, columns, outputs)
    return [torch.randn(shape, generator=generator) for shape in (*shapes, (members, rows, columns, outputs))]


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 99),
    members=st.integers(1, 4),
    rows=sizes,
    columns=sizes,
    inputs=widths,
    outputs=st.sampled_from([16, 32, 48]),
)
def test_every_routine_gives_what_pytorch_gives(seed, members, rows, columns, inputs, outputs):
    x, matrix, row_terms, column_terms, y = tensors(seed, members, rows, columns, inputs, outputs)
    expected = (x.double() @ matrix.double() + row_terms.unsqueeze(2) + column_terms.unsqueeze(1)).float()
    torch.testing.assert_close(kernel.affine(x, matrix, row_terms, column_terms), expected, rtol=1e-4, atol=1e-4)
    over_rows, over_columns = kernel.sum_both(x)
    torch.testing.assert_close(over_rows, x.sum(1), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(over_columns, x.sum(2), rtol=1e-4, atol=1e-4)
    result, outer = kernel.affine_backward(x, matrix, row_terms, column_terms, y)
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-4)
    products = x.flatten(0, 2).double().t() @ y.flatten(0, 2).double()
    torch.testing.assert_close(outer, products.float(), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_strides_do_not_matter(dim):
    x, *rest, _ = tensors(0, 3, 5, 7, 6, 16)
    strided = x.movedim(dim, 0).contiguous().movedim(0, dim)
    assert not strided.is_contiguous()
    assert torch.equal(kernel.affine(strided, *rest), kernel.affine(x, *rest))
    assert torch.equal(kernel.sum_both(strided)[0], kernel.sum_both(x)[0])


@pytest.mark.parametrize("widths", [(2, 9, 17, 1), (3, 33, 32, 5, 2)], ids=str)
@pytest.mark.parametrize("build", [EquivariantLinear, EquivariantAttention])
def test_a_layer_has_the_same_outputs_and_gradients_without_the_kernel(monkeypatch, build, widths):
    space = WeightSpace.mlp(widths)
    layer = build(space, 16, 32)
    features = [x.float().requires_grad_() for x in random_features(space, 4, 16, torch.Generator().manual_seed(0))]
    cotangents = [torch.randn(4, *spec.shape, 32, generator=torch.Generator().manual_seed(1)) for spec in space.tensors]

    def outputs_and_gradients() -> list[torch.Tensor]:
        outputs = layer(features)
        return [*outputs, *torch.autograd.grad(outputs, [*features, *layer.parameters()], cotangents)]

    calls = []
    with monkeypatch.context() as patch:
        patch.setattr(kernel, "affine", lambda *inputs, affine=kernel.affine: calls.append(1) or affine(*inputs))
        fast = outputs_and_gradients()
    assert calls
    monkeypatch.setattr(kernel, "takes", lambda *features: False)
    for found, expected in zip(fast, outputs_and_gradients(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_the_kernel_leaves_other_types_and_wide_features_to_pytorch():
    features = torch.ones(2, 3, 3, 4)
    assert kernel.takes(features, 16)
    assert not kernel.takes(features.double(), 16)
    assert not kernel.takes(features.bfloat16(), 16)
    assert not kernel.takes(features, kernel.WIDEST + 16)
    assert not kernel.takes(features, 24)
    assert not kernel.takes(features[:, 0], 16)
    assert not kernel.takes(features.to("meta"), 16)
