"""Masked entries: predict hidden weights from all the others."""

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
    """Predict hidden entries, standardised tensor by tensor, from the visible ones. Single entries
    are hidden and not whole neurons, whose values nothing visible could determine."""
    share: float = Field(0.3, gt=0, lt=1)
    """Share of hidden entries, drawn anew for each network and epoch."""

    def build(self, encoder: nn.Module, prepared: Mapping[str, Any]) -> EntriesHead:
        from dwsnet.pretraining import EntriesHead

        return EntriesHead(encoder)

    def loss(self, model: nn.Module, batch: Batch, keys: Tensor) -> Tensor:
        squares, _, count = self.errors(model, batch, keys)
        return squares / count.clamp(min=1)

    def sums(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Sums over the same hidden entries in every epoch."""
        squares, trivial, count = self.errors(model, batch, batch.positions)
        return {"squares": squares.double(), "trivial": trivial.double(), "entries": count.double()}

    def metrics(self, sums: Mapping[str, Tensor]) -> dict[str, float]:
        """Mean squared error of the model, and of always predicting each tensor's mean.

        Entries are standardised over the train split.
        """
        entries = sums["entries"].item()
        return {
            "loss": sums["squares"].item() / entries,
            "trivial_loss": sums["trivial"].item() / entries,
        }

    def errors(self, model: nn.Module, batch: Batch, keys: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Sums of squared errors and of squared values of hidden entries; their number."""
        import torch

        hidden = self.hidden(model.space, keys)
        _, predictions, truth = model(batch.state, hidden)
        pairs = [
            torch.stack([x[mask], y[mask]])
            for x, y, mask in zip(predictions, truth, hidden, strict=True)
        ]
        predicted, true = torch.cat(pairs, 1)
        count = torch.tensor(float(len(true)), device=true.device)
        return (predicted - true).square().sum(), true.square().sum(), count

    def hidden(self, space: WeightSpace, keys: Tensor) -> list[Tensor]:
        """Masks of hidden entries, `(batch, *spec.shape)` bool, from each member's key alone."""
        from dwsnet.keyed import fold_in, uniform

        return [
            uniform(fold_in(keys, i), *spec.shape) < self.share
            for i, spec in enumerate(space.tensors)
        ]
