"""Names and axis orders of tensors, in other formats and here.

Here, a chain of layers has `layers.{i}.weight`, `(out, in, positions...)` as in torch, and
`layers.{i}.bias`. Other formats name layers differently, and Keras and Flax store kernels with the
outputs last, `(positions..., in, out)`. Only names and axis orders differ, so values are converted
bit for bit in both directions.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dwsnet.weight_space import WeightSpace
from pipeline.errors import InputError

NAME = re.compile(r"(?P<layer>.+)[./](?P<kind>weight|kernel|bias)(:0)?")


def kind_of(name: str) -> str:
    """Weight, kernel or bias, of a tensor whose name says it."""
    match = NAME.fullmatch(name)
    assert match is not None
    return match["kind"]


@dataclass(frozen=True)
class NamedTensor:
    """A tensor of a member, here and in the other format."""

    name: str
    shape: tuple[int, ...]
    theirs: str
    their_shape: tuple[int, ...]

    @property
    def outputs_last(self) -> bool:
        return kind_of(self.theirs) == "kernel"

    def read(self, array: np.ndarray) -> np.ndarray:
        """`(members, *their_shape)` to `(members, *shape)`."""
        if not self.outputs_last:
            return array.reshape(-1, *self.shape)
        outputs, inputs, *positions = self.shape
        array = array.reshape(-1, *positions, inputs, outputs)
        return np.moveaxis(array, (-1, -2), (1, 2))

    def write(self, array: np.ndarray) -> np.ndarray:
        """`(members, *shape)` to `(members, *their_shape)`."""
        if self.outputs_last:
            array = np.moveaxis(array, (1, 2), (-1, -2))
        return array.reshape(-1, *self.their_shape)


@dataclass(frozen=True)
class Layout:
    """The tensors of a member in the order of the other format, and their weight space."""

    tensors: tuple[NamedTensor, ...]
    space: WeightSpace

    @property
    def num_layers(self) -> int:
        return sum(tensor.name.endswith(".weight") for tensor in self.tensors)

    @property
    def num_parameters(self) -> int:
        return self.space.num_parameters

    def rows(self, theirs: Mapping[str, np.ndarray]) -> np.ndarray:
        """`(members, parameters)` float32 in our order, from stacked tensors of the format."""
        ours = {tensor.name: tensor.read(theirs[tensor.theirs]) for tensor in self.tensors}
        parts = [ours[spec.name].reshape(len(ours[spec.name]), -1) for spec in self.space.tensors]
        return np.concatenate(parts, axis=1, dtype=np.float32)

    def theirs(self, block: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Stacked tensors with the names and order of the other format, from a block of ours."""
        return {tensor.theirs: tensor.write(block[tensor.name]) for tensor in self.tensors}


def layout_of(shapes: Sequence[tuple[str, tuple[int, ...]]]) -> Layout:
    """The layout of a member with tensors of these names and shapes, in the order of the layers.

    The weight of a linear layer after flattened feature maps is `(out, channels, positions)`, so
    that the channels stay one axis. Raises InputError for anything but a chain of linear and
    convolution layers.
    """
    layers: dict[str, dict[str, tuple[str, tuple[int, ...]]]] = {}
    for name, shape in shapes:
        match = NAME.fullmatch(name)
        if match is None:
            raise InputError(
                f"tensor {name!r} must be the weight, kernel or bias of a layer, found shape "
                f"{tuple(shape)}"
            )
        kind = "bias" if match["kind"] == "bias" else "weight"
        layers.setdefault(match["layer"], {})[kind] = (name, tuple(shape))
    named, chain, inputs = {}, [], None
    for i, (layer, found) in enumerate(layers.items()):
        weight, their_shape = found.get("weight", (layer, ()))
        if len(their_shape) not in (2, 4):
            raise InputError(
                f"layer {layer!r} must have a weight of a linear or convolution layer, found shape "
                f"{their_shape}"
            )
        shape = weight_shape(weight, their_shape, inputs)
        chain.append((f"layers.{i}", shape, "bias" in found))
        named[weight] = NamedTensor(f"layers.{i}.weight", shape, weight, their_shape)
        if "bias" in found:
            bias, bias_shape = found["bias"]
            if bias_shape != shape[:1]:
                raise InputError(f"tensor {bias!r} must have shape {shape[:1]}, found {bias_shape}")
            named[bias] = NamedTensor(f"layers.{i}.bias", bias_shape, bias, bias_shape)
        inputs = shape[0]
    return Layout(tuple(named[name] for name, _ in shapes), chain_space(chain))


def weight_shape(name: str, shape: tuple[int, ...], inputs: int | None) -> tuple[int, ...]:
    """Our shape `(out, in, positions...)` of a weight; `inputs` is the width before it."""
    if kind_of(name) == "kernel":
        *positions, ins, outs = shape
        shape = (outs, ins, *positions)
    if len(shape) == 2 and inputs is not None and shape[1] > inputs and shape[1] % inputs == 0:
        return shape[0], inputs, shape[1] // inputs
    return shape


def chain_space(chain: list[tuple[str, tuple[int, ...], bool]]) -> WeightSpace:
    try:
        return WeightSpace.chain(chain)
    except ValueError as error:
        raise InputError(f"the tensors are not those of one chain of layers: {error}") from error


def natural(name: str) -> list[tuple[int, str]]:
    """Sort key that puts `layers.10` after `layers.9`, for formats that do not keep the order."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def layout_for(
    space: WeightSpace,
    layer_name: Callable[[int, int], str],
    weight: str = "weight",
    bias: str = "bias",
) -> Layout:
    """The layout of members of `space` in another format.

    `layer_name(i, number of fixed positions)` is its name of a layer, `weight` and `bias` (with a
    separator) are its suffixes of the two tensors.
    """
    tensors = []
    num_positions = {
        spec.name.rsplit(".", 1)[0]: len(spec.shape[2:])
        for spec in space.tensors
        if len(spec.shape) > 1
    }
    for spec in space.tensors:
        layer, kind = spec.name.rsplit(".", 1)
        positions = spec.shape[2:]
        outputs_last = kind == "weight" and "kernel" in weight
        shape = spec.shape
        if len(positions) == 1:
            shape = (shape[0], shape[1] * positions[0])
        if outputs_last:
            shape = (*shape[2:], shape[1], shape[0])
        name = layer_name(int(layer.split(".")[1]), num_positions[layer]) + (
            weight if kind == "weight" else bias
        )
        tensors.append(NamedTensor(spec.name, spec.shape, name, shape))
    return Layout(tuple(tensors), space)
