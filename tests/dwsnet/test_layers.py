"""The nonlinear layers, the norms and the downsampling layer: symmetry and values."""

import pytest
import torch

from dwsnet import (
    DownsampledLinear,
    DWSNet,
    DWSNetClassifier,
    EquivariantAttention,
    EquivariantLinear,
    InvariantLinear,
    MemberNorm,
    WeightSpace,
)
from dwsnet.testing import assert_equivariant, assert_invariant, equivariance_error, random_features

pytestmark = pytest.mark.fast

SPACES = [
    WeightSpace.mlp((2, 5, 4, 3)),
    WeightSpace.mlp((6, 5, 1)),
    WeightSpace.cnn(2, (3, 5), 2, 4),
]
IDS = ["mlp", "two layers", "cnn"]


def scrambled(layer: torch.nn.Module) -> torch.nn.Module:
    """The layer in float64 with random parameters, also those that are initialised to zero."""
    generator = torch.Generator().manual_seed(0)
    for parameter in layer.double().parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64) / 3
    return layer


@pytest.mark.parametrize("pooling", ["mean", "sum", "max", "attention"])
@pytest.mark.parametrize("space", SPACES, ids=IDS)
def test_every_pooling_keeps_the_symmetry_in_both_layers(space, pooling):
    assert_equivariant(space, scrambled(EquivariantLinear(space, 2, 4, pooling)), 2)
    assert_equivariant(
        space, scrambled(EquivariantAttention(space, 2, 4, num_heads=2, pooling=pooling)), 2
    )
    assert_invariant(space, scrambled(InvariantLinear(space, 2, 4, pooling)), 2)


@pytest.mark.parametrize("layer", [EquivariantLinear, EquivariantAttention])
@pytest.mark.parametrize("pooling", ["mean", "sum", "max"])
@pytest.mark.parametrize("space", SPACES, ids=IDS)
def test_a_diagonal_layer_joins_tensors_that_have_an_axis_in_common_alone(space, pooling, layer):
    diagonal = scrambled(layer(space, 2, 4, pooling=pooling, diagonal=True))
    assert_equivariant(space, diagonal, 2)
    features = random_features(space, 2, 2, torch.Generator().manual_seed(0))
    before = diagonal(features)
    for i, source in enumerate(space.tensors):
        changed = [x + 3 * torch.rand_like(x) * (i == j) for j, x in enumerate(features)]
        for target, x, y in zip(space.tensors, before, diagonal(changed), strict=True):
            near = {axis.name for axis in source.axes} & {axis.name for axis in target.axes}
            assert ((x - y).abs().max() > 1e-6) == bool(near), f"{source.name} to {target.name}"


