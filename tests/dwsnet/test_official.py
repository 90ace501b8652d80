"""Models read from official state dicts have the outputs of the official code
(made by official_vectors.py)."""

import json
import re
from collections import defaultdict
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from dwsnet.linear import EquivariantLinear
from dwsnet.official import block_of, read_official
from dwsnet.official_model import SetAttention
from dwsnet.testing import assert_equivariant, assert_invariant
from dwsnet.weight_space import WeightSpace

pytestmark = pytest.mark.usefixtures("unchecked")

DATA = Path(__file__).parent / "data"
CASES = sorted(file.stem.removeprefix("official_") for file in DATA.glob("official_*.safetensors"))


def load(case: str, dtype: torch.dtype = torch.float64):
    """The weight space, the pooling with the number of heads, the state dict, the inputs and the
    outputs of one case."""
    with safe_open(DATA / f"official_{case}.safetensors", "pt") as file:
        meta = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    space = WeightSpace.mlp(json.loads(meta["widths"]))
    state = {
        name.removeprefix("state."): x.to(dtype)
        for name, x in tensors.items()
        if name.startswith("state.")
    }
    inputs = tuple(tensors[f"input.{i}"].to(dtype) for i in range(len(space.tensors)))
    outputs = [tensors[name] for name in sorted(tensors) if name.startswith("output.")]
    options = (
        (meta["pooling"], int(meta["num_heads"])) if "num_heads" in meta else (meta["pooling"],)
    )
    return space, options, state, inputs, outputs


def difference(model, inputs, outputs) -> float:
    """The largest difference, relative to the largest output."""
    found = model(inputs)
    found = found if isinstance(found, tuple) else (found,)
    return max(
        ((a - b).abs().max() / b.abs().max()).item() for a, b in zip(found, outputs, strict=True)
    )


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-4)], ids=str
)
def test_outputs_are_the_official_ones(case, dtype, tolerance):
    space, options, state, inputs, outputs = load(case, dtype)
    assert difference(read_official(state, space, *options), inputs, outputs) < tolerance


def test_every_kind_of_official_model_is_among_the_cases():
    assert {
        "max",
        "mean",
        "sum",
        "deep",
        "one_output",
        "skips",
        "diagonal",
        "no_bias",
        "classifier",
        "sab",
        "sab_skips",
        "sab_diagonal",
        "sab_no_bias",
        "sab_classifier",
        "fc",
        "fc_classifier",
    } <= set(CASES)


@pytest.mark.parametrize("case", ["max", "classifier"])
def test_another_pooling_gives_other_outputs(case):
    space, _, state, inputs, outputs = load(case)
    assert difference(read_official(state, space, "mean"), inputs, outputs) > 1e-2


