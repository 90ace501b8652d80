"""The affine layer as one autograd function: `EquivariantLinear` with mean pooling."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from dwsnet import operators
from dwsnet.derivatives import gradients_of, is_transformed, wants_more
from dwsnet.equivariant_map import outer, plain_gather, plain_scatter, scatter
from dwsnet.incidence import Incidence, mean, total

Tensors = Sequence[Tensor]


class Plan(NamedTuple):
    """Static description of a layer, whose parameters are a weight per axis set and a bias."""

    incidence: Incidence
    in_channels: int
    out_channels: int
    compiled: bool

    def plain(self, *tensors: Tensor) -> Tensors:
        """The output for features and parameters, in operations that torch.func supports."""
        count = len(self.incidence.own)
        gathered = plain_gather(self.incidence, self.in_channels, *tensors[:count])
        return plain_scatter(self.incidence, self.out_channels, *gathered, *tensors[count:])


class EquivariantMap(torch.autograd.Function):
    """A layer with an explicit backward pass: the transpose of an equivariant map is equivariant.

    Pooled features are computed once and kept; compiled code pools them again from the features
    while these are in the cache. The gradient is pooled (sums instead of means) and goes through
    the same `scatter`. Plain autograd would write every broadcast, and every gradient of a mean, at
    full size.
    """

    @staticmethod
    def forward(ctx, plan: Plan, *tensors: Tensor):
        incidence, count = plan.incidence, len(plan.incidence.own)
        features, (*weights, bias) = tensors[:count], tensors[count:]
        ctx.plan = plan
        if plan.compiled:
            ctx.save_for_backward(*tensors)
            return tuple(operators.layer(incidence.program, features, weights, bias))
        gathered = incidence.gather(features, mean, plan.in_channels)
        ctx.save_for_backward(*tensors, *gathered)
        transposed = [weight.t() for weight in weights]
        return tuple(scatter(incidence, gathered, transposed, plan.out_channels, bias))

    @staticmethod
    def backward(ctx, *gradients: Tensor):
        plan, incidence = ctx.plan, ctx.plan.incidence
        count, sets = len(incidence.own), len(incidence.axis_sets)
        saved = ctx.saved_tensors  # only once: a second access fails under activation checkpointing
        inputs, gathered = saved[: count + sets + 1], saved[count + sets + 1 :]
        if wants_more(gradients):
            return None, *gradients_of(plan.plain, inputs, gradients)
        features, weights = inputs[:count], inputs[count:-1]
        wanted = any(ctx.needs_input_grad[1 : 1 + count])
        if plan.compiled:
            found = operators.layer_backward(
                incidence.program, gradients, features, weights, wanted
            )
            to_parameters, to_features = found[: sets + 1], found[sets + 1 :]
        else:
            back = incidence.gather(gradients, total, plan.out_channels)
            to_features = scatter(incidence, back, weights, plan.in_channels) if wanted else []
            products = (outer(g, x) for g, x in zip(back, gathered, strict=True))
            to_parameters = [*products, back[0].sum(0)]
        return None, *(to_features if wanted else [None] * count), *to_parameters


def apply(plan: Plan, *tensors: Tensor) -> Tensors:
    """Apply the layer to features followed by parameters, by `EquivariantMap` or its plain twin."""
    return plan.plain(*tensors) if is_transformed() else EquivariantMap.apply(plan, *tensors)
