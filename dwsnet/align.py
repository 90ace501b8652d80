"""Weight matching: hidden permutations that bring networks as near to reference networks as they go.

Git Re-Basin (Ainsworth et al. 2022, algorithm 1) for any weight space: one hidden axis at a time, the assignment that
makes the inner product of all parameters with the reference largest, until no axis changes.
"""

from collections.abc import Sequence

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
    """`(batch, size)` for each hidden axis: `permute(space, tensors, ...)` with it lies near `reference`.

    `tensors` are `(batch, *spec.shape)`; `reference` too, or `(1, *spec.shape)`: one for all. The optimum is a local
    one for more than one hidden axis. It does not depend on the order of the network's neurons (but for ties): the
    first round matches each axis by those tensors alone whose other hidden axes are matched already, so that it starts
    every network of an orbit at the same place.
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
    """For each hidden axis the order that brings the second half of the tensors near the first."""
    device, count = networks[-1].device, len(space.tensors)
    networks = [x.double().cpu() for x in networks]
    reference, tensors = networks[:count], networks[count:]
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
            similarity = sum(
                _similarity(space.tensors[i], axis, reference[i], moved[i]) for i in used
            )
            index = _assign(similarity)
            # Rounding could make equal assignments alternate for ever: only a gain counts as a change.
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
    """`_match` under torch.func and forward mode: its orders have no derivatives, and what vmap stacks are more members."""

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
    """Inner product of each slice of the reference along `axis` with each slice of the tensor."""
    dim = 1 + spec.position(axis)
    one, other = (
        x.movedim(dim, 1).flatten(2) if x.ndim > 2 else x.unsqueeze(2) for x in (reference, tensor)
    )
    return one @ other.transpose(1, 2)


def _assign(similarity: Float[Tensor, "batch size size"]) -> Int[Tensor, "batch size"]:
    """Which column goes with each row so that the sum is largest."""
    from scipy.optimize import linear_sum_assignment  # costs every import of dwsnet 0.4 s otherwise

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
