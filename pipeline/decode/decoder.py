"""Run many members of a zoo at once, by its decode contract."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from math import prod
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from dwsnet.weight_space import WeightSpace
from pipeline.decode.activations import ACTIVATIONS
from pipeline.decode.contract import CATALOG, DecodeContract, ImageContract
from pipeline.decode.encoding import encoded
from pipeline.errors import InputError
from pipeline.signals import coordinates

KNOWN = {*ACTIVATIONS, CATALOG}
USUAL = {"omega": 30, "sigma": 0.1}
"""Values of parameters, for messages."""
LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in grey (ITU-R BT.601)."""


def coordinates_of(contract: DecodeContract, grid: Sequence[int]) -> Float[Tensor, "points dims"]:
    """Coordinates of the points of a grid as members take them, row-major over the grid, float32.

    If the contract does not say, they run from -1 to 1, as (y, x) for images.
    """
    points = torch.from_numpy(coordinates(tuple(grid), *(contract.coordinate_range or (-1.0, 1.0))))
    is_turned = len(grid) == 2 and "(x, y)" in (contract.coordinate_order or "")
    return points.flip(-1) if is_turned else points


def standardized(images: Tensor, contract: ImageContract) -> Tensor:
    """Images `(batch, channels, height, width)` in [0, 1] as the first layer sees them."""
    if contract.grey and images.shape[1] > 1:
        images = torch.einsum("bchw,c->bhw", images, images.new_tensor(LUMA)).unsqueeze(1)
    mean, std = (
        images.new_tensor(statistic).view(-1, 1, 1) for statistic in (contract.mean, contract.std)
    )
    return (images - mean).div_(std)


