"""Masked entries: what stood in the place of a weight that is hidden, by all the others?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from pipeline.tasks.embedding import EmbeddingTask

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

    from dwsnet.pretraining import EntriesHead
    from dwsnet.weight_space import WeightSpace
    from pipeline.tasks.task import Batch


class Masked(EmbeddingTask):
    kind: Literal["masked"] = "masked"
    """Predict entries that are hidden, standardised tensor by tensor, from those that are seen. Entries are hidden one by one
    and not by neurons: which values a whole neuron had, nothing that is seen can tell."""
    share: float = Field(0.3, gt=0, lt=1)
    """Share of the entries that is hidden, anew for each network and epoch."""

    def build(self, encoder: nn.Module, prepared: Mapping[str, Any]) -> EntriesHead:
        from dwsnet.pretraining import EntriesHead

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
        import torch

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
        from dwsnet.keyed import fold_in, uniform

        return [
            uniform(fold_in(keys, i), *spec.shape) < self.share
            for i, spec in enumerate(space.tensors)
        ]
