"""Trunk layers with batch norm and GELU fused into them, for float32 on CPUs.

Features do not fit into the caches, so a separate pass over them for an elementwise operation costs
as much as the layer itself. Therefore a layer sums its outputs and their squares while it writes
them. The sums give two numbers per channel, and the next layer computes GELU(a y + b) when it reads
y, and again in its backward pass, so that only y is kept.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dwsnet import kernel
from dwsnet.affine import Plan, Tensors
from dwsnet.autocast import autocast_dtype
from dwsnet.derivatives import gradients_of, hooked_inside, is_transformed, wants_more
from dwsnet.equivariant_map import plain_gather
from dwsnet.incidence import Incidence, mean
from dwsnet.linear import EquivariantLinear
from dwsnet.normalize import BatchNorm
from dwsnet.state import check_features


def plain_activate(coefficients: Tensor, *folded: Tensor) -> list[Tensor]:
    """GELU(a x + b) of folded features, whose columns are a multiple of the channels."""
    count = coefficients.shape[-1]
    pairs = zip(folded, *coefficients, strict=True)
    return [F.gelu(x.unflatten(-1, (-1, count)) * a + b).flatten(-2) for x, a, b in pairs]


def plain_layer(plan: Plan, coefficients: Tensor | None, *tensors: Tensor) -> list[Tensor]:
    """`NormalisedLayer` in operations that PyTorch can differentiate."""
    count = len(plan.incidence.own)
    features = tensors[:count]
    if coefficients is not None:
        features = tuple(plain_activate(coefficients, *features))
    outputs = plan.plain(*features, *tensors[count:])
    rows = [y.double().reshape(-1, plan.out_channels) for y in outputs]  # (positions, channels)
    sums = [torch.stack([y.sum(0) for y in rows]), torch.stack([y.square().sum(0) for y in rows])]
    return [*outputs, torch.stack(sums)]  # (2, tensors, channels)


class NormalisedLayer(torch.autograd.Function):
    """The affine layer of GELU(a x + b), with sums of its outputs and of their squares.

    `coefficients` `(2, tensors, channels)` are a and b, None for a layer of x itself; the sums have
    the same shape. In the backward pass, gradients through the sums are added when those of the
    outputs are read.
    """

    @staticmethod
    def forward(ctx, plan: Plan, coefficients: Tensor | None, *tensors: Tensor):
        count = len(plan.incidence.own)
        features, (*weights, bias) = tensors[:count], tensors[count:]
        shape = 2, count, plan.out_channels
        sums = torch.empty(shape, dtype=torch.float64)
        of = plan.incidence.program
        outputs = kernel.normalised_layer(of, features, coefficients, weights, bias, sums)
        ctx.plan = plan
        ctx.save_for_backward(coefficients, *tensors, *outputs)
        return *outputs, sums

    @staticmethod
    def backward(ctx, *gradients: Tensor):
        plan, count = ctx.plan, len(ctx.plan.incidence.own)
        coefficients, *tensors = ctx.saved_tensors
        inputs, outputs = tensors[:-count], tensors[-count:]
        if wants_more(gradients):
            if coefficients is None:
                return (
                    None,
                    None,
                    *gradients_of(partial(plain_layer, plan, None), inputs, gradients),
                )
            known = [coefficients, *inputs]
            return None, *gradients_of(partial(plain_layer, plan), known, gradients)
        features, weights = inputs[:count], inputs[count:-1]
        wanted = any(ctx.needs_input_grad[1 : 2 + count])
        scale = gradients[-1].new_tensor([1.0, 2.0]).view(2, 1, 1)
        to_features, to_coefficients, to_parameters = kernel.normalised_layer_backward(
            plan.incidence.program,
            gradients[:-1],
            (gradients[-1] * scale).float(),
            outputs,
            features,
            coefficients,
            weights,
            wanted,
        )
        found = None if to_coefficients is None else to_coefficients.float()
        return None, found, *(to_features if wanted else [None] * count), *to_parameters


class Activate(torch.autograd.Function):
    """GELU(a x + b) after the last layer."""

    @staticmethod
    def forward(ctx, program: tuple[int, ...], coefficients: Tensor, *features: Tensor):
        ctx.program = program
        ctx.save_for_backward(coefficients, *features)
        return tuple(kernel.activate(program, features, coefficients))

    @staticmethod
    def backward(ctx, *gradients: Tensor):
        coefficients, *features = ctx.saved_tensors
        if wants_more(gradients):
            return None, *gradients_of(plain_activate, [coefficients, *features], gradients)
        found, sums = kernel.activate_backward(ctx.program, gradients, features, coefficients)
        return None, sums.float(), *found


def plain_pool(incidence: Incidence, coefficients: Tensor, *folded: Tensor) -> tuple[Tensor]:
    activated = plain_activate(coefficients, *folded)
    return (plain_gather(incidence, coefficients.shape[-1], *activated)[0],)


class Pool(torch.autograd.Function):
    """Means of GELU(a x + b) over all neurons, after the last layer of an invariant model."""

    @staticmethod
    def forward(ctx, incidence: Incidence, coefficients: Tensor, *features: Tensor):
        ctx.incidence = incidence
        ctx.save_for_backward(coefficients, *features)
        return kernel.pool(incidence.program, features, coefficients)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        coefficients, *features = ctx.saved_tensors
        if wants_more([gradient]):
            plain = partial(plain_pool, ctx.incidence)
            return None, *gradients_of(plain, [coefficients, *features], [gradient])
        program = ctx.incidence.program
        found, sums = kernel.pool_backward(program, gradient, features, coefficients)
        return None, sums.float(), *found


def takes(trunk: nn.Module, features: Tensors) -> bool:
    """Whether `run` can replace the modules of a trunk, a `DWSNet`."""
    layers, norms = [*trunk.layers], [*trunk.norms]
    simple = (
        all(type(layer) is EquivariantLinear and layer.pool is mean for layer in layers)
        and all(type(norm) is BatchNorm and norm.alike() for norm in norms)
        and not (trunk.skip and len(layers) > 1)
        and not (trunk.training and (trunk.dropout.p or trunk.checkpoint))
        and trunk.channels % kernel.VECTOR == 0
    )
    if not simple or torch.compiler.is_compiling() or is_transformed() or hooked_inside(trunk):
        return False
    first = layers[0]
    check_features(first.space, features, first.in_channels, first.weights[0])
    wanted = {trunk.channels}
    if any(x.requires_grad for x in features):
        wanted.add(first.in_channels)
    widths = [width for size in wanted for width in first.incidence.columns(size)]
    return autocast_dtype(features[0].device.type) is None and kernel.takes(features, widths)


def layers(trunk: nn.Module, features: Tensors) -> tuple[Tensors, Any]:
    """The folded outputs of the last layer, and the coefficients of its norm."""
    incidence = trunk.layers[0].incidence
    folded, coefficients = incidence.fold(features), None
    for layer, norm in zip(trunk.layers, trunk.norms, strict=True):
        plan = Plan(incidence, layer.in_channels, layer.out_channels, compiled=True)
        *folded, sums = NormalisedLayer.apply(plan, coefficients, *folded, *layer.tensors())
        coefficients = norm.coefficients(sums, len(folded[0]))
    return folded, coefficients


def run(trunk: nn.Module, features: Tensors) -> tuple[Tensor, ...]:
    """Apply all layers of a trunk, each with its norm and GELU."""
    folded, coefficients = layers(trunk, features)
    incidence = trunk.layers[0].incidence
    return incidence.unfold(Activate.apply(incidence.program, coefficients, *folded))


def pooled(trunk: nn.Module, features: Tensors) -> Tensor:
    """Means of the trunk's output over all neurons, `(batch, columns)`.

    They are the input of `InvariantLinear.linear`.
    """
    folded, coefficients = layers(trunk, features)
    return Pool.apply(trunk.layers[0].incidence, coefficients, *folded)
