"""The equivariant layer spans all equivariant affine maps and no others; the invariant one too."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dwsnet.entries import with_hidden_axes
from dwsnet.incidence import num_free_biases, num_free_parameters
from dwsnet.linear import EquivariantLinear, InvariantLinear
from dwsnet.set_attention import EquivariantAttention
from dwsnet.symmetry import permute, random_permutation
from dwsnet.testing import (
    assert_equivariant,
    assert_invariant,
    equivariance_error,
    invariance_error,
    random_features,
)
from dwsnet.weight_space import Axis, TensorSpec, WeightSpace

pytestmark = pytest.mark.fast

SPACES = [
    (2, 3, 1),
    (1, 2, 3),
    (3, 4, 2),
    (2, 3, 4, 1),
    (2, 2, 3, 2),
    (1, 4, 2, 3),
    (2, 3, 2, 4, 1),
    (1, 3, 2, 2, 2),
]
CNNS = [(2, (3,), 2, 2), (1, (2, 3), 2, 1), (2, (2, 3, 2), 1, 3), (1, (3, 2), 1, 4)]
ALL = {str(widths): WeightSpace.mlp(widths) for widths in SPACES} | {
    f"cnn {cnn}": WeightSpace.cnn(*cnn) for cnn in CNNS
}
WIDTHS = st.lists(st.integers(2, 5), min_size=3, max_size=6, unique=True)


def flatten(features) -> torch.Tensor:
    """The members as flat vectors, `(members, parameters)`."""
    return torch.cat([x.flatten(1) for x in features], 1)


def unflatten(space: WeightSpace, rows: torch.Tensor) -> tuple[torch.Tensor, ...]:
    parts = rows.split([torch.Size(spec.shape).numel() for spec in space.tensors], 1)
    return tuple(
        part.view(len(rows), *spec.shape, 1)
        for spec, part in zip(space.tensors, parts, strict=True)
    )


def generators(space: WeightSpace) -> list[torch.Tensor]:
    """A transposition and a cycle of each hidden axis as matrices: they generate the group.

    They act from the right on the flat vectors of members that `unflatten` takes.
    """
    matrices = []
    identity = torch.eye(space.num_parameters, dtype=torch.float64)
    for name, size in space.hidden.items():
        swap = torch.arange(size)
        swap[:2] = torch.tensor([1, 0])
        for index in (swap, torch.arange(size).roll(1)):
            permutation = {other: torch.arange(n) for other, n in space.hidden.items()} | {
                name: index
            }
            matrices.append(
                flatten(permute(space, unflatten(space, identity), permutation)).contiguous()
            )
    return matrices


def dimension_of_equivariant_maps(space: WeightSpace) -> int:
    """By brute force: entries of A minus the rank of `P A P^T - A = 0` for all generators P."""
    return nullity([torch.kron(p, p) for p in generators(space)])


def dimension_of_invariant_vectors(space: WeightSpace) -> int:
    return nullity(generators(space))


def nullity(matrices: list[torch.Tensor]) -> int:
    """Dimension of the v with `P v = v` for all P: the kernel of the sum of (P - 1)^T (P - 1)."""
    gram = sum(2 * torch.eye(len(p), dtype=p.dtype) - p - p.t() for p in matrices)
    return len(gram) - rank(gram)


def rank(symmetric: torch.Tensor) -> int:
    return int((torch.linalg.eigvalsh(symmetric) > 1e-8).sum())


def jacobian_by_parameters(layer: torch.nn.Module, space: WeightSpace, names: str) -> torch.Tensor:
    """The matrix of the map for each parameter alone at 1: `(parameters, entries)`."""
    basis = unflatten(space, torch.eye(space.num_parameters, dtype=torch.float64))
    parameters = [parameter for name, parameter in layer.named_parameters() if names in name]
    rows = []
    for parameter in layer.parameters():
        parameter.data.zero_()
    for parameter in parameters:
        for i in range(parameter.numel()):
            parameter.data.view(-1)[i] = 1
            output = layer(basis)
            rows.append(
                (flatten(output) if isinstance(output, tuple) else output).flatten().detach()
            )
            parameter.data.view(-1)[i] = 0
    return torch.stack(rows)


@pytest.mark.parametrize("space", ALL.values(), ids=ALL)
def test_the_layer_spans_all_equivariant_linear_maps(space):
    maps = jacobian_by_parameters(EquivariantLinear(space, 1, 1).double(), space, "weights")
    dimension = dimension_of_equivariant_maps(space)
    assert rank(maps @ maps.t()) == dimension == len(maps) == num_free_parameters(space)
    for p in generators(space):
        matrices = maps.view(len(maps), space.num_parameters, space.num_parameters)
        assert torch.allclose(matrices @ p, p @ matrices, atol=1e-12)


@pytest.mark.parametrize("space", ALL.values(), ids=ALL)
def test_the_bias_and_the_invariant_layer_span_all_invariant_vectors(space):
    dimension = dimension_of_invariant_vectors(space)
    biases = jacobian_by_parameters(EquivariantLinear(space, 1, 1).double(), space, "biases")
    invariant = jacobian_by_parameters(InvariantLinear(space, 1, 1).double(), space, "weight")
    assert rank(biases @ biases.t()) == len(biases) == dimension
    assert rank(invariant @ invariant.t()) == len(invariant) == dimension


@pytest.mark.parametrize(
    ("widths", "weights", "biases"),
    [
        ((2, 32, 32, 1), 75, 7),
        ((1, 32, 32, 1), 55, 6),
        ((2, 32, 32, 3), 163, 11),
        ((2, 32, 32, 32, 1), 117, 9),
    ],
    ids=str,
)
def test_free_parameters_are_as_the_papers_table_has_them(widths, weights, biases):
    space = WeightSpace.mlp(widths)
    layer = EquivariantLinear(space, 1, 1)
    assert num_free_parameters(space) == weights == sum(weight.numel() for weight in layer.weights)
    assert sum(bias.numel() for bias in layer.biases) == biases


@pytest.mark.parametrize("sizes", [(2, 32, 32, 3), (5, 7, 9, 11)])
def test_with_inputs_and_outputs_permuted_too_the_layer_is_that_of_nfn_np(sizes):
    """Zhou et al. 2023: 62 parameters per pair of channels at any width, and a bias per tensor."""
    space = with_hidden_axes(WeightSpace.mlp(sizes))
    layer = EquivariantLinear(space, 1, 1)
    assert num_free_parameters(space) == 62 == sum(weight.numel() for weight in layer.weights)
    assert num_free_biases(space) == 6


@given(WIDTHS, st.integers(1, 3), st.integers(1, 3))
@settings(max_examples=25, deadline=None)
def test_layers_respect_the_symmetry_in_float64(widths, in_channels, out_channels):
    space = WeightSpace.mlp(widths)
    assert_equivariant(
        space, EquivariantLinear(space, in_channels, out_channels).double(), in_channels
    )
    assert_invariant(space, InvariantLinear(space, in_channels, 4).double(), in_channels)


@given(st.lists(st.integers(2, 4), min_size=1, max_size=3), st.integers(1, 3))
@settings(max_examples=10, deadline=None)
def test_layers_over_cnns_respect_the_symmetry_in_float64(channels, kernel_size):
    space = WeightSpace.cnn(2, channels, kernel_size, 3)
    assert_equivariant(space, EquivariantLinear(space, 2, 3).double(), 2)
    assert_invariant(space, InvariantLinear(space, 2, 4).double(), 2)


def test_the_backward_pass_written_out_is_the_derivative():
    space = WeightSpace.cnn(2, (3, 2), 2, 2)
    layer = EquivariantLinear(space, 2, 3).double()
    features = random_features(space, 2, 2, torch.Generator().manual_seed(0))
    parameters = [parameter.detach().requires_grad_() for parameter in layer.parameters()]
    names = [name for name, _ in layer.named_parameters()]

    def call(*tensors):
        values = dict(zip(names, tensors[len(features) :], strict=True))
        return torch.func.functional_call(layer, values, (tensors[: len(features)],))

    assert torch.autograd.gradcheck(
        call, (*(x.requires_grad_() for x in features), *parameters), fast_mode=True
    )


def test_activations_may_work_in_place_on_the_outputs():
    space = WeightSpace.mlp((2, 5, 4, 3))
    layer = EquivariantLinear(space, 1, 2)
    outputs = layer(tuple(x.float() for x in random_features(space, 2, 1, torch.Generator())))
    sum(x.relu_().sum() for x in outputs).backward()
    assert all(parameter.grad is not None for parameter in layer.parameters())


def test_the_check_finds_a_layer_that_breaks_the_symmetry():
    space = WeightSpace.mlp((2, 5, 4, 3))
    layer = EquivariantLinear(space, 2, 2).double()

    def first_neuron_is_special(features):
        outputs = layer(features)
        return (outputs[0] * torch.arange(5.0).view(1, 5, 1, 1), *outputs[1:])

    assert equivariance_error(space, first_neuron_is_special, 2) > 1e-3
    assert (
        invariance_error(
            space, lambda features: features[1][:, :, 0] @ torch.arange(5.0).double(), 2
        )
        > 1e-3
    )


A, B, C = Axis("a", 3, True), Axis("b", 2, True), Axis("c", 2, True)
RGB, OUT = Axis("rgb", 2, False), Axis("out", 2, False)
DECLARED = {
    "any order": ((A, B), (B, RGB, A), (RGB, A)),
    "residual": ((A, RGB), (A,), (B, A), (B,), (A, B), (OUT, A), (OUT,)),
    "three hidden axes": ((A, RGB, B, C), (C, A), (OUT,)),
    "no fixed axis": ((A, B), (B, A)),
    "no hidden axis": ((RGB, OUT),),
}


def declared(*axes: tuple[Axis, ...]) -> WeightSpace:
    return WeightSpace(tuple(TensorSpec(f"tensor{i}", some) for i, some in enumerate(axes)))


@pytest.mark.parametrize("axes", DECLARED.values(), ids=DECLARED)
def test_any_tensors_that_share_axes_are_served_by_the_same_rule(axes):
    """A weight stored as (in, out), a residual stream, a bilinear layer: no MLP is assumed."""
    space = declared(*axes)
    for layer in (
        EquivariantLinear(space, 2, 3),
        EquivariantLinear(space, 2, 3, "max"),
        EquivariantAttention(space, 2, 3),
    ):
        assert_equivariant(space, layer.double(), 2)
    maps = jacobian_by_parameters(EquivariantLinear(space, 1, 1).double(), space, "weights")
    dimension = dimension_of_equivariant_maps(space) if space.hidden else space.num_parameters**2
    assert rank(maps @ maps.t()) == len(maps) == num_free_parameters(space) == dimension


def test_hidden_axes_of_one_entry_count_as_fixed():
    space = WeightSpace.mlp((2, 1, 3, 1))
    maps = jacobian_by_parameters(EquivariantLinear(space, 1, 1).double(), space, "weights")
    assert rank(maps @ maps.t()) == num_free_parameters(space) < len(maps)


def test_a_tensor_with_one_hidden_axis_twice_and_an_axis_of_two_kinds_are_refused():
    with pytest.raises(
        ValueError,
        match=r"'tensor0' of shape \(3, 3\) must carry each hidden axis once, got \('a', 'a'\)",
    ):
        declared((A, A))
    with pytest.raises(ValueError, match="axis 'a' must be the same in all tensors"):
        declared((A, B), (Axis("a", 3, False),))


def test_permuting_the_features_keeps_every_value():
    space = WeightSpace.mlp((2, 5, 3, 4))
    generator = torch.Generator().manual_seed(1)
    features = random_features(space, 2, 3, generator)
    moved = permute(space, features, random_permutation(space, generator))
    assert torch.equal(flatten(moved).sort(1).values, flatten(features).sort(1).values)
    assert not torch.equal(flatten(moved), flatten(features))
