"""Seven statistics of each tensor and gradient boosting: cheap, invariant, and hard to beat on classifier zoos."""

from collections.abc import Mapping
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor

from dwsnet.state import read_state
from dwsnet.weight_space import WeightSpace

QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)


def tensor_statistics(space: WeightSpace, state: Mapping[str, Tensor]) -> np.ndarray:
    """`(batch, 7 * tensors)` float64: mean, variance and the five quantiles of each tensor (Unterthiner et al. 2020)."""
    columns = []
    for tensor in read_state(space, state):
        entries = tensor.detach().cpu().double().flatten(1).numpy()
        columns += [entries.mean(1), entries.var(1), *np.quantile(entries, QUANTILES, axis=1)]
    return np.stack(columns, 1)


class BoostedStatistics:
    """scikit-learn's histogram gradient boosting on `tensor_statistics`; invariant to hidden permutations.

    `target` is "class" for labels (the class of the signal, a hyper-parameter) or "value" for numbers (accuracy).
    """

    def __init__(self, space: WeightSpace, target: Literal["class", "value"], seed: int = 0):
        from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

        kinds = {"class": HistGradientBoostingClassifier, "value": HistGradientBoostingRegressor}
        if target not in kinds:
            raise ValueError(f"target must be 'class' or 'value', got {target!r}")
        self.space, self.boosting = space, kinds[target](random_state=seed)

    def fit(self, state: Mapping[str, Tensor], targets: ArrayLike) -> "BoostedStatistics":
        """Learn `targets` `(batch,)` from stacked state dicts."""
        self.boosting.fit(tensor_statistics(self.space, state), targets)
        return self

    def predict(self, state: Mapping[str, Tensor]) -> np.ndarray:
        """`(batch,)` labels or values."""
        return self.boosting.predict(tensor_statistics(self.space, state))
