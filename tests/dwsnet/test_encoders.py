"""Encoders: vectors, features of every entry, learning, and the symmetries that they claim."""

from functools import cache

import numpy as np
import pytest
import torch
from torch import nn

from dwsnet.encoders import (
    AlignedMLPEncoder,
    AugmentedMLPEncoder,
    DWSNetEncoder,
    FlatMLPEncoder,
    INR2VecEncoder,
    MessagePassingEncoder,
    ProbingEncoder,
    StatisticsEncoder,
    TransformerEncoder,
)
from dwsnet.encoders.rows import from_rows, row_shape, to_rows
from dwsnet.encoders.statistics import tensor_statistics
from dwsnet.entries import EntryFeatures
from dwsnet.heads import ValuesHead, WeightsHead
from dwsnet.models import num_parameters
from dwsnet.state import unpack
from dwsnet.symmetry import canonical_signs, permute, random_permutations, random_signs, scale_units
from dwsnet.weight_space import Axis, TensorSpec, WeightSpace
from tests.dwsnet.small_networks import largest_difference, random_network, render, siren

pytestmark = pytest.mark.usefixtures("unchecked")

SPACE = WeightSpace.mlp((2, 7, 5, 3))


def sine(z: torch.Tensor) -> torch.Tensor:
    return torch.sin(30 * z)


ENCODERS = {
    "dwsnet": lambda space: DWSNetEncoder(space, 12, 6, 2),
    "dwsnet-shared": lambda space: DWSNetEncoder(space, 12, 6, 2, num_frequencies=3, positions=2),
    "messages": lambda space: MessagePassingEncoder(space, 12, 6, 2, 3),
    "messages-signs": lambda space: MessagePassingEncoder(space, 12, 6, 2, 3, signs=True),
    "mlp": lambda space: FlatMLPEncoder(space, 40),
    "mlp-augmented": lambda space: AugmentedMLPEncoder(space, 40),
    "mlp-aligned": lambda space: AlignedMLPEncoder(space, 40),
    "inr2vec": lambda space: INR2VecEncoder(space, 24),
    "transformer": lambda space: TransformerEncoder(space, 5),
    "statistics": lambda space: StatisticsEncoder(space, 40),
    "probing": lambda space: ProbingEncoder(space, 40, 20, sine),
}
INVARIANT = {
    "dwsnet",
    "dwsnet-shared",
    "messages",
    "messages-signs",
    "mlp-aligned",
    "statistics",
    "probing",
}
OF_VECTORS = ("invariant.", "pool.", "slots.")
"""Parameters that features do not use."""
GIVE_FEATURES = sorted(ENCODERS.keys() - {"statistics", "probing"})


def as_state(space: WeightSpace, tensors) -> dict[str, torch.Tensor]:
    return {spec.name: x for spec, x in zip(space.tensors, tensors, strict=True)}


def networks(space: WeightSpace, batch: int, seed: int) -> dict[str, torch.Tensor]:
    return as_state(space, random_network(space, batch, seed))


def shuffled(space: WeightSpace, state, seed: int = 0):
    permutation = random_permutations(
        space, len(next(iter(state.values()))), torch.Generator().manual_seed(seed)
    )
    return as_state(space, permute(space, list(state.values()), permutation)), permutation


def build(name: str, space: WeightSpace = SPACE, state=None):
    """The encoder in float64, calibrated."""
    torch.manual_seed(0)
    state = networks(space, 20, 99) if state is None else state
    statistics = {n: {"mean": x.mean().item(), "std": x.std().item()} for n, x in state.items()}
    return ENCODERS[name](space).double().calibrate(statistics, state)


@pytest.mark.parametrize("name", ENCODERS)
def test_vectors_are_invariant_where_the_docstrings_say_so(name):
    state, encoder = networks(SPACE, 30, 0), build(name).eval()
    vectors = encoder(state)
    assert vectors.shape == (30, encoder.width)
    error = (encoder(shuffled(SPACE, state)[0]) - vectors).abs().max()
    assert error < 1e-9 if name in INVARIANT else error > 1e-2


