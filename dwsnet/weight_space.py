"""Weight spaces: named tensors whose axes are hidden or fixed (`dwsnet.tensor_spec`)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from numbers import Integral
from typing import get_args

from torch import Tensor, nn

from dwsnet.readers import layers_of_state_dict, tensors_of_module
from dwsnet.tensor_spec import Axis, Role, TensorSpec


@dataclass(frozen=True)
class WeightSpace:
    """The weights and biases of one architecture, and which of their axes may be permuted.

    Features over a weight space are a tuple of tensors, one for each `TensorSpec` in order, of
    shape `(batch, *spec.shape, channels)`.
    """

    tensors: tuple[TensorSpec, ...]

    def __post_init__(self):
        if not self.tensors:
            raise ValueError("a weight space needs at least one tensor, got none")
        names = [spec.name for spec in self.tensors]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(
                f"tensor names of a weight space must differ, got {sorted(twice)} more than once"
            )
        known: dict[str, Axis] = {}
        for spec in self.tensors:
            if len(set(spec.hidden)) < len(spec.hidden):
                raise ValueError(
                    f"tensor {spec.name!r} of shape {spec.shape} must carry each hidden axis once, "
                    f"got {spec.hidden}: a tensor that maps a layer to itself cannot be described"
                )
            if spec.roles is not None and (
                len(spec.roles) != len(spec.axes) or not set(spec.roles) <= set(get_args(Role))
            ):
                raise ValueError(
                    f"roles of {spec.name!r} must be one of {get_args(Role)} for each of its "
                    f"{len(spec.axes)} axes, got {spec.roles}"
                )
            if spec.flat_from is not None and not 0 <= spec.flat_from < len(spec.axes):
                raise ValueError(
                    f"flat_from of {spec.name!r} must be one of its {len(spec.axes)} axes, got "
                    f"{spec.flat_from}"
                )
            for axis in spec.axes:
                if not isinstance(axis.size, Integral) or axis.size < 1:
                    raise ValueError(
                        f"axis {axis.name!r} of {spec.name!r} must have an integer size of at "
                        f"least 1, got {axis.size!r}"
                    )
                if known.setdefault(axis.name, axis) != axis:
                    raise ValueError(
                        f"axis {axis.name!r} must be the same in all tensors, got "
                        f"{known[axis.name]} and {axis} ({spec.name!r})"
                    )

    @classmethod
    def mlp(cls, widths: Sequence[int]) -> "WeightSpace":
        """The space of an MLP with `widths = (inputs, hidden..., outputs)`.

        Its tensors are `layers.0.weight`, `layers.0.bias`, ...

        Weights are `(out, in)` as in torch. Raises ValueError for fewer than two layers: without a
        hidden layer there is nothing to permute.
        """
        widths = tuple(widths)
        if len(widths) < 3:
            raise ValueError(
                f"an MLP weight space needs at least two layers (three widths), got widths {widths}"
            )
        return cls.chain(
            [
                (f"layers.{i}", (outputs, inputs), True)
                for i, (inputs, outputs) in enumerate(pairwise(widths))
            ]
        )

    @classmethod
    def cnn(
        cls, in_channels: int, channels: Sequence[int], kernel_size: int, num_classes: int
    ) -> "WeightSpace":
        """The space of a 2D CNN classifier.

        It has a convolution for each of `channels`, a global average pool and a linear head.
        Kernels are `(out, in, row, column)`; positions in a kernel are fixed axes. Named as in
        `mlp`, the head is last.
        """
        if not channels:
            raise ValueError("a CNN weight space needs at least one convolution, got channels ()")
        shapes: list[tuple[int, ...]] = [
            (outputs, inputs, kernel_size, kernel_size)
            for inputs, outputs in pairwise((in_channels, *channels))
        ]
        shapes.append((num_classes, channels[-1]))
        return cls.chain([(f"layers.{i}", shape, True) for i, shape in enumerate(shapes)])

    @classmethod
    def chain(cls, layers: Sequence[tuple[str, Sequence[int], bool]]) -> "WeightSpace":
        """The space of a chain of layers.

        Each layer is (name, shape of its weight `(out, in, positions...)`, whether it has a bias).

        All outputs but the last are hidden; positions (of a convolution kernel) are fixed. Raises
        ValueError if a layer's inputs do not match the outputs of the layer before.
        """
        if len(layers) < 2:
            raise ValueError(
                f"a weight space needs at least two layers, got {[name for name, _, _ in layers]}: "
                "no hidden neurons"
            )
        for name, shape, _ in layers:
            if len(shape) < 2:
                raise ValueError(
                    f"weight '{name}.weight' must have shape (out, in, positions...), got "
                    f"{tuple(shape)}"
                )
        inputs = Axis("layer0", layers[0][1][1], hidden=False)
        tensors = []
        for i, (name, shape, has_bias) in enumerate(layers, start=1):
            if shape[1] != inputs.size:
                raise ValueError(
                    f"weight '{name}.weight' must take the {inputs.size} outputs of the layer "
                    f"before, got shape {tuple(shape)}"
                )
            outputs = Axis(f"layer{i}", shape[0], hidden=i < len(layers))
            positions = (
                Axis(f"{name}.position{k}", size, hidden=False) for k, size in enumerate(shape[2:])
            )
            axes = (outputs, inputs, *positions)
            summed: list[Role] = ["in"] * (len(axes) - 1)
            tensors.append(TensorSpec(f"{name}.weight", axes, ("out", *summed)))
            if has_bias:
                tensors.append(TensorSpec(f"{name}.bias", (outputs,), ("out",)))
            inputs = outputs
        return cls(tuple(tensors))

    @classmethod
    def from_module(cls, module: nn.Module) -> "WeightSpace":
        """The space of a chain of layers on batched inputs, in the order of application.

        A norm or slopes for channels (dimension 1) after a linear layer must take
        `(batch, features)`. Tensors are named as in `module.state_dict()`. Raises ValueError for a
        module whose symmetry is not known exactly (`dwsnet.readers` has the rules).
        """
        return cls(tensors_of_module(module))

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Tensor]) -> "WeightSpace":
        """The space of a chain of layers, in the order of the dict.

        Each weight is taken as (out, in, positions...); only a module shows what else layers do
        with neurons.
        """
        return cls.chain(layers_of_state_dict(state))

    @classmethod
    def from_shapes(cls, shapes: Mapping[str, Sequence[int]]) -> "WeightSpace":
        """Like `from_state_dict`, from the shapes of the tensors.

        Raises ValueError unless they are `LAYER.weight` and `LAYER.bias` of one chain.
        """
        shapes = {name: tuple(shape) for name, shape in shapes.items()}
        layers = [name.removesuffix(".weight") for name in shapes if name.endswith(".weight")]
        space = cls.chain(
            [(name, shapes[f"{name}.weight"], f"{name}.bias" in shapes) for name in layers]
        )
        if {spec.name: spec.shape for spec in space.tensors} != shapes:
            raise ValueError(
                f"tensors must be weights and biases of a chain of layers, found {shapes}"
            )
        return space

    @property
    def hidden(self) -> dict[str, int]:
        """Size of each hidden axis, by name, in order of first appearance."""
        return {axis.name: axis.size for spec in self.tensors for axis in spec.axes if axis.hidden}

    @property
    def num_parameters(self) -> int:
        return sum(prod(spec.shape) for spec in self.tensors)

    def check_roles(self):
        """Raise ValueError unless all tensors have roles for their hidden axes.

        Every hidden axis must also be computed by one tensor and summed over by another.
        """
        for spec in self.tensors:
            if spec.hidden and spec.roles is None:
                raise ValueError(
                    f"tensor {spec.name!r} must say what it does with its axes "
                    f"{[axis.name for axis in spec.axes]}, such as roles=('out', 'in') for a "
                    "weight that torch stores as (out, in), found no roles"
                )
        for name in self.hidden:
            roles = {spec.name: spec.role(name) for spec in self.tensors if name in spec.hidden}
            if not {"out", "in"} <= set(roles.values()):
                raise ValueError(
                    f"hidden axis {name!r} must be 'out' of one tensor and 'in' of another to be "
                    f"scaled, signed or copied, found roles {roles}"
                )
