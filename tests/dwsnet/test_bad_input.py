"""Each mistake in what comes from outside gets one sentence that names the tensor and both shapes."""

import pytest
import torch

from dwsnet import DWSNetClassifier, EquivariantLinear, InvariantLinear, WeightSpace

pytestmark = pytest.mark.usefixtures("unchecked")

SPACE = WeightSpace.mlp((2, 5, 4, 3))


def state() -> dict[str, torch.Tensor]:
    return {spec.name: torch.randn(6, *spec.shape) for spec in SPACE.tensors}


def without(name):
    return {key: tensor for key, tensor in state().items() if key != name}


NAN = torch.randn(6, 4)
NAN[2, 1] = torch.nan
MISTAKES = {
    "wrong width": (
        {"layers.1.weight": torch.randn(6, 4, 7)},
        r"'layers.1.weight' must have shape \(batch, 4, 5\), found \(6, 4, 7\)",
    ),
    "transposed": (
        {"layers.1.weight": torch.randn(6, 5, 4)},
        r"'layers.1.weight'.*\(batch, 4, 5\), found \(6, 5, 4\); it looks transposed",
    ),
    "no batch": ({"layers.1.bias": torch.randn(4)}, r"'layers.1.bias' must have shape \(batch, 4\), found \(4,\)"),
    "other batch": ({"layers.1.bias": torch.randn(5, 4)}, r"'layers.1.bias' must have 6 members.*\(5, 4\)"),
    "extra": ({"layers.3.weight": torch.randn(6, 3, 3)}, r"found also \['layers.3.weight'\]"),
    "NaN": ({"layers.1.bias": NAN}, r"'layers.1.bias' of shape \(6, 4\) must be finite.*member 2"),
    "infinite": ({"layers.0.bias": torch.full((6, 5), torch.inf)}, r"'layers.0.bias'.*must be finite.*member 0"),
    "dtype": ({"layers.0.bias": torch.randn(6, 5).double()}, r"'layers.0.bias'.*float32.*found torch.float64"),
    "integers": ({"layers.0.weight": torch.ones(6, 5, 2, dtype=torch.long)}, r"'layers.0.weight'.*floating point.*int64"),
    "device": ({"layers.0.bias": torch.empty(6, 5, device="meta")}, r"'layers.0.bias'.*on cpu.*found torch.float32 on meta"),
}


@pytest.fixture(scope="module")
def model() -> DWSNetClassifier:
    return DWSNetClassifier(SPACE, 10, channels=4, num_layers=2, head_width=8).eval()


@pytest.mark.parametrize(("change", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_named(model, change, message):
    model(state())
    with pytest.raises(ValueError, match=message):
        model(state() | change)


def test_a_missing_tensor_and_an_empty_batch_are_named(model):
    with pytest.raises(ValueError, match=r"missing \['layers.2.bias'\]"):
        model(without("layers.2.bias"))
    with pytest.raises(ValueError, match=r"'layers.0.weight' must have at least one member, found shape \(0, 5, 2\)"):
        model({name: tensor[:0] for name, tensor in state().items()})


@pytest.mark.parametrize(
    "layer", [EquivariantLinear(SPACE, 3, 2), InvariantLinear(SPACE, 3, 2)], ids=lambda x: type(x).__name__
)
def test_features_of_another_space_are_named(layer):
    features = [torch.randn(6, *spec.shape, 3) for spec in SPACE.tensors]
    layer(features)
    with pytest.raises(ValueError, match="one tensor for each of the 6"):
        layer(features[:-1])
    features[2] = features[2].transpose(1, 2)
    with pytest.raises(ValueError, match=r"'layers.1.weight' must have shape \(batch, 4, 5, 3\), found \(6, 5, 4, 3\)"):
        layer(features)