@pytest.mark.parametrize("name", GIVE_FEATURES)
def test_features_belong_to_the_entries_and_are_equivariant_where_vectors_are_invariant(name):
    state, features = networks(SPACE, 30, 0), build(name).features().double().eval()
    one = features(state)
    assert [x.shape for x in one] == [
        (30, *spec.shape, features.channels) for spec in SPACE.tensors
    ]
    moved, permutation = shuffled(SPACE, state)
    error = largest_difference(features(moved), permute(SPACE, one, permutation))
    assert error < 1e-9 if name in INVARIANT else error > 1e-3


def test_what_reads_neurons_in_another_order_puts_features_back():
    """Features are in the order of the input although the MLP reads permuted neurons."""
    encoder = build("mlp-augmented")
    features = encoder.features().double()
    seen = []
    encoder.layers = nn.Identity()  # the vector is the permuted network itself
    features.expand = nn.Identity()
    features.encoder.order = lambda tensors: (
        seen.append(type(encoder).order(encoder.train(), tensors)) or seen[-1]
    )
    state = networks(SPACE, 6, 0)
    expected = [nn.functional.gelu(x).unsqueeze(-1) for x in encoder.read(state)]
    assert largest_difference(features(state), expected) < 1e-12
    assert any(not torch.equal(index, index.sort(1).values) for index in seen[0].values())


@pytest.mark.parametrize("name", GIVE_FEATURES)
def test_features_share_the_parameters_of_the_encoder(name):
    encoder = build(name)
    own, given = dict(encoder.named_parameters()), set(encoder.features().parameters())
    unused = {key for key, parameter in own.items() if parameter not in given}
    assert all(key.startswith(OF_VECTORS) for key in unused)
    state = encoder.features().state_dict()  # each tensor once: files hold no shared ones
    assert len({tensor.data_ptr() for tensor in state.values()}) == len(state)


@pytest.mark.parametrize(
    ("name", "encoder"), [("statistics", "StatisticsEncoder"), ("probing", "ProbingEncoder")]
)
def test_what_reads_networks_as_a_whole_has_no_features(name, encoder):
    with pytest.raises(ValueError, match=f"{encoder} gives one vector per network and no features"):
        build(name).features()


@pytest.mark.parametrize("learned", [True, False])
def test_probes_are_what_the_networks_are_run_on_and_only_learned_ones_change(learned):
    encoder = ProbingEncoder(SPACE, 40, 6, torch.tanh, learned).double()
    state = networks(SPACE, 4, 0)
    x = encoder.probes.detach()
    for i in range(3):
        x = torch.einsum("bpi,boi->bpo", x.expand(4, -1, -1), state[f"layers.{i}.weight"])
        x = x + state[f"layers.{i}.bias"].unsqueeze(1)
        x = x.tanh() if i < 2 else x
    assert torch.allclose(encoder.outputs(state), x, rtol=1e-12, atol=1e-12)
    encoder(state).square().sum().backward()
    assert (encoder.probes.grad is not None) == learned


def test_signs_matter_to_probing_only_if_the_activation_is_not_odd():
    state = networks(SPACE, 4, 0)
    signs = random_signs(SPACE, 4, torch.Generator().manual_seed(0))
    turned = as_state(SPACE, scale_units(SPACE, list(state.values()), signs))
    for activation, is_odd in ((torch.sin, True), (torch.relu, False)):
        torch.manual_seed(0)
        encoder = ProbingEncoder(SPACE, 40, 6, activation).double().eval()
        error = (encoder(turned) - encoder(state)).abs().max()
        assert error < 1e-9 if is_odd else error > 1e-3


def test_only_mlps_are_run():
    with pytest.raises(ValueError, match="networks must be MLPs to be run here"):
        ProbingEncoder(WeightSpace.cnn(2, (6, 5), 3, 4), 40, 6, torch.sin)


def test_rows_of_the_last_layer_may_come_in_any_order_in_inr2vec_alone():
    """Permuting outputs permutes tokens: a maximum ignores it, learned positions do not."""
    state = networks(SPACE, 10, 0)
    turned = state | {name: state[name].roll(1, 1) for name in ("layers.2.weight", "layers.2.bias")}
    errors = {}
    for name in ("inr2vec", "transformer"):
        torch.manual_seed(0)
        encoder = ENCODERS[name](SPACE).double().eval()  # standardising nothing
        errors[name] = (encoder(turned) - encoder(state)).abs().max()
    assert errors["inr2vec"] < 1e-9 < 1e-3 < errors["transformer"]


