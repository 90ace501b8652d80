"""Affine layers one after the other, as one step of autograd: what `EquivariantLinear` and `EquivariantMLP` do."""

from collections.abc import Iterable, Sequence
from functools import partial
from itertools import chain, islice
from typing import NamedTuple

import torch
from torch import Tensor

from dwsnet import kernel
from dwsnet.derivatives import gradients_of, is_transformed, wants_more
from dwsnet.equivariant_map import (
    outer,
    plain_gather,
    plain_scatter,
    scatter,
    where_positive,
)
from dwsnet.incidence import Incidence, mean, total
from dwsnet.memory import empty

Tensors = Sequence[Tensor]


class Layers(NamedTuple):
    """What is known of the layers; their parameters are, for each, a weight for each axis set and a bias."""

    incidence: Incidence
    channels: tuple[int, ...]
    """Before the first layer and after each."""
    relu: bool
    """Whether layers take the positive part of what comes out."""
    compiled: bool
    members_at_once: int
    """How many members are kept the activations of at once, which are computed again for gradients; 0 for all, kept."""


def by_layer(plan: Layers, parameters: Tensors) -> list[Tensors]:
    each = len(plan.incidence.axis_sets) + 1
    return [parameters[i : i + each] for i in range(0, len(parameters), each)]


def forward(
    plan: Layers, features: Tensors, parameters: Tensors
) -> tuple[list[Tensors], list[Tensors]]:
    """What comes out of each layer, and what its backward pass needs to know of what went in."""
    incidence, outputs, kept = plan.incidence, [], []
    for i, (*weights, bias) in enumerate(by_layer(plan, parameters)):
        if plan.compiled:
            kept.append(features)
            features = kernel.layer(incidence.program, features, weights, bias, plan.relu)
        else:
            kept.append(incidence.gather(features, mean, plan.channels[i]))
            features = scatter(
                incidence, kept[-1], [weight.t() for weight in weights], plan.channels[i + 1], bias
            )
            features = [y.relu_() for y in features] if plan.relu else features
        outputs.append(features)
    return outputs, kept


def backward(
    plan: Layers,
    gradients: Tensors,
    outputs: list[Tensors],
    kept: list[Tensors],
    parameters: Tensors,
    to_features: bool,
) -> tuple[Tensors, list[Tensor]]:
    """Gradients of the features, if they are wanted, and of the parameters. Uses up what is given."""
    incidence, to_parameters = plan.incidence, []
    for i, (*weights, _) in reversed([*enumerate(by_layer(plan, parameters))]):
        wanted, positive, inputs = (
            to_features or i > 0,
            outputs.pop() if plan.relu else [],
            kept.pop(),
        )
        if plan.compiled:
            found = kernel.layer_backward(
                incidence.program, gradients, inputs, weights, positive, wanted
            )
            to_parameters[:0], gradients = found[: len(weights) + 1], found[len(weights) + 1 :]
            continue
        back = incidence.gather(where_positive(gradients, positive), total, plan.channels[i + 1])
        gradients = scatter(incidence, back, weights, plan.channels[i]) if wanted else []
        to_parameters[:0] = [
            *(outer(g, x) for g, x in zip(back, inputs, strict=True)),
            back[0].sum(0),
        ]
    return gradients, to_parameters


def plain(plan: Layers, *tensors: Tensor) -> Sequence[Tensor]:
    """What comes out of the last layer, in operations that PyTorch differentiates and maps."""
    count = len(plan.incidence.own)
    features, parameters = tensors[:count], tensors[count:]
    for i, layer in enumerate(by_layer(plan, parameters)):
        gathered = plain_gather(plan.incidence, plan.channels[i], *features)
        features = plain_scatter(plan.incidence, plan.channels[i + 1], plan.relu, *gathered, *layer)
    return features


def parts(plan: Layers, tensors: Tensors) -> list[Tensors]:
    """The members that go through together."""
    return list(zip(*(x.split(plan.members_at_once) for x in tensors), strict=True))


def backward_in_parts(
    plan: Layers, gradients: Tensors, features: Tensors, parameters: Tensors, to_features: bool
) -> tuple[Tensors, list[Tensor]]:
    found, sums = [], []
    for some, inputs in zip(parts(plan, gradients), parts(plan, features), strict=True):
        outputs, kept = forward(plan, inputs, parameters)
        back, to_parameters = backward(plan, some, outputs, kept, parameters, to_features)
        sums = (
            [x.add_(y) for x, y in zip(sums, to_parameters, strict=True)] if sums else to_parameters
        )
        found.append(back)
    return joined(features[0].shape[0], found) if to_features else [], sums


class EquivariantMap(torch.autograd.Function):
    """`Layers` with their backward pass written out: the transpose of an equivariant map is equivariant too.

    Pooled features are computed once and kept, or in compiled code pooled again from the features while these are in the
    cache; the gradient is pooled (sums for means) and goes through the same `scatter`. Autograd alone would write every
    broadcast, and every gradient of a mean, at full size.
    """

    @staticmethod
    def forward(ctx, plan: Layers, *tensors: Tensor):
        count = len(plan.incidence.own)
        features, parameters = tensors[:count], tensors[count:]
        ctx.plan = plan
        if plan.members_at_once:
            save(ctx, features, parameters)
            return tuple(
                joined(
                    len(features[0]),
                    (forward(plan, some, parameters)[0][-1] for some in parts(plan, features)),
                )
            )
        outputs, kept = forward(plan, features, parameters)
        save(ctx, features, parameters, *kept, *(outputs if plan.relu else []))
        return tuple(outputs[-1])

    @staticmethod
    def backward(ctx, *gradients: Tensor):
        plan, count, depth = ctx.plan, len(ctx.plan.incidence.own), len(ctx.plan.channels) - 1
        features, parameters, *groups = saved(ctx)
        if wants_more(gradients):
            return None, *gradients_of(partial(plain, plan), [*features, *parameters], gradients)
        wanted = any(ctx.needs_input_grad[1 : 1 + count])
        if plan.members_at_once:
            to_features, to_parameters = backward_in_parts(
                plan, gradients, features, parameters, wanted
            )
        else:
            to_features, to_parameters = backward(
                plan, gradients, list(groups[depth:]), list(groups[:depth]), parameters, wanted
            )
        return None, *(to_features if wanted else [None] * count), *to_parameters


def apply(plan: Layers, *tensors: Tensor) -> Sequence[Tensor]:
    """Features and then parameters through the layers, by `EquivariantMap` or its plain twin."""
    return plain(plan, *tensors) if is_transformed() else EquivariantMap.apply(plan, *tensors)


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
