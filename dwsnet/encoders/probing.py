"""Probing: networks are run on some inputs, and their outputs are read.

This is another class of access than reading weights: it needs to know how the networks compute.
What the same encoder reads on inputs that are not learned says what running them gives by itself.
"""

from collections.abc import Callable, Mapping
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dwsnet.encoders.encoder import Encoder
from dwsnet.encoders.flat import two_layers
from dwsnet.state import check_counts, read_state
from dwsnet.weight_space import WeightSpace

Activation = Callable[[Tensor], Tensor]


class ProbingEncoder(Encoder):
    """Outputs of the networks on `num_probes` inputs, standardised, and two layers of `width`.

    The inputs are learned, starting from uniform ones on [-1, 1] (Kahana et al. 2024, deep linear
    probe generators, without their generator), or stay as they are if not `learned`. Maps stacked
    state dicts to `(batch, width)`. Invariant to everything that leaves the networks' functions as
    they are. `activation` is that of all hidden layers. Raises ValueError for a space that is not
    an MLP's: a weight (out, in) and its bias (out) in turn.
    """

    def __init__(
        self,
        space: WeightSpace,
        width: int,
        num_probes: int,
        activation: Activation,
        learned: bool = True,
    ):
        super().__init__()
        check_counts(width=width, num_probes=num_probes)
        check_mlp(space)
        self.space, self.width, self.activation = space, width, activation
        num_inputs, num_outputs = space.tensors[0].shape[1], space.tensors[-1].shape[0]
        self.probes = nn.Parameter(
            2 * torch.rand(num_probes, num_inputs) - 1, requires_grad=learned
        )
        self.register_buffer("mean", torch.zeros(num_outputs))
        self.register_buffer("std", torch.ones(num_outputs))
        self.layers = two_layers(num_probes * num_outputs, width)

    def calibrate(
        self, statistics: Mapping[str, Mapping[str, float]], state: Mapping[str, Tensor]
    ) -> "ProbingEncoder":
        """Standardise each output by its mean and std over the given networks and the probes."""
        with torch.no_grad():
            found = self.outputs(state).flatten(0, 1)  # (batch * probes, outputs)
        std = found.std(0, correction=0)
        self.mean.copy_(found.mean(0))
        self.std.copy_(torch.where(std > 0, std, 1))
        return self

    def outputs(self, state: Mapping[str, Tensor]) -> Float[Tensor, "batch probes outputs"]:
        tensors = read_state(self.space, state)
        layers = [*zip(tensors[::2], tensors[1::2], strict=True)]
        x = self.probes.expand(len(tensors[0]), -1, -1)  # (batch, probes, inputs)
        for weight, bias in layers[:-1]:
            x = self.activation(torch.baddbmm(bias.unsqueeze(1), x, weight.transpose(1, 2)))
        weight, bias = layers[-1]
        return torch.baddbmm(bias.unsqueeze(1), x, weight.transpose(1, 2))

    def forward(self, state: Mapping[str, Tensor]) -> Float[Tensor, "batch width"]:
        return self.layers(((self.outputs(state) - self.mean) / self.std).flatten(1))


def check_mlp(space: WeightSpace):
    """Raise ValueError unless the space is that of an MLP: weight, bias, weight, bias and so on."""
    weights, biases = space.tensors[::2], space.tensors[1::2]
    is_mlp = (
        len(weights) == len(biases)
        and all(spec.roles == ("out", "in") for spec in weights)
        and all(b.axes == w.axes[:1] for w, b in zip(weights, biases, strict=True))
        and all(one.axes[0] == other.axes[1] for one, other in pairwise(weights))
    )
    if not is_mlp:
        raise ValueError(
            "networks must be MLPs to be run here, a weight (out, in) and its bias (out) in turn, "
            f"found tensors {', '.join(spec.name for spec in space.tensors)}"
        )