def test_augmentation_permutes_in_training_only():
    encoder = build("mlp-augmented")
    tensors = encoder.read(networks(SPACE, 10, 0))
    moved = permute(SPACE, tensors, encoder.order(tensors))
    assert not torch.equal(moved[0], tensors[0])
    assert torch.equal(moved[0].sort(1).values, tensors[0].sort(1).values)
    assert encoder.eval().order(tensors) is None


def test_the_augmented_mlp_compiles_with_its_random_permutations():
    compiled = torch.compile(build("mlp-augmented"), fullgraph=True, backend="eager")
    assert not torch.equal(compiled(networks(SPACE, 10, 0)), compiled(networks(SPACE, 10, 0)))


def test_the_aligned_mlp_needs_a_reference_and_keeps_it_in_its_state_dict():
    state = networks(SPACE, 4, 0)
    with pytest.raises(ValueError, match="call calibrate"):
        ENCODERS["mlp-aligned"](SPACE).double()(state)
    encoder, copy = build("mlp-aligned").eval(), ENCODERS["mlp-aligned"](SPACE).double()
    copy.load_state_dict(encoder.state_dict())
    assert torch.allclose(copy.eval()(state), encoder(state), rtol=1e-12, atol=1e-12)


def test_a_row_is_what_computes_one_neuron():
    state = networks(SPACE, 3, 0)
    rows = to_rows(SPACE, list(state.values()))
    assert rows.shape == (3, *row_shape(SPACE)) == (3, 15, 8)
    assert torch.equal(rows[:, 7, :7], state["layers.1.weight"][:, 0])
    assert torch.equal(rows[:, 7, 7], state["layers.1.bias"][:, 0])
    assert rows[:, 0, 3:].abs().max() == 0


CHANNELS, KERNEL = Axis("c", 4, True), (Axis("h", 3, False), Axis("w", 2, False))
CONVOLUTION = WeightSpace(
    (
        TensorSpec(
            "conv.weight", (Axis("rgb", 3, False), CHANNELS, *KERNEL), ("in", "out", "in", "in")
        ),
        TensorSpec("conv.bias", (CHANNELS,), ("out",)),
    )
)


@pytest.mark.parametrize("space", [SPACE, CONVOLUTION], ids=["mlp", "convolution"])
def test_features_of_rows_come_back_to_the_entries_that_the_rows_have(space):
    tensors = random_network(space, 3, 0)
    back = from_rows(space, to_rows(space, tensors).unsqueeze(-1))
    assert largest_difference([x.squeeze(-1) for x in back], tensors) == 0


def test_kernels_are_rows_too():
    assert row_shape(CONVOLUTION) == (4, 19)
    assert build("transformer", CONVOLUTION)(networks(CONVOLUTION, 5, 0)).shape == (5, 20)


def test_statistics_are_seven_a_tensor_as_numpy_has_them_and_standardised():
    state = networks(SPACE, 5, 0)
    found = tensor_statistics(list(state.values()))
    assert found.shape == (5, 7 * 6)
    for i, x in enumerate(state.values()):
        flat = x.flatten(1).numpy()
        quantiles = np.quantile(flat, (0, 0.25, 0.5, 0.75, 1), axis=1)
        expected = np.stack([flat.mean(1), flat.var(1), *quantiles], 1)
        assert np.allclose(found[:, 7 * i : 7 * i + 7].numpy(), expected, atol=1e-12)
    seen = networks(SPACE, 20, 99)
    standardised = build("statistics").statistics(seen)
    assert torch.allclose(standardised.mean(0), torch.zeros(42).double(), atol=1e-9)
    assert torch.allclose(standardised.std(0, correction=0), torch.ones(42).double(), atol=1e-9)


@pytest.mark.parametrize("name", GIVE_FEATURES)
def test_an_untrained_editor_returns_nearly_its_input_on_any_encoder(name):
    state = networks(SPACE, 6, 0)
    head = WeightsHead(build(name).features()).double()
    edited = head(state)
    assert edited.keys() == state.keys()
    difference = largest_difference([*edited.values()], [*state.values()])
    assert 0 < difference < 1e-2
    with torch.no_grad():
        head.scale.mul_(2)
    head.eval()
    expected = 2 * (head(state)["layers.1.weight"] - state["layers.1.weight"])
    with torch.no_grad():
        head.scale.mul_(2)
    found = head(state)["layers.1.weight"] - state["layers.1.weight"]
    assert torch.allclose(found, expected, atol=1e-12)