@pytest.mark.parametrize("case", ["sab", "sab_classifier"])
def test_another_number_of_heads_gives_other_outputs(case):
    space, (pooling, num_heads), state, inputs, outputs = load(case)
    assert difference(read_official(state, space, pooling, num_heads // 2), inputs, outputs) > 1e-3


@pytest.mark.parametrize("case", ["skips", "deep", "diagonal", "sab_skips", "fc"])
def test_what_is_read_keeps_the_symmetry(case):
    space, options, state, _, _ = load(case)
    assert_equivariant(space, read_official(state, space, *options), 2)


@pytest.mark.parametrize("case", ["classifier", "sab_classifier", "fc_classifier"])
def test_a_classifier_that_is_read_is_invariant(case):
    space, options, state, _, _ = load(case)
    assert_invariant(space, read_official(state, space, *options), 2)


def test_the_columns_that_the_official_code_ties_are_read_tied():
    """B1: weight 1 to the last weight; B2: bias 0 to the last weight. Bias 1 to the last weight is
    not tied."""
    space, options, state, _, _ = load("max")
    layer = read_official(state, space, *options).layers[0].linear
    for source, axes, tied in [
        (2, ("layer2",), True),
        (2, (), True),
        (1, (), True),
        (3, ("layer2",), False),
    ]:
        columns = block_of(layer, axes, 4, source).unflatten(0, (3, -1))
        assert columns.abs().max() > 1e-3
        assert torch.equal(columns[0], columns[2]) == tied


OF_OUTPUT = re.compile(r"layers\.3\.\w+_to_(\w+)\.layers\.\d_(\d)\.(?!.*fc_k\.bias)")
"""Parameters of the last layer by their output, without shifts of keys, which softmax cancels."""


@pytest.mark.parametrize("case", ["mean", "sab"])
def test_every_official_parameter_is_read(case):
    """A parameter that was not read would change nothing. One parameter per output is changed."""
    space, options, state, inputs, _ = load(case)
    before, names = read_official(state, space, *options)(inputs), defaultdict(list)
    for name in state:
        if place := OF_OUTPUT.match(name):
            names[place.groups()].append(name)
    assert len(names) == len(before)
    for together in zip_longest(*names.values()):
        changed = {name: state[name] + 1 for name in together if name}
        after = read_official({**state, **changed}, space, *options)(inputs)
        moved = [(a - b).abs().max() > 1e-6 for a, b in zip(after, before, strict=True)]
        assert sum(moved) == len(changed), list(changed)


def test_official_diagonal_layers_are_our_own():
    space, options, state, inputs, _ = load("diagonal")
    official = read_official(state, space, *options).layers[0]
    ours = EquivariantLinear(space, 2, 2, options[0], diagonal=True).double()
    ours.load_state_dict(official.linear.state_dict())
    for x, y in zip(ours(inputs), official(inputs), strict=True):
        assert torch.allclose(x, y, atol=1e-12)


def test_what_is_read_is_a_copy():
    space, options, state, inputs, outputs = load("sab_skips")
    model = read_official(state, space, *options)
    for tensor in state.values():
        tensor.zero_()
    assert difference(model, inputs, outputs) < 1e-9


def refused(state, space, *options) -> str:
    with pytest.raises(ValueError) as error:  # noqa: PT011
        read_official(state, space, *options)
    return str(error.value)


def test_what_cannot_be_read_is_refused_by_name():
    space, options, state, _, _ = load("max")
    block = "bias_to_bias.layers.0_0.layer.set_layer"
    new = torch.ones(1).double()
    for name, message in (
        ("down_sample.set_layer.attn.query", "input_dim_downsample, found 'layers.0.down_sample"),
        (f"{block}.mab.fc_q.weight", "found also 'bias_to_bias.layers.0_0.Gamma'"),
        (f"{block}.Gamma.2.weight", "'layers.0.bias_to_bias.layers.0_0.Gamma' must have 2 tensors"),
    ):
        assert message in refused({**state, f"layers.0.{name}": new}, space, *options)
    message = refused(state, space, "attn")
    assert message == "pooling must be one of max, mean, sum, got 'attn'"
    message = refused(state, WeightSpace.mlp((3, 5, 4, 3)), *options)
    assert "'0.weight' of shape (6, 6), found (4, 4)" in message
    for widths, counts in (((2, 5, 3), "16 blocks, or 12"), ((2, 5, 4, 6, 3), "64 blocks, or 28")):
        message = refused(state, WeightSpace.mlp(widths), *options)
        assert f"must have {counts} if diagonal, found 36" in message
    turned = [replace(spec, axes=spec.axes[::-1]) for spec in space.tensors]
    assert "must be an MLP's, weight (out, in)" in refused(
        state, WeightSpace(tuple(turned)), *options
    )


def test_heads_are_asked_for_and_must_fit():
    space, (pooling, _), state, _, _ = load("sab")
    message = refused(state, space, pooling)
    assert message.startswith("num_heads must be given for set attention ('sab'; 8 unless")
    message = refused(state, space, pooling, 8)
    assert message == "num_heads must split 4 features into heads of equal width, got 8"
    with pytest.raises(ValueError, match="must split 18 features into heads of equal width, got 4"):
        SetAttention(5, 18, 4)
    assert "num_heads must be an integer" in refused(state, space, pooling, 0)


def test_a_missing_part_is_not_read_as_zero():
    for case, name, message in (
        ("max", "bias_to_bias.layers.0_1.layer.0.bias", "'0.bias' of shape (2,), found none"),
        ("max", "weight_to_weight.layers.1_1.lin_n.0.weight", "'0.weight' of shape (2, 2), found"),
        ("sab", "bias_to_bias.layers.0_0.layer.set_layer.mab.fc_o.bias", "tensor 'fc_o.bias'"),
        ("fc", "bias_to_bias.layers.0_1.layer.2.weight", "'2.weight' of shape (2, 2), found none"),
        ("fc", "skip.2.weight", "'layers.0.skip' must have tensor '2.weight'"),
    ):
        space, options, state, _, _ = load(case)
        del state[f"layers.0.{name}"]
        assert message in refused(state, space, *options)
    for case, place in (("deep", 1), ("deep", 4), ("sab_one_output", 3)):
        space, options, state, _, _ = load(case)
        state = {name: x for name, x in state.items() if not name.startswith(f"layers.{place}.")}
        assert "must have layers at 0," in refused(state, space, *options)


def test_tensors_that_do_not_fit_are_refused_by_name_and_shapes():
    space, options, state, _, _ = load("skips")
    name, norm, skip = (
        "layers.0.bias_to_bias.layers.0_0.layer.set_layer.Gamma.0.bias",
        "layers.1.biases_bn.0.bias",
        "skip.weight",
    )
    for change, message in (
        ({name: torch.full((2,), torch.nan).double()}, rf"{name!r} of shape \(2,\) must be finite"),
        (
            {norm: torch.ones(2)},
            rf"'{norm}' of shape \(2,\) must be .*float64.*found torch.float32",
        ),
        ({name: None}, "must be a torch.Tensor, found a NoneType"),
        (
            {norm: torch.ones(3).double()},
            r"'biases_bn.0' must have tensor 'bias' of shape \(2,\), found \(3,\)",
        ),
        (
            {skip: torch.ones(2, 3).double()},
            r"'skip' must have tensor 'weight' of shape \(2, 2\), found \(2, 3\)",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            read_official(state | change, space, *options)
    with pytest.raises(ValueError, match="must have layers at 0, 3, 6"):
        read_official({}, space, *options)
