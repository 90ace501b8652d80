"""Reading state dicts, and the equivariant trunk."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import chain, repeat

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from dwsnet import normalised
from dwsnet.derivatives import is_transformed
from dwsnet.linear import EquivariantLinear
from dwsnet.normalize import BatchNorm, MemberNorm, Standardize
from dwsnet.set_attention import EquivariantAttention
from dwsnet.state import check_counts, check_like, read_state
from dwsnet.symmetry import bias_places, scale_units, unit_signs
from dwsnet.weight_space import WeightSpace

NORMS = {"batch": BatchNorm, "member": MemberNorm}
DEEP = 6
"""From this many layers on there are skips by default: without them, the features of a member's
neurons become nearly equal (`tests/dwsnet/test_start.py`)."""


class ReadState(nn.Module):
    """Maps stacked state dicts to standardised tensors `(batch, *spec.shape)`.

    With `canonical_signs`, signs are first made canonical. Raises ValueError if a hidden axis of
    the space then has no bias.
    """

    def __init__(self, space: WeightSpace, canonical_signs: bool):
        super().__init__()
        self.space, self.canonical_signs = space, canonical_signs
        if canonical_signs:
            bias_places(space)  # biases decide the signs
        self.standardize = Standardize(space)

    def entries(
        self, state: Mapping[str, Tensor], seen: Mapping[str, Tensor] | None = None
    ) -> tuple[Float[Tensor, "batch ..."], ...]:
        """The tensors before standardisation; `seen` (default: `state`) decides canonical signs."""
        tensors = read_state(self.space, state)
        check_like(self.space, tensors, self.standardize.mean)
        if not self.canonical_signs:
            return tensors
        signs = unit_signs(self.space, tensors if seen is None else read_state(self.space, seen))
        return scale_units(self.space, tensors, signs)

    def forward(self, state: Mapping[str, Tensor]) -> tuple[Float[Tensor, "batch ..."], ...]:
        return self.standardize(self.entries(state))


class DWSNet(nn.Module):
    """The equivariant trunk: layers with a norm, GELU and dropout after each.

    Takes and returns features over `space`: a tuple of `(batch, *spec.shape, channels)`.
    `num_heads` above 0 adds attention to the layers; `diagonal` layers map only between tensors
    with a common axis; `norm` is "batch" or "member"; `skip` adds each layer's input to its output,
    by default from `DEEP` layers on; `checkpoint` recomputes activations in the backward pass
    instead of keeping them. Norms of layers with a skip start with a gain of 1 / sqrt(layers), so
    that the sum has unit scale at any depth.
    """

    def __init__(
        self,
        space: WeightSpace,
        in_channels: int,
        channels: int,
        num_layers: int,
        *,
        num_heads: int = 0,
        pooling: str = "mean",
        diagonal: bool = False,
        norm: str = "batch",
        dropout: float = 0.0,
        skip: bool | None = None,
        checkpoint: bool = False,
    ):
        super().__init__()
        skip = num_layers >= DEEP if skip is None else skip
        if norm not in NORMS:
            raise ValueError(f"norm must be one of {sorted(NORMS)}, got {norm!r}")
        check_counts(in_channels=in_channels, channels=channels, num_layers=num_layers)
        inputs = [in_channels] + [channels] * (num_layers - 1)
        self.layers = nn.ModuleList(
            EquivariantAttention(
                space, size, channels, num_heads, pooling=pooling, diagonal=diagonal
            )
            if num_heads
            else EquivariantLinear(space, size, channels, pooling, diagonal=diagonal)
            for size in inputs
        )
        gains = [num_layers**-0.5 if skip and i else 1.0 for i in range(num_layers)]
        self.norms = nn.ModuleList(NORMS[norm](space, channels, gain, gelu=True) for gain in gains)
        self.channels, self.dropout = channels, nn.Dropout(dropout)
        self.skip, self.checkpoint = skip, checkpoint

    def forward(
        self, features: Sequence[Float[Tensor, "batch ... in_channels"]]
    ) -> Sequence[Float[Tensor, "batch ... channels"]]:
        if normalised.takes(self, features):
            return normalised.run(self, features)
        for i in range(len(self.layers)):
            layer, norm = self.layers[i], self.norms[i]
            if self.checkpoint and self.training and not is_transformed():
                features = recomputed(self.step, layer, norm, features, i > 0)
            else:
                features = self.step(layer, norm, features, i > 0)
        return features

    def step(
        self,
        layer: Callable,
        norm: Callable,
        features: Sequence[Float[Tensor, "batch ... _"]],
        inner: bool,
    ) -> tuple[Float[Tensor, "batch ... channels"], ...]:
        """A layer and all that follows it; `inner` layers may have a skip."""
        outputs = tuple(self.dropout(x) for x in norm(layer(features)))
        if self.skip and inner:
            outputs = tuple(x + y for x, y in zip(features, outputs, strict=True))
        return outputs


def recomputed(step: Callable, layer: nn.Module, norm: nn.Module, *arguments):
    """`step(layer, norm, *arguments)`, recomputed in the backward pass.

    The recomputation uses the parameters of the first pass and has no side effects: running
    statistics are updated in a copy, and dropout is the same.
    """
    if torch.compiler.is_compiling():
        return checkpoint(step, layer, norm, *arguments, use_reentrant=False)
    modules = layer, norm
    copies = [
        dict(x.named_parameters()) | {name: value.clone() for name, value in x.named_buffers()}
        for x in modules
    ]
    again = [partial(_call, x, tensors) for x, tensors in zip(modules, copies, strict=True)]
    times = chain([modules], repeat(again))
    return checkpoint(
        lambda *arguments: step(*next(times), *arguments), *arguments, use_reentrant=False
    )


def _call(module: nn.Module, tensors: dict[str, Tensor], *arguments):
    return functional_call(module, tensors, arguments)


def num_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
