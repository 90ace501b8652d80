"""Random numbers as a function of keys: what a member draws depends on its own key, not on what stands beside it in a batch.

A counter-based generator, SplitMix64 (Steele, Lea and Flood 2014), for all members at once and alike on every device.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def _signed(number: int) -> int:
    """The int64 with the same bits: torch has no arithmetic of uint64, and products of int64 wrap around."""
    return (number + 2**63) % 2**64 - 2**63


GOLDEN, FOLD = _signed(0x9E3779B97F4A7C15), _signed(0xD1B54A32D192ED03)


def _scramble(x: Tensor) -> Tensor:
    """SplitMix64's output function, a bijection of 64 bits with good avalanche, in place."""
    x.bitwise_xor_(_shifted(x, 30)).mul_(_signed(0xBF58476D1CE4E5B9))
    x.bitwise_xor_(_shifted(x, 27)).mul_(_signed(0x94D049BB133111EB))
    return x.bitwise_xor_(_shifted(x, 31))


def _shifted(x: Tensor, places: int) -> Tensor:
    """To the right, zeros coming in."""
    return (x >> places).bitwise_and_(2 ** (64 - places) - 1)


def fold_in(keys: Int[Tensor, " batch"], number: int) -> Int[Tensor, " batch"]:
    """Other keys, one for each number: what is drawn from them has nothing to do with what is drawn from `keys`."""
    return _scramble(_scramble(keys ^ FOLD) + _signed((number + 1) * GOLDEN))


def uniform(keys: Int[Tensor, " batch"], *shape: int) -> Float[Tensor, "batch ..."]:
    """`(batch, *shape)` float64, uniform on (0, 1), neither of them among the numbers."""
    count = torch.Size(shape).numel()
    counter = torch.arange(1, count + 1, device=keys.device) * GOLDEN
    bits = _scramble(_scramble(keys.clone()).unsqueeze(1) + counter)  # (batch, count)
    return _shifted(bits, 11).double().add_(0.5).mul_(2.0**-53).view(len(keys), *shape)


def normal(keys: Int[Tensor, " batch"], *shape: int) -> Float[Tensor, "batch ..."]:
    """`(batch, *shape)` float64, standard normal: the quantiles of `uniform`."""
    return torch.special.ndtri(uniform(keys, *shape))
