"""Message passing: equivariant on every kind of space, also to signs, or refused."""

import pytest
import torch
from torch import nn

from dwsnet.encoders import MessagePassingEncoder
from dwsnet.heads import ValuesHead, WeightsHead
from dwsnet.neuron_graph import NeuronGraph
from dwsnet.symmetry import permute, random_permutations, random_signs, scale_units
from dwsnet.weight_space import Axis, TensorSpec, WeightSpace
from tests.dwsnet.small_networks import largest_difference, random_network

pytestmark = pytest.mark.fast
STREAM, INNER, HEADS = Axis("stream", 6, True), Axis("inner", 5, True), Axis("heads", 4, True)
WORDS, CLASSES = Axis("words", 7, False), Axis("classes", 3, False)


def weight(name: str, *axes: Axis, roles=("out", "in")) -> TensorSpec:
    return TensorSpec(name, axes, roles)


TRANSFORMER = WeightSpace(
    (
        weight("embedding", WORDS, STREAM, roles=("in", "out")),
        weight("queries", HEADS, STREAM),
        weight("keys", HEADS, STREAM, roles=("in", "in")),
        weight("up", INNER, STREAM),
        weight("up.bias", INNER, roles=("out",)),
        weight("down", STREAM, INNER),  # a residual stream: computed from what is computed from it
        weight("head", CLASSES, STREAM),
        weight("head.bias", CLASSES, roles=("out",)),
    )
)
SPACES = {
    "mlp": WeightSpace.mlp((2, 7, 5, 3)),
    "deep": WeightSpace.mlp((3, 4, 6, 5, 7, 2)),
    "cnn": WeightSpace.cnn(3, (4, 5), 3, 6),
    "transformer": TRANSFORMER,
    "flattened": WeightSpace.from_module(
        nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 9, 3))
    ),
}
SIGNED = sorted(SPACES.keys() - {"flattened"})


def as_state(space: WeightSpace, tensors) -> dict[str, torch.Tensor]:
    return {spec.name: x for spec, x in zip(space.tensors, tensors, strict=True)}


def encoder_of(space: WeightSpace, **options) -> MessagePassingEncoder:
    torch.manual_seed(0)
    encoder = MessagePassingEncoder(space, 12, 8, 2, 3, **options).double()
    statistics = {spec.name: {"mean": 0.2, "std": 0.7} for spec in space.tensors}
    return encoder.calibrate(statistics, {})


@pytest.mark.parametrize("signs", [False, True])
@pytest.mark.parametrize("kind", SPACES)
def test_it_is_equivariant_to_permutations_of_hidden_neurons_alone(kind, signs):
    space = SPACES[kind]
    if signs and kind not in SIGNED:
        pytest.skip("units after a norm have no signs")
    tensors, encoder = random_network(space, 5, 0), encoder_of(space, signs=signs)
    moved = random_permutations(space, 5, torch.Generator().manual_seed(1))
    features, permuted = encoder.features().double(), permute(space, tensors, moved)
    one, other = (as_state(space, x) for x in (tensors, permuted))
    assert torch.allclose(encoder(one), encoder(other), atol=1e-12)
    assert largest_difference(features(other), permute(space, features(one), moved)) < 1e-12
    assert [x.shape[1:] for x in features(one)] == [
        (*spec.shape, features.channels) for spec in space.tensors
    ]
    turned = [
        x.roll(1, -1) if not space.tensors[i].axes[-1].hidden else x for i, x in enumerate(tensors)
    ]
    assert (encoder(as_state(space, turned)) - encoder(one)).abs().max() > 1e-3


@pytest.mark.parametrize("kind", SIGNED)
def test_signs_of_hidden_units_do_not_matter_where_asked_for(kind):
    space = SPACES[kind]
    tensors = random_network(space, 5, 0)
    signs = random_signs(space, 5, torch.Generator().manual_seed(1))
    one, other = (as_state(space, x) for x in (tensors, scale_units(space, tensors, signs)))
    encoder = encoder_of(space, signs=True)
    head = WeightsHead(encoder.features(), init_scale=0.1).double()
    assert torch.allclose(encoder(one), encoder(other), atol=1e-12)
    expected = scale_units(space, [*head(one).values()], signs)
    assert largest_difference([*head(other).values()], expected) < 1e-12
    control = encoder_of(space)
    assert (control(one) - control(other)).abs().max() > 1e-3


def test_every_parameter_learns_from_a_vector_and_every_entry_counts():
    space = SPACES["mlp"]
    for signs in (False, True):
        model = ValuesHead(encoder_of(space, signs=signs), 4).double()
        state = as_state(space, [x.requires_grad_() for x in random_network(space, 5, 0)])
        model(state).square().sum().backward()
        assert all(
            one.grad is not None and one.grad.any() for one in model.parameters() if len(one)
        )
        assert all((x.grad != 0).all() for x in state.values())


def test_products_of_weights_of_successive_layers_are_seen_at_once():
    """Encoders linear in the weights have no mixed second derivatives; this one does."""
    space = SPACES["mlp"]
    first, second = (
        random_network(space, 1, 0)[0],
        random_network(space, 1, 0)[2],
    )
    others = random_network(space, 1, 0)
    encoder = encoder_of(space)

    def value(a, b):
        tensors = [a, others[1], b, *others[3:]]
        return encoder(as_state(space, tensors)).sum()

    _, mixed = torch.autograd.functional.hessian(value, (first, second))[0]
    assert mixed.abs().max() > 1e-6


def test_nodes_are_hidden_axes_and_the_first_fixed_ones():
    graph = NeuronGraph(SPACES["cnn"])
    assert [axis.name for axis in graph.axes] == ["layer0", "layer1", "layer2", "layer3"]
    assert [edges.num_positions for edges in graph.edges] == [9, 1, 9, 1, 1, 1]
    (embedding, *_) = NeuronGraph(TRANSFORMER).edges
    assert embedding.axes == ("stream", "words")


def test_what_cannot_be_read_is_one_sentence():
    three = WeightSpace((TensorSpec("w", (STREAM, INNER, HEADS)),))
    with pytest.raises(ValueError, match="'w' must have an axis and at most two hidden ones"):
        MessagePassingEncoder(three, 4, 4, 1, 1)
    with pytest.raises(ValueError, match="for units to have signs, found role 'none'"):
        encoder_of(SPACES["flattened"], signs=True)
    with pytest.raises(ValueError, match="maps"):
        MessagePassingEncoder(SPACES["mlp"], 4, 4, 1, 0)
