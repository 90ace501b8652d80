"""Models read from official state dicts give the outputs that the official code gave (official_vectors.py made them)."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from dwsnet.official import block_of, read_official
from dwsnet.testing import assert_equivariant, assert_invariant
from dwsnet.weight_space import WeightSpace

DATA = Path(__file__).parent / "data"
CASES = sorted(file.stem.removeprefix("official_") for file in DATA.glob("official_*.safetensors"))


def load(case: str, dtype: torch.dtype = torch.float64):
    """The weight space, the pooling, the state dict, the inputs and the outputs of one case."""
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
    return space, meta["pooling"], state, inputs, outputs


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
    space, pooling, state, inputs, outputs = load(case, dtype)
    assert difference(read_official(state, space, pooling), inputs, outputs) < tolerance


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
    } <= set(CASES)


@pytest.mark.parametrize("case", ["max", "classifier"])
def test_another_pooling_gives_other_outputs(case):
    space, _, state, inputs, outputs = load(case)
    assert difference(read_official(state, space, "mean"), inputs, outputs) > 1e-2


@pytest.mark.parametrize("case", ["skips", "deep", "diagonal"])
def test_what_is_read_keeps_the_symmetry(case):
    space, pooling, state, _, _ = load(case)
    assert_equivariant(space, read_official(state, space, pooling), 2)


def test_a_classifier_that_is_read_is_invariant():
    space, pooling, state, _, _ = load("classifier")
    assert_invariant(space, read_official(state, space, pooling), 2)


def test_the_columns_that_the_official_code_ties_are_read_tied():
    """B1: weight 1 to the last weight; B2: bias 0 to the last weight. Bias 1 to the last weight is not tied."""
    space, pooling, state, _, _ = load("max")
    layer = read_official(state, space, pooling).layers[0]
    for source, axes, tied in [
        (2, ("layer2",), True),
        (2, (), True),
        (1, (), True),
        (3, ("layer2",), False),
    ]:
        columns = block_of(layer, axes, 4, source).unflatten(0, (3, -1))
        assert columns.abs().max() > 1e-3
        assert torch.equal(columns[0], columns[2]) == tied


def test_every_official_parameter_is_read():
    """A parameter whose change changes nothing was forgotten. Only dead ReLUs could excuse one: there are none here."""
    space, _, state, inputs, _ = load("mean")
    before = read_official(state, space, "mean")(inputs)
    for name in [name for name in state if name.startswith("layers.2.")]:
        after = read_official({**state, name: state[name] + 1}, space, "mean")(inputs)
        assert max((a - b).abs().max().item() for a, b in zip(after, before, strict=True)) > 1e-6, (
            name
        )


def test_what_cannot_be_read_is_refused_by_name():
    space, pooling, state, _, _ = load("max")
    block = "layers.0.bias_to_bias.layers.0_0.layer.set_layer"
    for name in (
        f"{block}.mab.fc_q.weight",
        f"{block}.Gamma.2.weight",
        "layers.0.down_sample.set_layer.attn.query",
    ):
        with pytest.raises(ValueError, match=name):
            read_official({**state, name: torch.ones(1)}, space, pooling)
    with pytest.raises(ValueError, match="pooling must be one of max, mean, sum, got 'attn'"):
        read_official(state, space, "attn")
    with pytest.raises(
        ValueError, match=r"'bias_to_weight.layers.0_0.* must have shape \(6,\) .*, found \(4,\)"
    ):
        read_official(state, WeightSpace.mlp((3, 5, 4, 3)), pooling)
    for widths in ((2, 5, 3), (2, 5, 4, 6, 3)):
        with pytest.raises(ValueError, match=r"must have \d+ blocks, or \d+ if diagonal, found 36"):
            read_official(state, WeightSpace.mlp(widths), pooling)


def test_a_missing_part_is_not_read_as_zero():
    space, pooling, state, _, _ = load("max")
    bias = "layers.0.bias_to_bias.layers.0_1.layer.0.bias"
    with pytest.raises(
        ValueError,
        match=r"biases everywhere or nowhere, missing 'bias_to_bias.layers.0_1.layer.0.bias'",
    ):
        read_official({key: x for key, x in state.items() if key != bias}, space, pooling)
    name = "layers.0.weight_to_weight.layers.1_1.lin_n.0.weight"
    with pytest.raises(
        ValueError, match=r"weight_to_weight.layers.1_1 must have 4 weights, found 3"
    ):
        read_official({key: x for key, x in state.items() if key != name}, space, pooling)


@pytest.mark.usefixtures("unchecked")
def test_tensors_that_do_not_fit_are_refused_by_name_and_shapes():
    space, pooling, state, _, _ = load("skips")
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
            read_official(state | change, space, pooling)
    with pytest.raises(ValueError, match="must have layers, found"):
        read_official({}, space, pooling)
