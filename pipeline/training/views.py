"""Groups of members of the same signal."""

import numpy as np


class Views:
    """Groups of `group` members of each signal that has enough."""

    def __init__(self, source: np.ndarray, view: np.ndarray, group: int):
        """`source` and `view`, `(members,)`: the signal of each member, and its number there."""
        self._group, self._members = group, np.lexsort((view, source))
        starts, counts = np.unique(source[self._members], return_index=True, return_counts=True)[1:]
        self._starts, self._counts = starts[counts >= group], counts[counts >= group]

    def __len__(self) -> int:
        """Number of signals."""
        return len(self._starts)

    def first(self) -> np.ndarray:
        """`(signals, group)`: the first members of each signal."""
        return self._members[self._starts[:, None] + np.arange(self._group)]

    def drawn(self, signals: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """`(signals, group)`: different members of each signal, in an order drawn from `rng`."""
        starts, counts = self._starts[signals, None], self._counts[signals, None]
        draws = rng.random((len(signals), counts.max(initial=self._group)))
        draws[np.arange(draws.shape[1]) >= counts] = (
            1  # draws are below 1, so missing members come last
        )
        return self._members[starts + draws.argsort(1)[:, : self._group]]
