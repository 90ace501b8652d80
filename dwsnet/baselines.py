"""Gradient boosting on statistics of tensors, a baseline that needs no training in torch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from dwsnet.encoders.statistics import NUM_STATISTICS, tensor_statistics
from dwsnet.pretrained import build, read_folder, write_folder
from dwsnet.state import read_state
from dwsnet.weight_space import WeightSpace


class BoostedStatistics:
    """scikit-learn's histogram gradient boosting on `tensor_statistics`, permutation-invariant.

    `target` is "class" for labels (the class of the signal, a hyperparameter) or "value" for
    numbers (accuracy). Trees can only be saved as pickles, so `save_pretrained` keeps the
    statistics and targets that they were fitted to, and `from_pretrained` fits the same trees
    again.
    """

    def __init__(self, space: WeightSpace, target: Literal["class", "value"], seed: int = 0):
        from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

        kinds = {"class": HistGradientBoostingClassifier, "value": HistGradientBoostingRegressor}
        if target not in kinds:
            raise ValueError(f"target must be 'class' or 'value', got {target!r}")
        self.space, self.target, self.seed = space, target, seed
        self.boosting = kinds[target](random_state=seed)
        self.learnt: tuple[np.ndarray, np.ndarray] | None = None
        """Statistics and targets of the networks it was fitted to."""

    def fit(
        self, state: Mapping[str, Tensor], targets: ArrayLike, beside: ArrayLike | None = None
    ) -> "BoostedStatistics":
        """Fit `targets` `(batch,)` from stacked state dicts and, optionally, other numbers.

        `beside` is `(batch, columns)`.
        """
        return self._fit(self._statistics(state, beside), np.asarray(targets))

    def _statistics(self, state: Mapping[str, Tensor], beside: ArrayLike | None) -> np.ndarray:
        tensors = [x.detach().cpu().double() for x in read_state(self.space, state)]
        statistics = tensor_statistics(tensors).numpy()
        return statistics if beside is None else np.hstack([statistics, beside])

    def _fit(self, statistics: np.ndarray, targets: np.ndarray) -> "BoostedStatistics":
        if targets.shape != statistics.shape[:1]:
            raise ValueError(
                f"targets must have shape ({len(statistics)},), one for each network, found "
                f"{targets.shape}"
            )
        self.boosting.fit(statistics, targets)
        self.learnt = statistics, targets
        return self

    def predict(self, state: Mapping[str, Tensor], beside: ArrayLike | None = None) -> np.ndarray:
        """`(batch,)` labels or values; `beside` as in `fit`."""
        if self.learnt is None:
            raise ValueError(
                "boosted statistics must learn from networks and targets before they predict: call "
                "fit first"
            )
        return self.boosting.predict(self._statistics(state, beside))

    def save_pretrained(self, folder: str | Path):
        """Write `config.json`, `model.safetensors` and a card into `folder`, like other models."""
        if self.learnt is None:
            raise ValueError(
                "boosted statistics have nothing to save before they learn: call fit first"
            )
        statistics, targets = self.learnt
        labels, positions = (
            np.unique(targets, return_inverse=True)
            if self.target == "class"
            else (targets[:0], targets)
        )
        arguments = {"target": self.target, "seed": self.seed}
        tensors = {
            "statistics": torch.from_numpy(statistics),
            "targets": torch.from_numpy(positions),
        }
        write_folder(
            folder, type(self), self.space, {**arguments, "labels": labels.tolist()}, tensors
        )

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "BoostedStatistics":
        """Load what `save_pretrained` wrote. Raises what `dwsnet.pretrained.read_folder` raises."""
        space, arguments, tensors = read_folder(folder, cls)
        labels = np.asarray(arguments.pop("labels", []))
        model = build(cls, folder, space, arguments)
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        count, least = len(tensors.get("targets", ())), NUM_STATISTICS * len(space.tensors)
        columns = max(least, *shapes.get("statistics", (0, 0))[1:])
        if shapes != {"statistics": (count, columns), "targets": (count,)}:
            raise ValueError(
                f"{folder} must hold statistics of shape (networks, {least} or more) and targets, "
                f"found {shapes}"
            )
        targets = tensors["targets"].numpy()
        return model._fit(
            tensors["statistics"].numpy(), labels[targets] if model.target == "class" else targets
        )
