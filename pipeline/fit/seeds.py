"""Random numbers derived from (zoo seed, source index, view), or (zoo seed, run, purpose).

The generator is counter-based: number `k` of a member depends on the member's key and `k`, not on
the batch, the worker or earlier draws. So any member can be made again alone, or all at once.
"""

import numpy as np

GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def scramble(x: np.ndarray) -> np.ndarray:
    """The output function of SplitMix64 (Steele et al. 2014): a bijection with good avalanche."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def member_keys(zoo_seed: int, source_index: np.ndarray, view: np.ndarray | int) -> np.ndarray:
    """`(members,)` uint64: one key for each (zoo seed, source index, view)."""
    return derive(derive(scramble(np.array([zoo_seed], np.uint64) + GOLDEN), source_index), view)


def derive(keys: np.ndarray, number: np.ndarray | int) -> np.ndarray:
    """New keys, one for each number."""
    return scramble((keys ^ np.asarray(number).astype(np.uint64)) + GOLDEN)


def bits(keys: np.ndarray, count: int) -> np.ndarray:
    """`(members, count)` uint16: 16 random bits each, four per number of the generator."""
    counter = np.arange(1, -(-count // 4) + 1, dtype=np.uint64) * GOLDEN
    return scramble(keys[:, None] + counter).view(np.uint16)[:, :count]


def normal(keys: np.ndarray, count: int) -> np.ndarray:
    """`(members, count)` float32, standard normal: the quantiles of `uniform`."""
    from scipy.special import ndtri

    return ndtri(uniform(keys, count).astype(np.float64) / 2 + 0.5 + 2.0**-25).astype(np.float32)


def uniform(keys: np.ndarray, count: int) -> np.ndarray:
    """`(members, count)` float32, uniform on [-1, 1): the first `count` numbers of each key."""
    counter = np.arange(1, count + 1, dtype=np.uint64) * GOLDEN
    bits = scramble(keys[:, None] + counter) >> np.uint64(40)
    return bits.astype(np.float32) * np.float32(2**-23) - np.float32(1)
