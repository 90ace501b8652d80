"""Random numbers as a function of keys, independent of the rest of the batch.

A counter-based generator, SplitMix64 (Steele, Lea and Flood 2014), vectorised over members, with
the same numbers on every device.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def _signed(number: int) -> int:
    """The int64 with the same bits: torch has no uint64 arithmetic; int64 products wrap around."""
    return (number + 2**63) % 2**64 - 2**63


GOLDEN, FOLD = _signed(0x9E3779B97F4A7C15), _signed(0xD1B54A32D192ED03)


def _scramble(x: Tensor) -> Tensor:
    """SplitMix64's output function, a bijection of 64 bits with good avalanche, in place."""
    x.bitwise_xor_(_shifted(x, 30)).mul_(_signed(0xBF58476D1CE4E5B9))
    x.bitwise_xor_(_shifted(x, 27)).mul_(_signed(0x94D049BB133111EB))
    return x.bitwise_xor_(_shifted(x, 31))


def _shifted(x: Tensor, places: int) -> Tensor:
    """Logical shift to the right."""
    return (x >> places).bitwise_and_(2 ** (64 - places) - 1)


def fold_in(keys: Int[Tensor, " batch"], number: int) -> Int[Tensor, " batch"]:
    """Derive keys with random numbers independent of those of `keys` and other `number`s."""
    return _scramble(_scramble(keys ^ FOLD) + _signed((number + 1) * GOLDEN))


def uniform(keys: Int[Tensor, " batch"], *shape: int) -> Float[Tensor, "batch ..."]:
    """`(batch, *shape)` float64, uniform on the open interval (0, 1)."""
    count = torch.Size(shape).numel()
    counter = torch.arange(1, count + 1, device=keys.device) * GOLDEN
    bits = _scramble(_scramble(keys.clone()).unsqueeze(1) + counter)  # (batch, count)
    return _shifted(bits, 11).double().add_(0.5).mul_(2.0**-53).view(len(keys), *shape)


def normal(keys: Int[Tensor, " batch"], *shape: int) -> Float[Tensor, "batch ..."]:
    """`(batch, *shape)` float64, standard normal: the quantiles of `uniform`."""
    return torch.special.ndtri(uniform(keys, *shape))
