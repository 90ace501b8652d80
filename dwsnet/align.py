"""Weight matching: hidden permutations that align networks with reference networks.

Git Re-Basin (Ainsworth et al. 2022, algorithm 1) for any weight space: for one hidden axis at a
time, take the assignment that maximises the inner product of all parameters with the reference,
until no axis changes.
"""

from collections.abc import Sequence
from functools import reduce

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dwsnet.derivatives import is_transformed
from dwsnet.state import check_networks
from dwsnet.symmetry import HiddenPermutation, permute
from dwsnet.weight_space import TensorSpec, WeightSpace


@torch.no_grad()
def match_weights(
    space: WeightSpace,
    reference: Sequence[Float[Tensor, "references ..."]],
    tensors: Sequence[Float[Tensor, "batch ..."]],
) -> HiddenPermutation:
    """Permutations `(batch, size)` of each hidden axis that bring `tensors` close to `reference`.

    Apply them with `permute`. `tensors` are `(batch, *spec.shape)`; `reference` is the same, or
    `(1, *spec.shape)` to share one network. With more than one hidden axis the optimum is local. It
    does not depend on the order of the network's neurons (except for ties): the first round matches
    each axis only by tensors whose other hidden axes are matched already, so that all networks of
    an orbit start from the same point.
    """
    check_networks(space, reference)
    check_networks(space, tensors)
    if len(reference[0]) not in (1, len(tensors[0])):
        raise ValueError(
            f"there must be 1 or {len(tensors[0])} reference networks, found {len(reference[0])}"
        )
    match = _Matching.apply if is_transformed() else _match
    found = match(space, *(x.detach() for x in (*reference, *tensors)))
    return dict(zip(space.hidden, found, strict=True))


def _match(space: WeightSpace, *networks: Tensor) -> tuple[Int[Tensor, "batch _"], ...]:
    """For each hidden axis, the order that aligns the second half of the tensors with the first."""
    device, count = networks[-1].device, len(space.tensors)
    doubles = [x.double().cpu() for x in networks]
    reference, tensors = doubles[:count], doubles[count:]
    permutation = {
        name: torch.arange(size).expand(len(tensors[0]), -1) for name, size in space.hidden.items()
    }
    matched: set[str] = set()
    changed = True
    while changed:
        changed = len(matched) < len(permutation)
        for axis in permutation:
            matched.add(axis)
            used = [
                i
                for i, spec in enumerate(space.tensors)
                if axis in spec.hidden and matched >= set(spec.hidden)
            ]
            if not used:
                continue
            moved = permute(space, tensors, permutation)
            similarity = reduce(
                torch.add,
                (_similarity(space.tensors[i], axis, reference[i], moved[i]) for i in used),
            )
            index = _assign(similarity)
            # Rounding could make equal assignments alternate forever: only a gain counts as a
            # change.
            gain = _total(similarity, index) - _total(
                similarity, torch.arange(index.shape[1]).expand_as(index)
            )
            better = gain > 1e-9 * similarity.abs().amax((1, 2))
            permutation[axis] = torch.where(
                better.unsqueeze(1), permutation[axis].gather(1, index), permutation[axis]
            )
            changed |= bool(better.any())
    return tuple(index.to(device) for index in permutation.values())


class _Matching(torch.autograd.Function):
    """`_match` for torch.func and forward mode.

    Orders have no derivatives, and the dimension of vmap is one more batch dimension.
    """

    @staticmethod
    def forward(space: WeightSpace, *networks: Tensor):
        return _match(space, *networks)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.mark_non_differentiable(*output)

    @staticmethod
    def vmap(info, in_dims, space: WeightSpace, *networks: Tensor):
        stacked = [
            x.expand(info.batch_size, *x.shape) if dim is None else x.movedim(dim, 0)
            for x, dim in zip(networks, in_dims[1:], strict=True)
        ]
        batch = stacked[-1].shape[1]
        members = (x.expand(-1, batch, *x.shape[2:]).flatten(0, 1) for x in stacked)
        found = _Matching.apply(space, *members)
        return tuple(x.unflatten(0, (-1, batch)) for x in found), (0,) * len(found)


def _similarity(
    spec: TensorSpec,
    axis: str,
    reference: Float[Tensor, "references ..."],
    tensor: Float[Tensor, "batch ..."],
) -> Float[Tensor, "batch size size"]:
    """Inner products of each slice of the reference along `axis` with each slice of the tensor."""
    dim = 1 + spec.position(axis)
    one, other = (  # (references or batch, size, entries)
        x.movedim(dim, 1).flatten(2) if x.ndim > 2 else x.unsqueeze(2) for x in (reference, tensor)
    )
    return one @ other.transpose(1, 2)


def _assign(similarity: Float[Tensor, "batch size size"]) -> Int[Tensor, "batch size"]:
    """The column for each line of the matrix that maximises the sum."""
    from scipy.optimize import linear_sum_assignment  # imported late: it takes 0.4 s

    return torch.stack(
        [
            torch.from_numpy(linear_sum_assignment(matrix.numpy(), maximize=True)[1])
            for matrix in similarity
        ]
    )


def _total(
    similarity: Float[Tensor, "batch size size"], index: Int[Tensor, "batch size"]
) -> Float[Tensor, " batch"]:
    return similarity.gather(2, index.unsqueeze(2)).sum((1, 2))