def test_a_diagonal_layer_starts_at_the_scale_of_another():
    space = WeightSpace.mlp((2, 5, 6, 4, 3))
    features = random_features(space, 64, 64, torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    for layer in (EquivariantLinear, EquivariantAttention):
        scales = [
            [x.std() for x in layer(space, 64, 64, diagonal=diagonal).double()(features)]
            for diagonal in (False, True)
        ]
        for other, diagonal in zip(*scales, strict=True):
            assert 0.75 < diagonal / other < 1.33


def test_a_diagonal_model_is_kept(tmp_path):
    space = SPACES[0]
    model = DWSNetClassifier(space, 2, 4, 2, 8, diagonal=True).eval()
    model.save_pretrained(tmp_path)
    again = DWSNetClassifier.from_pretrained(tmp_path)
    state = {spec.name: torch.randn(2, *spec.shape) for spec in space.tensors}
    assert again.encoder.trunk.layers[1].joined.logical_not().any()
    assert torch.allclose(again(state), model(state), atol=1e-6)


def test_poolings_differ_and_an_unknown_one_is_named():
    space = SPACES[0]
    features = random_features(space, 2, 2, torch.Generator().manual_seed(0))
    layers = [
        scrambled(EquivariantLinear(space, 2, 4, pooling)) for pooling in ("mean", "sum", "max")
    ]
    outputs = [layer(features)[2] for layer in layers]
    assert not torch.allclose(outputs[0], outputs[1])
    assert not torch.allclose(outputs[0], outputs[2])
    with pytest.raises(ValueError, match="'mean', 'sum', 'max' or 'attention', got 'median'"):
        EquivariantLinear(space, 2, 4, "median")


def test_attention_pooling_starts_as_the_mean():
    space = SPACES[0]
    features = random_features(space, 2, 2, torch.Generator().manual_seed(0))
    attention, mean = (
        EquivariantLinear(space, 2, 4, "attention").double(),
        EquivariantLinear(space, 2, 4).double(),
    )
    mean.load_state_dict(attention.state_dict(), strict=False)
    for x, y in zip(attention(features), mean(features), strict=True):
        assert torch.allclose(x, y, atol=1e-12)


def test_attention_makes_neurons_see_each_other_beyond_their_mean():
    """Two neurons exchange parts of their features, all means stay: only attention notices."""
    space = SPACES[0]
    features = random_features(space, 1, 2, torch.Generator().manual_seed(0))
    other = [x.clone() for x in features]
    other[1][0, 0] += 1
    other[1][0, 1] -= 1
    linear, attention = (
        scrambled(EquivariantLinear(space, 2, 4)),
        scrambled(EquivariantAttention(space, 2, 4, num_heads=2)),
    )
    third = [layer(other)[1][0, 2] - layer(features)[1][0, 2] for layer in (linear, attention)]
    assert third[0].abs().max() < 1e-12 < 1e-4 < third[1].abs().max()


@pytest.mark.parametrize("space", SPACES, ids=IDS)
def test_member_norm_commutes_and_ignores_the_other_members(space):
    norm = scrambled(MemberNorm(space, 3))
    assert_equivariant(space, norm, 3)
    features = random_features(space, 4, 3, torch.Generator().manual_seed(0))
    for alone, together in zip(norm([x[:1] for x in features]), norm(features), strict=True):
        assert torch.allclose(alone, together[:1], atol=1e-12)
    plain = MemberNorm(space, 3).double()
    for x in plain([100 * x + 7 for x in features]):
        assert torch.allclose(
            x.flatten(1).std(1, correction=0), torch.ones(4, dtype=torch.float64), atol=1e-3
        )


def test_a_norm_with_one_gain_for_each_neuron_would_be_found():
    space = SPACES[0]
    gains = torch.linspace(1, 2, 5, dtype=torch.float64).view(1, 5, 1)
    assert (
        equivariance_error(
            space, lambda features: (features[0], features[1] * gains, *features[2:]), 2
        )
        > 1e-3
    )


def test_downsampling_keeps_the_symmetry_with_far_fewer_parameters():
    space = WeightSpace.mlp((24, 5, 4, 3))
    layer = scrambled(DownsampledLinear(space, "layer0", 6, 2, 3))
    assert_equivariant(space, layer, 2)
    exact = EquivariantLinear(space, 2, 3)
    assert (
        sum(p.numel() for p in layer.parameters()) < sum(p.numel() for p in exact.parameters()) / 4
    )
    cnn = WeightSpace.cnn(8, (3, 5), 2, 4)
    assert_equivariant(cnn, scrambled(DownsampledLinear(cnn, "layer0", 3, 2, 3)), 2)
    with pytest.raises(ValueError, match=r"fixed axes .*'layer0'.*got 'layer1'"):
        DownsampledLinear(space, "layer1", 6, 2, 3)


@pytest.mark.parametrize(
    "options",
    [{}, {"num_heads": 2, "pooling": "max"}, {"norm": "member", "skip": True, "dropout": 0.5}],
    ids=str,
)
def test_the_trunk_commutes_and_is_the_same_twice_in_eval(options):
    space = SPACES[0]
    trunk = DWSNet(space, 1, 4, 3, **options).double().eval()
    assert_equivariant(space, trunk, 1)
    features = random_features(space, 2, 1, torch.Generator().manual_seed(0))
    for x, y in zip(trunk(features), trunk(features), strict=True):
        assert torch.allclose(x, y, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("num_heads", [0, 2])
def test_checkpointing_changes_no_gradient(num_heads):
    space = SPACES[0]
    features = tuple(
        x.float() for x in random_features(space, 3, 1, torch.Generator().manual_seed(0))
    )
    gradients = []
    for checkpoint in (False, True):
        torch.manual_seed(0)
        trunk = DWSNet(space, 1, 4, 3, num_heads=num_heads, norm="member", checkpoint=checkpoint)
        sum(x.square().sum() for x in trunk(features)).backward()
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in trunk.parameters()]))
    assert torch.allclose(*gradients, atol=1e-5)


@pytest.mark.parametrize("num_heads", [0, 2])
def test_bf16_autocast_is_near_float32(num_heads):
    space = SPACES[0]
    torch.manual_seed(0)
    trunk = DWSNet(space, 1, 4, 2, num_heads=num_heads, norm="member")
    features = tuple(
        x.float() for x in random_features(space, 3, 1, torch.Generator().manual_seed(0))
    )
    exact = trunk(features)
    with torch.autocast("cpu", torch.bfloat16):
        rough = trunk(features)
    sum(x.float().sum() for x in rough).backward()
    assert trunk.layers[0].weights[0].grad.dtype == torch.float32
    for x, y in zip(exact, rough, strict=True):
        assert torch.allclose(x, y.float(), atol=0.15)
        assert not torch.equal(x, y.float())
