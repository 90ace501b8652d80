"""Affine layers one after the other, as one step of autograd: what `EquivariantLinear` and `EquivariantMLP` do."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, islice

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from dwsnet import kernel
from dwsnet.equivariant_map import outer, scatter, where_positive
from dwsnet.incidence import Incidence, mean, total
from dwsnet.memory import empty

Tensors = Sequence[Tensor]


@dataclass(frozen=True)
class Layers:
    """What is known of the layers; their parameters are, for each, a weight for each axis set and a bias."""

    incidence: Incidence
    channels: tuple[int, ...]
    """Before the first layer and after each."""
    relu: bool
    """Whether layers take the positive part of what comes out."""
    compiled: bool
    members_at_once: int
    """How many members are kept the activations of at once, which are computed again for gradients; 0 for all, kept."""

    def by_layer(self, parameters: Tensors) -> list[Tensors]:
        each = len(self.incidence.axis_sets) + 1
        return [parameters[i : i + each] for i in range(0, len(parameters), each)]

    def forward(self, features: Tensors, parameters: Tensors) -> tuple[list[Tensors], list[Tensors]]:
        """What comes out of each layer, and what its backward pass needs to know of what went in."""
        outputs, kept = [], []
        for i, (*weights, bias) in enumerate(self.by_layer(parameters)):
            if self.compiled:
                kept.append(features)
                features = kernel.layer(self.incidence.program, features, weights, bias, self.relu)
            else:
                kept.append(self.incidence.gather(features, mean, self.channels[i]))
                transposed = [weight.t() for weight in weights]
                features = scatter(self.incidence, kept[-1], transposed, self.channels[i + 1], bias)
                features = [y.relu_() for y in features] if self.relu else features
            outputs.append(features)
        return outputs, kept

    def backward(
        self, gradients: Tensors, outputs: list[Tensors], kept: list[Tensors], parameters: Tensors, to_features: bool
    ) -> tuple[Tensors, list[Tensor]]:
        """Gradients of the features, if they are wanted, and of the parameters. Uses up what is given."""
        incidence, to_parameters = self.incidence, []
        for i, (*weights, _) in reversed([*enumerate(self.by_layer(parameters))]):
            wanted, positive, inputs = to_features or i > 0, outputs.pop() if self.relu else [], kept.pop()
            if self.compiled:
                found = kernel.layer_backward(incidence.program, gradients, inputs, weights, positive, wanted)
                to_parameters[:0], gradients = found[: len(weights) + 1], found[len(weights) + 1 :]
                continue
            back = incidence.gather(where_positive(gradients, positive), total, self.channels[i + 1])
            gradients = scatter(incidence, back, weights, self.channels[i]) if wanted else []
            to_parameters[:0] = [*(outer(g, x) for g, x in zip(back, inputs, strict=True)), back[0].sum(0)]
        return gradients, to_parameters

    def parts(self, tensors: Tensors) -> list[Tensors]:
        """The members that go through together."""
        return list(zip(*(x.split(self.members_at_once) for x in tensors), strict=True))

    def forward_in_parts(self, features: Tensors, parameters: Tensors) -> list[Tensor]:
        return joined(features[0].shape[0], (self.forward(some, parameters)[0][-1] for some in self.parts(features)))

    def backward_in_parts(
        self, gradients: Tensors, features: Tensors, parameters: Tensors, to_features: bool
    ) -> tuple[Tensors, list[Tensor]]:
        sums: list[Tensor] = []
        found: list[Tensors] = []
        for some, inputs in zip(self.parts(gradients), self.parts(features), strict=True):
            outputs, kept = self.forward(inputs, parameters)
            back, to_parameters = self.backward(some, outputs, kept, parameters, to_features)
            sums = [x.add_(y) for x, y in zip(sums, to_parameters, strict=True)] if sums else to_parameters
            found.append(back)
        return [torch.cat(some) for some in zip(*found, strict=True)], sums


class EquivariantMap(torch.autograd.Function):
    """`Layers` with their backward pass written out: the transpose of an equivariant map is equivariant too.

    Pooled features are computed once and kept, or in compiled code pooled again from the features while these are in the
    cache; the gradient is pooled (sums for means) and goes through the same `scatter`. Autograd alone would write every
    broadcast, and every gradient of a mean, at full size.
    """

    @staticmethod
    def forward(ctx, layers: Layers, *tensors: Tensor):
        count = len(layers.incidence.own)
        features, parameters = tensors[:count], tensors[count:]
        ctx.layers = layers
        if layers.members_at_once:
            save(ctx, parameters, features)
            return tuple(layers.forward_in_parts(features, parameters))
        outputs, kept = layers.forward(features, parameters)
        save(ctx, parameters, *kept, *(outputs if layers.relu else []))
        return tuple(outputs[-1])

    @staticmethod
    @once_differentiable
    def backward(ctx, *gradients: Tensor):
        layers, count = ctx.layers, len(ctx.layers.incidence.own)
        parameters, *groups = saved(ctx)
        wanted = any(ctx.needs_input_grad[1 : 1 + count])
        if layers.members_at_once:
            to_features, to_parameters = layers.backward_in_parts(gradients, groups[0], parameters, wanted)
        else:
            depth = len(layers.channels) - 1
            to_features, to_parameters = layers.backward(gradients, groups[depth:], groups[:depth], parameters, wanted)
        return None, *(to_features if wanted else [None] * count), *to_parameters


def save(ctx, *groups: Tensors):
    ctx.sizes = [len(group) for group in groups]
    ctx.save_for_backward(*chain.from_iterable(groups))


def saved(ctx) -> list[Tensors]:
    tensors = iter(ctx.saved_tensors)  # once: under activation checkpointing a second look fails
    return [list(islice(tensors, size)) for size in ctx.sizes]


def joined(count: int, parts: Iterable[Tensors]) -> list[Tensor]:
    """Tensors of `count` members from those of some members at a time, which are needed no longer then."""
    whole: list[Tensor] = []
    begin = 0
    for some in parts:
        whole = whole or empty(some[0], [(count, *x.shape[1:]) for x in some])
        for x, part in zip(whole, some, strict=True):
            x[begin : begin + len(part)] = part
        begin += len(some[0])
    return whole
