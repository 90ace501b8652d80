"""The equivariant affine layer and the invariant one, from one incidence rule.

Navon et al. 2023 (section 5) characterise every affine map between weight spaces that commutes with hidden
permutations, block by block. All blocks follow from one rule: pick a set S of hidden axes; every tensor that carries
all of S is averaged over its other hidden axes, one linear map (which mixes channels and fixed axes) takes those
averages of all such tensors to all such tensors, and the result is repeated along the axes that were averaged away.
Summed over all S this gives `2^(shared hidden axes) x fixed entries in x fixed entries out` free parameters for each
pair of tensors and of channels, which is the dimension of the whole space of equivariant maps.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from dwsnet import kernel
from dwsnet.incidence import Incidence, Move, Reduce, mean, total
from dwsnet.pooling import pooling_of
from dwsnet.state import check_counts, check_features
from dwsnet.weight_space import WeightSpace

Term = tuple[Move, Tensor, float]
"""What a move spreads, of size one along the axis that it adds, and the factor that it takes."""


def scatter(
    incidence: Incidence,
    gathered: Sequence[Tensor],
    weights: Sequence[Tensor],
    channels: int,
    bias: Tensor | None = None,
    to_weights: dict[int, Tensor] | None = None,
    features: Sequence[Tensor] = (),
) -> tuple[Tensor, ...]:
    """Gathered features times their `(in, out)` matrices, spread along the axes that were pooled away, and summed.

    With a bias this is the layer. Without one it is the layer's transpose: the transpose of a mean is a repeat divided
    by the count. Small terms come first, so that a tensor that alone carries its hidden axes takes one pass. Where the
    same pass over the `features` of the layer gives the gradient of a matrix too, it comes into `to_weights`.
    """
    mapped: list[Tensor] = []
    for s, (x, weight) in enumerate(zip(gathered, weights, strict=True)):
        terms: list[Term] = [
            (move, move.spread(mapped[move.small], channels), 1.0 if bias is not None else 1 / move.size)
            for move in incidence.moves_into[s]
        ]
        if incidence.alone(s):
            if to_weights is not None and kernel.takes(x, weight.shape[1]):
                result, to_weights[s] = kernel.affine_backward(x, weight, *row_and_column(terms), features[s])
            else:
                result = affine(x, weight, terms)
            mapped.append(result)
            continue
        rows = x.flatten(0, -2)
        product = rows @ weight if s or bias is None else torch.addmm(bias, rows, weight)
        mapped.append(product.view(*x.shape[:-1], weight.shape[1]))
        for move, term, alpha in terms:
            move.columns(mapped[s], channels).add_(term, alpha=alpha)
    return incidence.take(mapped, channels)


def affine(x: Tensor, weight: Tensor, terms: Sequence[Term]) -> Tensor:
    """`x @ weight` plus every term times its factor, in new memory."""
    if kernel.takes(x, weight.shape[1]):
        return kernel.affine(x, weight, *row_and_column(terms))
    shape = (*x.shape[:-1], weight.shape[1])
    result = broadcast_sum([(term, alpha) for _, term, alpha in terms], shape)
    result.view(-1, shape[-1]).addmm_(x.flatten(0, -2), weight)
    return result


def row_and_column(terms: Sequence[Term]) -> tuple[Tensor, Tensor]:
    """Of features with two hidden axes the term of each row, spread over the columns, and that of each column."""
    row, column = sorted(terms, key=lambda term: -term[0].dim)
    return tuple(
        term.squeeze(move.dim) if alpha == 1 else term.squeeze(move.dim) * alpha for move, term, alpha in (row, column)
    )


def broadcast_sum(terms: Sequence[tuple[Tensor, float]], shape: Sequence[int]) -> Tensor:
    """The sum of each term times its factor, in new memory of that shape."""
    (result, factor), *others = terms
    if factor != 1:
        result = result * factor
    for term, factor in others:
        result = torch.add(result, term, alpha=factor)
    return result if others and result.shape == shape else result.expand(shape).clone(memory_format=torch.contiguous_format)


def outer(left: Tensor, right: Tensor) -> Tensor:
    """`(left width, right width)`: the sum over members and positions of `left` times `right`.

    Member by member where that takes no more room than its input: many tall products are faster than one.
    """
    if left[0, ..., 0].numel() < max(left.shape[-1], right.shape[-1]):
        return left.flatten(0, -2).t() @ right.flatten(0, -2)
    return torch.bmm(left.flatten(1, -2).transpose(1, 2), right.flatten(1, -2)).sum(0)


class EquivariantMap(torch.autograd.Function):
    """The layer with its backward pass written out: the transpose of an equivariant map is equivariant too.

    Pooled features are computed once and kept; the gradient is pooled once (sums for means) and goes through the same
    `scatter`. Autograd alone would write every broadcast, and every gradient of a mean, at full size.
    """

    @staticmethod
    def forward(ctx, incidence: Incidence, in_channels: int, out_channels: int, bias: Tensor, *tensors: Tensor):
        count = len(incidence.own)
        gathered = incidence.gather(tensors[:count], mean, in_channels)
        ctx.incidence, ctx.in_channels, ctx.out_channels = incidence, in_channels, out_channels
        ctx.save_for_backward(*gathered, *tensors[count:])
        return scatter(incidence, gathered, [weight.t() for weight in tensors[count:]], out_channels, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx, *gradients: Tensor):
        incidence, sets = ctx.incidence, len(ctx.incidence.axis_sets)
        saved = ctx.saved_tensors  # once: under activation checkpointing a second look fails
        gathered, weights = saved[:sets], saved[sets:]
        back = incidence.gather(gradients, total, ctx.out_channels)
        to_weights: dict[int, Tensor] = {}
        to_features = [None] * len(incidence.own)
        if any(ctx.needs_input_grad[4 : 4 + len(to_features)]):
            to_features = scatter(incidence, back, weights, ctx.in_channels, None, to_weights, gathered)
        for s in set(range(sets)) - set(to_weights):
            to_weights[s] = outer(back[s], gathered[s])
        return None, None, None, back[0].sum(0), *to_features, *(to_weights[s] for s in range(sets))


class Gather(torch.autograd.Function):
    """`gather` by means, or by sums, with its backward pass written out: no gradient of a mean at full size."""

    @staticmethod
    def forward(ctx, incidence: Incidence, reduce: Reduce, channels: int, *folded: Tensor):
        ctx.incidence, ctx.reduce, ctx.channels = incidence, reduce, channels
        return tuple(incidence.gather(folded, reduce, channels))

    @staticmethod
    @once_differentiable
    def backward(ctx, *gradients: Tensor):
        incidence, whole = ctx.incidence, list(gradients)
        for s in range(len(whole)):
            moves = incidence.moves_into[s]
            terms = [
                (move, move.spread(whole[move.small], ctx.channels), 1 / move.size if ctx.reduce is mean else 1.0)
                for move in moves
            ]
            if incidence.alone(s):
                whole[s] = broadcast_sum([(term, alpha) for _, term, alpha in terms], whole[s].shape).add_(whole[s])
                continue
            whole[s] = whole[s].clone() if moves else whole[s]
            for move, term, alpha in terms:
                move.columns(whole[s], ctx.channels).add_(term, alpha=alpha)
        return None, None, None, *incidence.take(whole, ctx.channels)


def gather(incidence: Incidence, reduce: Reduce, channels: int, folded: Sequence[Tensor]) -> Sequence[Tensor]:
    """`incidence.gather` for autograd, which is left to differentiate only what is not a mean or a sum."""
    if reduce in (mean, total):
        return Gather.apply(incidence, reduce, channels, *folded)
    return incidence.gather(folded, reduce, channels)


class Scatter(torch.autograd.Function):
    """`scatter` of features that were gathered elsewhere, for layers that do more than average them."""

    @staticmethod
    def forward(ctx, incidence: Incidence, out_channels: int, bias: Tensor, *tensors: Tensor):
        sets = len(incidence.axis_sets)
        ctx.incidence, ctx.out_channels = incidence, out_channels
        ctx.save_for_backward(*tensors)
        return scatter(incidence, tensors[:sets], [weight.t() for weight in tensors[sets:]], out_channels, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx, *gradients: Tensor):
        sets = len(ctx.incidence.axis_sets)
        saved = ctx.saved_tensors  # once: under activation checkpointing a second look fails
        gathered, weights = saved[:sets], saved[sets:]
        back = ctx.incidence.gather(gradients, total, ctx.out_channels)
        to_gathered = [g @ weight for g, weight in zip(back, weights, strict=True)]
        to_weights = [outer(g, x) for g, x in zip(back, gathered, strict=True)]
        return None, None, back[0].sum(0), *to_gathered, *to_weights


class EquivariantLinear(nn.Module):
    """Every affine map from features over `space` to features over `space` that commutes with hidden permutations.

    Takes and returns a tuple of `(batch, *spec.shape, channels)`. With a `pooling` other than "mean" ("sum", "max",
    "attention") the averages are replaced by it: still equivariant, with the same parameters, but "max" and
    "attention" are not linear.
    """

    def __init__(self, space: WeightSpace, in_channels: int, out_channels: int, pooling: str = "mean"):
        super().__init__()
        check_counts(in_channels=in_channels, out_channels=out_channels)
        self.pool = pooling_of(pooling, Incidence(space), in_channels)
        self.space, self.in_channels, self.out_channels = space, in_channels, out_channels
        self.incidence = Incidence(space)
        self.weights = nn.ParameterList(
            torch.empty(sum(self.incidence.widths(s, out_channels)), sum(self.incidence.widths(s, in_channels)))
            for s in range(len(self.incidence.axis_sets))
        )
        self.biases = nn.ParameterList(torch.empty(spec.num_fixed * out_channels) for spec in space.tensors)
        self.reset_parameters()

    def reset_parameters(self):
        """He initialisation, shared evenly among the terms that add up in each output tensor."""
        for s, weight in enumerate(self.weights):
            nn.init.normal_(weight, std=(2 / weight.shape[1]) ** 0.5)
            with torch.no_grad():
                parts = weight.split(self.incidence.widths(s, self.out_channels))
                for i, rows in zip(self.incidence.carriers[s], parts, strict=True):
                    rows *= 2 ** (-len(self.space.tensors[i].hidden) / 2)
        for bias in self.biases:
            nn.init.zeros_(bias)

    def forward(
        self, features: Sequence[Float[Tensor, "batch ... {self.in_channels}"]]
    ) -> tuple[Float[Tensor, "batch ... {self.out_channels}"], ...]:
        check_features(self.space, features, self.in_channels, self.weights[0])
        incidence, device = self.incidence, features[0].device.type
        tensors = [*incidence.fold(features), *self.weights, torch.cat(list(self.biases))]
        if torch.is_autocast_enabled(device):
            tensors = [tensor.to(torch.get_autocast_dtype(device)) for tensor in tensors]
        *tensors, bias = tensors
        with torch.autocast(device, enabled=False):  # one cast above; products in place take one dtype
            if self.pool is mean:
                outputs = EquivariantMap.apply(incidence, self.in_channels, self.out_channels, bias, *tensors)
            else:
                gathered = gather(incidence, self.pool, self.in_channels, tensors[: len(features)])
                outputs = Scatter.apply(incidence, self.out_channels, bias, *gathered, *tensors[len(features) :])
        return incidence.unfold(outputs)

    def extra_repr(self) -> str:
        return f"{len(self.space.tensors)} tensors, {self.in_channels} -> {self.out_channels} channels"


class InvariantLinear(nn.Module):
    """Every affine map from features over `space` to a vector that hidden permutations leave unchanged.

    Takes a tuple of `(batch, *spec.shape, in_channels)`, returns `(batch, out_features)`.
    """

    def __init__(self, space: WeightSpace, in_channels: int, out_features: int):
        super().__init__()
        check_counts(in_channels=in_channels, out_features=out_features)
        self.space, self.in_channels, self.incidence = space, in_channels, Incidence(space)
        self.linear = nn.Linear(sum(self.incidence.fixed) * in_channels, out_features)

    def forward(
        self, features: Sequence[Float[Tensor, "batch ... {self.in_channels}"]]
    ) -> Float[Tensor, "batch {self.linear.out_features}"]:
        check_features(self.space, features, self.in_channels, self.linear.weight)
        folded = self.incidence.fold(features)
        pooled = [x.flatten(1, -2).mean(1) if x.ndim > 2 else x for x in folded]
        return self.linear(torch.cat(pooled, -1))
