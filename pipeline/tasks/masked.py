"""Masked entries: what stood in the place of a weight that is hidden, by all the others?"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dwsnet.keyed import fold_in, uniform
from dwsnet.pretraining import EntriesHead
from dwsnet.weight_space import WeightSpace
from pipeline.tasks.config import MaskedConfig
from pipeline.tasks.embedding import EmbeddingTask
from pipeline.tasks.task import Batch


class Masked(MaskedConfig, EmbeddingTask):
    def build(self, encoder: nn.Module, prepared: Mapping[str, Any]) -> EntriesHead:
        return EntriesHead(encoder)

    def loss(self, model: nn.Module, batch: Batch, keys: Tensor) -> Tensor:
        squares, _, count = self.errors(model, batch, keys)
        return squares / count.clamp(min=1)

    def sums(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Of the same hidden entries in every epoch."""
        squares, trivial, count = self.errors(model, batch, batch.positions)
        return {"squares": squares.double(), "trivial": trivial.double(), "entries": count.double()}

    def metrics(self, sums: Mapping[str, Tensor]) -> dict[str, float]:
        """Mean squared error, and that of the mean of each tensor; a train split's standard deviation is 1."""
        entries = sums["entries"].item()
        return {
            "loss": sums["squares"].item() / entries,
            "trivial_loss": sums["trivial"].item() / entries,
        }

    def errors(self, model: nn.Module, batch: Batch, keys: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Over the hidden entries: the sums of squared errors and of squared values, and how many there are."""
        hidden = self.hidden(model.encoder.space, keys)
        _, predictions, truth = model(batch.state, hidden)
        pairs = [
            torch.stack([x[mask], y[mask]])
            for x, y, mask in zip(predictions, truth, hidden, strict=True)
        ]
        predicted, true = torch.cat(pairs, 1)
        count = torch.tensor(float(len(true)), device=true.device)
        return (predicted - true).square().sum(), true.square().sum(), count

    def hidden(self, space: WeightSpace, keys: Tensor) -> list[Tensor]:
        """Which entries are hidden: `(batch, *spec.shape)` bool a tensor, for each member by its key alone."""
        return [
            uniform(fold_in(keys, i), *spec.shape) < self.share
            for i, spec in enumerate(space.tensors)
        ]