class Decoder:
    """Runs members of one weight space by their contract, differentiable in weights and inputs.

    Raises InputError if the contract leaves open how to run them; `what` names the zoo in errors.
    """

    def __init__(self, contract: DecodeContract, space: WeightSpace, what: str):
        weights = [spec for spec in space.tensors if spec.name.endswith(".weight")]
        self.layers = tuple(spec.name.removesuffix(".weight") for spec in weights)
        self.num_convolutions = sum(len(spec.shape) > 2 for spec in weights)
        self.activations = contract.activations or ()
        omega = 1.0 if contract.omega is None else contract.omega
        self.omegas = (*omega, 1.0) if isinstance(omega, tuple) else (omega,) * len(weights)
        self.sigma = 1.0 if contract.sigma is None else contract.sigma
        self.scale = 1.0 if contract.output_scale is None else contract.output_scale
        self.offset = contract.output_offset or 0.0
        self.contract, self.image, self.what = contract, contract.image, what
        self.num_inputs = contract.num_dims(space)
        self._check_layers([len(spec.shape) for spec in weights])
        self._check_encoding(weights[0].shape[1])

    def __call__(
        self,
        state: Mapping[str, Float[Tensor, "members ..."]],
        inputs: Tensor,
        activations: Sequence[str | None] | None = None,
    ) -> Float[Tensor, "members inputs outputs"]:
        """Outputs for stacked state dicts.

        They are `(members, points, channels)`, of classifiers `(members, images, classes)`.

        `inputs`: coordinates `(points, dims)` shared by all members or `(members, points, dims)`;
        for classifiers, images in [0, 1] `(images, channels, height, width)` or
        `(members, images, ...)`. `activations`: each member's own, from the catalog column, if the
        contract says so. Raises InputError for unknown activations and for inputs of another shape.
        """
        self._check_inputs(inputs.shape)
        if CATALOG not in self.activations:
            return self._run(state, inputs, "")
        groups = self._by_activation(activations, len(next(iter(state.values()))))
        if len(groups) == 1:
            return self._run(state, inputs, *groups)
        is_shared = inputs.ndim == (2 if self.image is None else 4)
        parts = [
            self._run(
                {key: tensor[members] for key, tensor in state.items()},
                inputs if is_shared else inputs[members],
                activation,
            )
            for activation, members in groups.items()
        ]
        order = torch.tensor([*chain.from_iterable(groups.values())])
        return torch.cat(parts)[order.argsort()]

    def _run(self, state: Mapping[str, Tensor], inputs: Tensor, own: str) -> Tensor:
        """Like a call, for members whose own activation is the same."""
        num_members = len(next(iter(state.values())))
        values = self._first(inputs)
        for i, (layer, activation) in enumerate(zip(self.layers, self.activations, strict=True)):
            weight, bias = state[f"{layer}.weight"], state.get(f"{layer}.bias")
            if i < self.num_convolutions:
                values = self._convolve(values, weight, bias)  # (images, members * units, ...)
            else:
                if i == self.num_convolutions > 0:
                    values = values.mean((2, 3)).unflatten(1, (num_members, -1)).permute(1, 2, 0)
                values = values.expand(num_members, -1, -1)
                values = (  # (members, units, inputs)
                    torch.bmm(weight, values)
                    if bias is None
                    else torch.baddbmm(bias.unsqueeze(-1), weight, values)
                )
            activation = own if activation == CATALOG else activation
            values = ACTIVATIONS[activation].value(values, self.omegas[i], self.sigma)
        return (self.scale * values + self.offset).transpose(1, 2)

    def _first(self, inputs: Tensor) -> Tensor:
        """Inputs as the first layer takes them: `([members,] dims, points)`.

        For convolutions, maps `(images, [members *] channels, height, width)`.
        """
        if self.image is not None:
            is_shared, images = inputs.ndim == 4, inputs.flatten(0, -4)
            images = standardized(images, self.image)
            if not is_shared:
                images = images.unflatten(0, inputs.shape[:2])
            if self.num_convolutions:
                return images if is_shared else images.transpose(0, 1).flatten(1, 2)
            inputs = images.flatten(-3)
        return encoded(inputs, self.contract.frequencies).transpose(-1, -2)

    def _convolve(self, maps: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Convolve with one group per member, except for images that all members share."""
        return F.conv2d(
            maps,
            weight.flatten(0, 1),
            None if bias is None else bias.flatten(),
            stride=self.image.stride if self.image else 1,
            padding=[size // 2 for size in weight.shape[3:]],
            groups=maps.shape[1] // weight.shape[2],
        )

    def _by_activation(
        self, activations: Sequence[str | None] | None, num_members: int
    ) -> dict[str, list[int]]:
        """The members with each activation. Raises InputError for an unknown one."""
        own: Sequence[str | None] = [None] * num_members if activations is None else activations
        if len(own) != num_members:
            raise self._error(
                f"expected an activation of each of {num_members} members, found {len(own)}"
            )
        groups: dict[Any, list[int]] = {}
        for member, activation in enumerate(own):
            groups.setdefault(activation, []).append(member)
        if unknown := [str(activation) for activation in groups if activation not in ACTIVATIONS]:
            raise self._error(
                f"expected an activation of each member out of {', '.join(ACTIVATIONS)}, "
                f"found {', '.join(unknown)}"
            )
        self._check_parameters(groups)
        return groups

    def _check_inputs(self, shape: torch.Size):
        """Raise InputError unless members take inputs of this shape."""
        what, taken = "dimensions", tuple(shape[-1:])
        if self.image is not None:
            channels = 1 if self.image.grey else shape[-3] if len(shape) > 2 else 0
            what = "channels" if self.num_convolutions else "values"
            taken = (channels,) if self.num_convolutions else (channels, *shape[-2:])
        ranks = (2, 3) if self.image is None else (4, 5)
        if len(shape) not in ranks or prod(taken) != self.num_inputs:
            inputs = "coordinates" if self.image is None else "images"
            raise self._error(
                f"expected {inputs} of {self.num_inputs} {what}, found inputs of shape "
                f"{tuple(shape)}"
            )

    def _check_layers(self, ranks: Sequence[int]):
        """Raise InputError unless the contract covers layers whose weights have these ranks.

        Layers are linear; networks that take images may start with convolutions.
        """
        for i, (layer, rank) in enumerate(zip(self.layers, ranks, strict=True)):
            is_convolution = i < min(self.num_convolutions, len(ranks) - 1)
            if rank != (4 if is_convolution and self.image is not None else 2):
                raise self._error(f"expected linear layers, found {layer!r} of another kind")
        if self.contract.activations is None:
            raise self._error(
                "its record does not say what their activations are: import it with "
                "--set activation=sine --set omega=30, or whatever they are"
            )
        if len(self.activations) != len(ranks) or not KNOWN.issuperset(self.activations):
            raise self._error(
                f"expected an activation of each of {len(ranks)} layers out of "
                f"{', '.join(ACTIVATIONS)}, found {self.contract.activations}"
            )
        self._check_parameters(self.activations)
        if len(self.omegas) != len(ranks):
            raise self._error(
                f"expected omega_0 of each of {len(ranks) - 1} hidden layers, "
                f"found {self.contract.omega}"
            )

    def _check_encoding(self, width: int):
        """Raise InputError unless a first layer of this width takes the encoded coordinates."""
        frequencies = self.contract.frequencies
        if frequencies and width != (expected := self.num_inputs + 2 * len(frequencies)):
            raise self._error(
                f"expected a first layer of {expected} inputs, which coordinates are encoded as, "
                f"found {width}"
            )

    def _check_parameters(self, activations: Iterable[str]):
        for activation in sorted({*activations} - {CATALOG}):
            for name in ACTIVATIONS[activation].parameters:
                if getattr(self.contract, name) is None:
                    raise self._error(
                        f"{activation} activations need {name}, its record has none: import it "
                        f"with --set {name}={USUAL[name]}, or whatever it is"
                    )

    def _error(self, problem: str) -> InputError:
        return InputError(f"cannot run members of {self.what}: {problem}")
