"""Members run as functions from their contract alone, against torch.nn."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck

from dwsnet.weight_space import WeightSpace
from pipeline.decode import (
    CATALOG,
    DecodeContract,
    Decoder,
    ImageContract,
    Network,
    coordinates_of,
)
from pipeline.errors import InputError

pytestmark = pytest.mark.fast


class Sine(nn.Module):
    def __init__(self, omega: float):
        super().__init__()
        self.omega = omega

    def forward(self, values: Tensor) -> Tensor:
        return torch.sin(self.omega * values)


class Grey(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        red, green, blue = images.unbind(1)
        return (0.299 * red + 0.587 * green + 0.114 * blue).unsqueeze(1)


class Standardize(nn.Module):
    def __init__(self, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        self.mean, self.std = mean, std

    def forward(self, images: Tensor) -> Tensor:
        channels = zip(images.unbind(1), self.mean, self.std, strict=True)
        return torch.stack([(image - mean) / std for image, mean, std in channels], 1)


MODULES = {"relu": nn.ReLU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid, "gelu": nn.GELU}
MIXED = ("relu", "sine", "gelu", "relu", "tanh", "sigmoid")
MEMBERS = len(MIXED)


def contract(activations: Sequence[str] | None, **known) -> DecodeContract:
    unknown = dict.fromkeys(DecodeContract.model_fields) | {"activations": activations}
    return DecodeContract(**unknown | known)


def without_biases(space: WeightSpace) -> WeightSpace:
    weights = [spec for spec in space.tensors if spec.name.endswith("weight")]
    return WeightSpace.chain(
        [(spec.name.removesuffix(".weight"), spec.shape, False) for spec in weights]
    )


SIREN, MLP = WeightSpace.mlp((3, 7, 5, 2)), WeightSpace.mlp((54, 7, 5, 4))
CNN = WeightSpace.cnn(2, (6, 5), 3, 4)
OBLONG = WeightSpace.chain(
    [("a", (6, 2, 3, 5), True), ("b", (5, 6, 1, 2), True), ("c", (4, 5), True)]
)
SINES, OWN = ("sine", "sine", "linear"), (CATALOG, CATALOG, "linear")
GREY = ImageContract(grey=True, mean=(0.4,), std=(0.3,))
TWO = ImageContract(grey=False, mean=(0.4, 0.1), std=(0.3, 0.7), stride=2)
ONE_OMEGA = contract(SINES, omega=30.0, output_offset=0.5)
CASES = {
    "siren": (ONE_OMEGA, SIREN, (11, 3)),
    "omegas": (contract(SINES, omega=(7.0, 1.5), output_offset=0.25), SIREN, (11, 3)),
    "scaled": (contract(SINES, omega=2.0, output_scale=0.05, output_offset=0.5), SIREN, (11, 3)),
    "siren without biases": (ONE_OMEGA, without_biases(SIREN), (11, 3)),
    "coordinates, mixed": (contract(OWN, omega=2.0), SIREN, (11, 3)),
    "mlp": (contract(("relu", "gelu", "linear"), image=GREY), MLP, (9, 3, 6, 9)),
    "mlp, mixed": (contract(OWN, omega=1.0, image=GREY), MLP, (9, 3, 6, 9)),
    "cnn": (contract(("tanh", "relu", "linear"), image=TWO), CNN, (9, 2, 6, 9)),
    "cnn of oblong kernels": (
        contract(("tanh", "relu", "linear"), image=TWO),
        OBLONG,
        (9, 2, 6, 9),
    ),
    "cnn, mixed": (contract(OWN, omega=1.0, image=TWO), CNN, (9, 2, 6, 9)),
    "cnn without biases": (contract(OWN, omega=1.0, image=TWO), without_biases(CNN), (9, 2, 6, 9)),
}


def drawn(space: WeightSpace, dtype: torch.dtype, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        spec.name: torch.randn(MEMBERS, *spec.shape, dtype=dtype, generator=generator) / 3
        for spec in space.tensors
    }


def inputs_of(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.rand(shape, dtype=dtype, generator=torch.Generator().manual_seed(1))


def in_torch(how: DecodeContract, state: dict[str, Tensor], own: str) -> nn.Module:
    """One member as a handwritten torch module."""
    names = [name.removesuffix(".weight") for name in state if name.endswith(".weight")]
    modules: list[nn.Module] = []
    if how.image is not None:
        modules += [Grey()] if how.image.grey else []
        modules += [Standardize(how.image.mean, how.image.std)]
        modules += [nn.Flatten()] if state[f"{names[0]}.weight"].ndim == 2 else []
    omegas = how.omega if isinstance(how.omega, tuple) else (how.omega,) * len(names)
    for i, name in enumerate(names):
        tensors = {
            part: state[f"{name}.{part}"]
            for part in ("weight", "bias")
            if f"{name}.{part}" in state
        }
        size_out, size_in, *kernel = tensors["weight"].shape
        if kernel:
            padding = [size // 2 for size in kernel]
            layer = nn.Conv2d(size_in, size_out, kernel, 2, padding, bias="bias" in tensors)
        else:
            is_after_maps = i and state[f"{names[i - 1]}.weight"].ndim == 4
            modules += [nn.AdaptiveAvgPool2d(1), nn.Flatten()] if is_after_maps else []
            layer = nn.Linear(size_in, size_out, bias="bias" in tensors)
        layer.to(tensors["weight"].dtype).load_state_dict(tensors)
        modules.append(layer)
        activation = own if how.activations[i] == CATALOG else how.activations[i]
        if activation != "linear":
            modules.append(Sine(omegas[i]) if activation == "sine" else MODULES[activation]())
    return nn.Sequential(*modules)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-13)])
@pytest.mark.parametrize("is_shared", [True, False], ids=["shared", "own"])
@pytest.mark.parametrize("case", CASES)
def test_members_return_what_torch_returns(case, is_shared, dtype, tolerance):
    how, space, shape = CASES[case]
    decode, state = Decoder(how, space, "zoo x"), drawn(space, dtype)
    if how.omega == 30.0:  # as in a SIREN: sines of large numbers lose digits in any arithmetic
        for name in ("layers.0.weight", "layers.1.weight"):
            state[name] = state[name] / 30
    inputs = inputs_of(shape if is_shared else (MEMBERS, *shape), dtype)
    found = decode(state, inputs, MIXED)
    assert found.shape == (MEMBERS, shape[0], space.tensors[-1].shape[0])
    assert found.dtype == dtype
    for i, own in enumerate(MIXED):
        member = {name: tensor[i] for name, tensor in state.items()}
        wanted = in_torch(how, member, own)(inputs if is_shared else inputs[i])
        wanted = (how.output_scale or 1.0) * wanted + (how.output_offset or 0.0)
        torch.testing.assert_close(found[i], wanted, rtol=0, atol=tolerance)
        alone = Network(decode, member, own)
        assert list(alone.state_dict()) == list(member)
        torch.testing.assert_close(
            alone(inputs if is_shared else inputs[i]), wanted, rtol=0, atol=tolerance
        )


def test_another_activation_omega_or_stride_is_another_function():
    for case, changes in (
        ("mlp, mixed", {}),
        ("omegas", {"omega": (1.5, 7.0)}),
        ("scaled", {"output_scale": None}),
        ("cnn", {"image": TWO.model_copy(update={"stride": 1})}),
        ("mlp", {"image": GREY.model_copy(update={"std": (0.31,)})}),
    ):
        how, space, shape = CASES[case]
        state, inputs = drawn(space, torch.float64), inputs_of(shape, torch.float64)
        found = Decoder(how, space, "zoo x")(state, inputs, MIXED)
        other = Decoder(how.model_copy(update=changes), space, "zoo x")
        assert (found - other(state, inputs, MIXED[::-1])).abs().max() > 1e-3, case


@pytest.mark.parametrize("is_shared", [True, False], ids=["shared", "own"])
@pytest.mark.parametrize("case", ["siren without biases", "coordinates, mixed", "cnn, mixed"])
def test_outputs_are_twice_differentiable_in_weights_and_inputs(case, is_shared):
    how, space, shape = CASES[case]
    own = ("tanh", "sine", "gelu")  # without the kink of a ReLU
    state = {
        name: tensor[:3].requires_grad_() for name, tensor in drawn(space, torch.float64).items()
    }
    small = (2, *shape[1:]) if is_shared else (3, 2, *shape[1:])
    inputs = inputs_of(small, torch.float64).requires_grad_()
    decode = Decoder(how.model_copy(update={"omega": 1.5}), space, "zoo x")

    def run(inputs: Tensor, *tensors: Tensor) -> Tensor:
        return decode(dict(zip(state, tensors, strict=True)), inputs, own)

    arguments = (inputs, *state.values())
    assert gradcheck(run, arguments, fast_mode=True)
    assert gradgradcheck(run, arguments, fast_mode=True)


def test_coordinates_are_those_of_the_grid_in_the_contracts_range_and_order():
    how = contract(("sine", "linear"), omega=1.0)
    plain = coordinates_of(how, (2, 3))
    assert plain.tolist() == [[-1, -1], [-1, 0], [-1, 1], [1, -1], [1, 0], [1, 1]]
    update = {"coordinate_range": (0.0, 4.0), "coordinate_order": "row-major: (x, y)"}
    turned = coordinates_of(how.model_copy(update=update), (2, 3))
    assert turned.tolist() == [[0, 0], [2, 0], [4, 0], [0, 4], [2, 4], [4, 4]]


def test_a_member_by_itself_takes_coordinates_of_any_shape():
    state = {name: tensor[0] for name, tensor in drawn(SIREN, torch.float64).items()}
    module = Network(Decoder(ONE_OMEGA, SIREN, "zoo x"), state)
    points = inputs_of((4, 5, 3), torch.float64)
    assert module(points).shape == (4, 5, 2)
    torch.testing.assert_close(module(points)[1, 2], module(points[1, 2]))


CONVOLUTION_LAST = WeightSpace.chain(
    [("layers.0", (3, 2, 3, 3), True), ("layers.1", (2, 3, 3, 3), True)]
)


@pytest.mark.parametrize(
    ("how", "space", "message"),
    [
        (
            contract(None),
            SIREN,
            "its record does not say what their activations are: import it with --set acti",
        ),
        (contract(("swish", "relu", "linear")), SIREN, r".*found \('swish', 'relu', 'linear'\)"),
        (
            contract(("relu", "linear")),
            SIREN,
            r".* of each of 3 layers .*found \('relu', 'linear'\)",
        ),
        (contract(SINES), SIREN, "sine activations need omega, its record has none"),
        (
            contract(SINES, omega=(1.0, 2.0, 3.0)),
            SIREN,
            r"expected omega_0 of each of 2 hidden layers, found \(1.0, 2.0, 3.0\)",
        ),
        (contract(SINES, omega=1.0), CNN, "expected linear layers, found 'layers.0' of another"),
        (
            contract(("relu", "linear"), image=TWO),
            CONVOLUTION_LAST,
            "expected linear layers, found 'layers.1' of another kind",
        ),
    ],
)
def test_what_a_record_leaves_open_is_named(how, space, message):
    with pytest.raises(InputError, match=f"^cannot run members of zoo x: {message}"):
        Decoder(how, space, "zoo x")


@pytest.mark.parametrize(
    ("activations", "message"),
    [
        (None, "expected an activation of each member out of sine, .*, found None"),
        (("swish", *MIXED[1:]), "expected an activation of each member out of .*, found swish"),
        (MIXED[:-1], "expected an activation of each of 6 members, found 5"),
        (MIXED, "sine activations need omega"),
    ],
)
def test_what_the_catalog_leaves_open_is_named(activations, message):
    decode = Decoder(contract(OWN), SIREN, "zoo x")
    with pytest.raises(InputError, match=f"^cannot run members of zoo x: {message}"):
        decode(drawn(SIREN, torch.float32), torch.rand(2, 3), activations)


@pytest.mark.parametrize(
    ("case", "shape", "expected"),
    [
        ("siren", (11, 2), "coordinates of 3 dimensions"),
        ("siren", (3,), "coordinates of 3 dimensions"),
        ("siren", (MEMBERS, 9, 11, 3), "coordinates of 3 dimensions"),
        ("mlp", (9, 3, 6, 8), "images of 54 values"),
        ("mlp", (9, 54), "images of 54 values"),
        ("cnn", (9, 3, 6, 9), "images of 2 channels"),
        ("cnn", (6, 9), "images of 2 channels"),
    ],
)
def test_inputs_of_another_shape_are_refused(case, shape, expected):
    how, space, _ = CASES[case]
    decode = Decoder(how, space, "zoo x")
    with pytest.raises(InputError) as caught:
        decode(drawn(space, torch.float32), torch.zeros(shape))
    assert str(caught.value) == (
        f"cannot run members of zoo x: expected {expected}, found inputs of shape {shape}"
    )