def test_an_editor_on_canonical_signs_edits_the_function_whatever_the_signs_of_its_units():
    torch.manual_seed(0)
    encoder = DWSNetEncoder(SPACE, 1, 6, 2, canonical_signs=True).double()
    head = WeightsHead(encoder.features(), init_scale=0.1).double().eval()
    state = as_state(SPACE, random_network(SPACE, 4, 0, spread=0.1))
    signs = random_signs(SPACE, 4, torch.Generator().manual_seed(0))
    flipped = as_state(SPACE, scale_units(SPACE, list(state.values()), signs))
    points = torch.rand(9, 2, dtype=torch.float64)
    one, other = (render([*head(x).values()], points, siren) for x in (state, flipped))
    assert torch.allclose(one, other, atol=1e-9)
    before = render(canonical_signs(SPACE, list(state.values())), points, siren)
    assert (one - before).abs().max() > 1e-3
    plain = DWSNetEncoder(SPACE, 1, 6, 2).double()
    control = WeightsHead(plain.features(), init_scale=0.1).double().eval()
    one, other = (render([*control(x).values()], points, siren) for x in (state, flipped))
    assert (one - other).abs().max() > 1e-3


@cache
def digit_inrs():
    """`(state, labels)` of 40 INRs of scikit-learn's digits 0 and 1, of widths (2, 12, 10, 1)."""
    from pipeline.config import FitConfig, SignalsConfig, SirenConfig
    from pipeline.fit.adam import fit
    from pipeline.fit.inr import inr_space
    from pipeline.fit.seeds import member_keys
    from pipeline.signals import coordinates, load_signals

    signals = load_signals(SignalsConfig())
    chosen = np.flatnonzero(signals.labels < 2)[:40]
    config = SirenConfig(hidden=(12, 10))
    space = inr_space(config, 2, 1)
    targets = torch.from_numpy(signals.values[chosen]).flatten(1, 2).transpose(1, 2)
    keys = member_keys(0, chosen, np.zeros_like(chosen))
    grid = torch.from_numpy(coordinates((8, 8)))
    rows = fit(space, config, FitConfig(max_steps=300), keys, grid, targets).rows
    return space, unpack(space, rows), torch.from_numpy(signals.labels[chosen])


@pytest.mark.parametrize("name", ENCODERS)
def test_two_digits_are_told_apart_on_the_networks_that_were_seen(name):
    space, state, labels = digit_inrs()
    model = ValuesHead(build(name, space, {n: x.double() for n, x in state.items()}), 2).float()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(300 if name == "mlp-augmented" else 60):
        loss = nn.functional.cross_entropy(model(state), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    accuracy = (model.eval()(state).argmax(1) == labels).float().mean()
    assert accuracy >= 0.95


def test_learned_positions_tell_inputs_apart_and_do_not_grow_with_their_square():
    state, encoder = networks(SPACE, 20, 0), build("dwsnet-shared").eval()
    turned = {**state, "layers.0.weight": state["layers.0.weight"].flip(2)}  # the other input first
    vectors = encoder(state)
    assert (encoder(turned) - vectors).abs().max() > 1e-3
    with torch.no_grad():
        for places in encoder.entries.places.values():
            places.zero_()
    assert (encoder(turned) - encoder(state)).abs().max() < 1e-9
    wide = WeightSpace.mlp((2 + 50, 7, 5, 3))
    small, large = (num_parameters(ENCODERS["dwsnet-shared"](space)) for space in (SPACE, wide))
    assert large - small == 50 * 2  # `positions` numbers for each input more
    exact = [num_parameters(ENCODERS["dwsnet"](space)) for space in (SPACE, wide)]
    assert exact[1] > 30 * exact[0]


def test_sines_and_cosines_of_entries_are_features():
    entries = EntryFeatures(SPACE, num_frequencies=2)
    x = [torch.randn(4, *spec.shape) for spec in SPACE.tensors]
    features = entries(x)
    assert entries.space == SPACE
    for one, found in zip(x, features, strict=True):
        phase = one.unsqueeze(-1) * entries.frequencies
        assert torch.allclose(found, torch.cat([one.unsqueeze(-1), phase.sin(), phase.cos()], -1))
