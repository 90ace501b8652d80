"""How each layer of torch treats the neurons of a value, and which tensors it has.

Layers that compute new neurons from the old ones, or treat all neurons alike, are described
exactly; all others raise ValueError.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from dwsnet.neurons import (
    Description,
    Dim,
    Value,
    channel_dim,
    describe,
    flattened,
    over_positions,
    read_axes,
)
from dwsnet.tensor_spec import Axis, Role


def linear(to: Description, name: str, layer: nn.Linear, value: Value) -> Value:
    inputs = read_axes(to, name, value, -1, layer.in_features)
    outputs = to.compute(layer.out_features)
    _add_weight(to, name, layer, outputs, inputs, (), value)
    before = (value.dims or (Dim(),))[:-1]
    return Value((*before, Dim(outputs)), value.all_known)


def embedding(to: Description, name: str, layer: nn.Embedding, value: Value) -> Value:
    if value.dims is not None:
        raise ValueError(
            f"embedding {name!r} must take the network's input, found neurons before it"
        )
    entries, outputs = to.input(name, layer.num_embeddings), to.compute(layer.embedding_dim)
    role: Role = "out" if layer.max_norm is None else "none"
    to.add(name, "weight", (entries, outputs), ("in", role), False)
    return Value((Dim(), Dim(outputs)))


def convolution(to: Description, name: str, layer: nn.Module, value: Value) -> Value:
    """Convolutions, transposed ones (stored as (in, out, ...)) and depthwise ones.

    The latter compute no new neurons: each output is the neuron of its single input.
    """
    num_positions = len(layer.kernel_size)
    if value.dims is not None and (not value.all_known or len(value.dims) != num_positions + 1):
        raise ValueError(
            f"layer {name!r} must take a batch of channels with {num_positions} dimensions of "
            f"positions, found neurons of {describe(value)}"
        )
    inputs = read_axes(to, name, value, -1 - num_positions, layer.in_channels)
    if len(inputs) > 1:
        raise ValueError(
            f"layer {name!r} must take channels, found the positions of {describe(value)} among "
            "them"
        )
    positions = tuple(
        Axis(f"{name}.position{i}", size, hidden=False) for i, size in enumerate(layer.kernel_size)
    )
    if layer.groups == 1:
        outputs = to.compute(layer.out_channels)
        _add_weight(to, name, layer, outputs, inputs, positions, value)
    elif layer.groups == layer.in_channels == layer.out_channels:
        (outputs,) = inputs
        alone = Axis(f"{name}.group", 1, hidden=False)
        others: list[Role] = ["in"] * num_positions
        to.add(name, "weight", (outputs, alone, *positions), ("none", "in", *others), False)
        if layer.bias is not None:
            to.add(name, "bias", (outputs,), ("out",), False)
    else:
        raise ValueError(
            f"layer {name!r} must have groups=1, or as many as inputs and outputs (depthwise), "
            f"cannot describe a convolution of {layer.groups} groups"
        )
    scalable = value.scalable or layer.groups == 1
    return Value((Dim(outputs), *[Dim()] * num_positions), all_known=True, scalable=scalable)


def _add_weight(
    to: Description,
    name: str,
    layer: nn.Module,
    outputs: Axis,
    inputs: tuple[Axis, ...],
    positions: tuple[Axis, ...],
    value: Value,
):
    """Add weight and bias of a layer that computes neurons.

    Inputs that are not scalable have no role, so that nothing scales them.
    """
    summed: Role = "in" if value.scalable else "none"
    axes: tuple[Axis, ...] = (outputs, *inputs, *positions)
    roles: tuple[Role, ...] = ("out", *[summed] * len(inputs))
    if getattr(layer, "transposed", False):
        axes, roles = (*inputs, outputs, *positions), (*[summed] * len(inputs), "out")
    other_roles: list[Role] = ["in"] * len(positions)
    roles = (*roles, *other_roles)
    to.add(name, "weight", axes, roles, flat=len(inputs) > 1)
    if layer.bias is not None:
        to.add(name, "bias", (outputs,), ("out",), False)


def channel_norm(to: Description, name: str, layer: nn.Module, value: Value) -> Value:
    """Batch norm and instance norm: statistics, gain and shift per channel."""
    num_positions = int(type(layer).__name__[-2])
    dims = [1 + num_positions] + [1] * isinstance(layer, nn.BatchNorm1d)
    dim = channel_dim(name, value)
    if value.dims is not None and -dim not in dims:
        raise ValueError(
            f"norm {name!r} must be for {describe(value)}, found {type(layer).__name__}"
        )
    axes = read_axes(to, name, value, dim, layer.num_features)
    return _norm(to, name, layer, axes, value, ("running_mean", "running_var"))


def group_norm(to: Description, name: str, layer: nn.GroupNorm, value: Value) -> Value:
    axes = read_axes(to, name, value, channel_dim(name, value), layer.num_channels)
    if axes[0].hidden and layer.num_groups not in (1, layer.num_channels):
        raise ValueError(
            f"norm {name!r} must have one group, or one for each channel, to treat neurons alike, "
            f"found {layer.num_groups}"
        )
    return _norm(to, name, layer, axes, value)


def layer_norm(to: Description, name: str, layer: nn.Module, value: Value) -> Value:
    """LayerNorm or RMSNorm over the last dimensions: neurons, positions or both."""
    sizes: tuple[int, ...] = layer.normalized_shape
    axes: list[Axis] = []
    if value.dims is not None and len(value.dims) < len(sizes):
        raise ValueError(f"norm {name!r} must be over {describe(value)} at most, found {sizes}")
    if len(sizes) > 1 and any(dim.flat for dim in value.dims or ()):
        raise ValueError(f"norm {name!r} must be over the last dimension of {describe(value)}")
    for dim, size in enumerate(sizes, start=-len(sizes)):
        if value.dims is not None and value.dims[dim].axis:
            axes += read_axes(to, name, value, dim, size)
        else:
            axes.append(Axis(f"{name}.position{dim + len(sizes)}", size, hidden=False))
    return _norm(to, name, layer, tuple(axes), value)


def _norm(
    to: Description,
    name: str,
    layer: nn.Module,
    axes: tuple[Axis, ...],
    value: Value,
    statistics: Sequence[str] = (),
) -> Value:
    for dim in value.dims or ():
        if dim.axis:
            to.forget_scale(dim.axis)
    has = {key for key, x in layer.named_parameters(recurse=False) if x is not None}
    has |= {key for key, x in layer.named_buffers(recurse=False) if x is not None}
    flat = any(dim.flat for dim in value.dims or ()) and len(axes) > 1
    # A gain without a shift could be mistaken for a bias, so it has no role, and the axis no "out".
    role: Role = "out" if "bias" in has else "none"
    for key in ("weight", "bias"):
        if key in has:
            to.add(name, key, axes, [role if axis.hidden else "none" for axis in axes], flat)
    for key in statistics:
        if key in has:
            to.add(name, key, axes, ["none"] * len(axes), flat)
    return replace(value, scalable=True)


def prelu(to: Description, name: str, layer: nn.PReLU, value: Value) -> Value:
    if layer.num_parameters == 1:
        axes: tuple[Axis, ...] = (Axis(f"{name}.slope", 1, hidden=False),)
    else:
        axes = read_axes(to, name, value, channel_dim(name, value), layer.num_parameters)
    flat = len(axes) > 1
    to.add(name, "weight", axes, ["none"] * len(axes), flat)
    return value


def elementwise(to: Description, name: str, layer: nn.Module, value: Value) -> Value:
    return value


def softmax(to: Description, name: str, layer: nn.Module, value: Value) -> Value:
    """Softmax over neurons or positions, which treats all alike, but none can be scaled."""
    return replace(value, scalable=False)


def positions(to: Description, name: str, layer: nn.Module, value: Value) -> Value:
    return over_positions(name, value, int(type(layer).__name__[-2]))


def padding(to: Description, name: str, layer: nn.Module, value: Value) -> Value:
    """Padding with a constant, which does not scale with a neuron unless it is 0."""
    value = positions(to, name, layer, value)
    return replace(value, scalable=value.scalable and layer.value == 0)


def upsample(to: Description, name: str, layer: nn.Upsample, value: Value) -> Value:
    return over_positions(name, value, len(value.dims or ()) - 1)


def flatten(to: Description, name: str, layer: nn.Flatten, value: Value) -> Value:
    return flattened(name, value, layer.start_dim, layer.end_dim)


Rule = Callable[[Description, str, Any, Value], Value]
NAMES: dict[Rule, str] = {
    linear: "Linear",
    embedding: "Embedding",
    convolution: "Conv1d Conv2d Conv3d ConvTranspose1d ConvTranspose2d ConvTranspose3d",
    channel_norm: "BatchNorm1d BatchNorm2d BatchNorm3d "
    "InstanceNorm1d InstanceNorm2d InstanceNorm3d",
    group_norm: "GroupNorm",
    layer_norm: "LayerNorm RMSNorm",
    prelu: "PReLU",
    flatten: "Flatten",
    upsample: "Upsample",
    positions: "MaxPool1d MaxPool2d MaxPool3d AvgPool1d AvgPool2d AvgPool3d LPPool1d LPPool2d "
    "AdaptiveAvgPool1d AdaptiveAvgPool2d AdaptiveAvgPool3d AdaptiveMaxPool1d AdaptiveMaxPool2d "
    "AdaptiveMaxPool3d ReflectionPad1d ReflectionPad2d ReplicationPad1d ReplicationPad2d",
    padding: "ZeroPad1d ZeroPad2d ZeroPad3d ConstantPad1d ConstantPad2d ConstantPad3d",
    softmax: "Softmax Softmax2d LogSoftmax Softmin",
    elementwise: "Identity Dropout Dropout1d Dropout2d Dropout3d AlphaDropout ReLU ReLU6 LeakyReLU "
    "ELU SELU CELU GELU SiLU Mish Hardswish Hardsigmoid Hardtanh Sigmoid Tanh Softplus Softsign "
    "Softshrink Hardshrink Tanhshrink LogSigmoid Threshold RReLU",
}
RULES: dict[type[nn.Module], Rule] = {
    getattr(nn, name): rule for rule, names in NAMES.items() for name in names.split()
}
"""Rules by exact class, as subclasses may behave differently."""
