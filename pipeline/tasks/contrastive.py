"""Contrastive learning without labels: SimCLR on weights (Chen et al. 2020)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import PositiveFloat

from pipeline.errors import InputError
from pipeline.tasks.augmentation import Augmentation
from pipeline.tasks.embedding import EmbeddingTask

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

    from dwsnet.pretraining import ProjectionHead
    from pipeline.archive.zoo import Zoo
    from pipeline.tasks.task import Batch


class Contrastive(EmbeddingTask):
    kind: Literal["contrastive"] = "contrastive"
    """Find which two networks of a batch belong together: NT-Xent on projections of their
    vectors."""
    positives: Literal["augmented", "views"] = "augmented"
    """'augmented': two augmented copies of a network; 'views': two independently fitted INRs of one
    signal, each augmented."""
    temperature: PositiveFloat = 0.1
    """Divides the cosines of projections."""
    augmentation: Augmentation = Augmentation()
    """Augmentation of the copies."""

    columns: ClassVar[tuple[str, ...]] = ("source_index",)

    @property
    def group(self) -> int:  # type: ignore[override]  # it depends on a field here
        return 2 if self.positives == "views" else 1

    def check(self, zoo: Zoo) -> None:
        super().check(zoo)
        self.augmentation.check(zoo)
        if self.group == 2 and largest_group(zoo) < 2:
            raise InputError(
                f"zoo {zoo.folder} must have two or more INRs of each signal for pairs of views, "
                "found one: build it with zoo.views=2, or set training.task.positives=augmented"
            )

    def build(self, encoder: nn.Module, prepared: Mapping[str, Any]) -> ProjectionHead:
        from dwsnet.pretraining import ProjectionHead

        return ProjectionHead(encoder)

    def attach(self, model: Any, zoo: Zoo) -> None:
        model.space = zoo.space

    def loss(self, model: nn.Module, batch: Batch, keys: Tensor) -> Tensor:
        """NT-Xent over the pairs of all ranks, independent of how many ranks share a batch."""
        from torch.nn.functional import cross_entropy

        from dwsnet.pretraining import of_all_ranks, similarities

        one, other, signal = map(of_all_ranks, self.pairs(model, batch, keys))
        return cross_entropy(*similarities(one, other, signal, self.temperature))

    def pairs(self, model: nn.Module, batch: Batch, keys: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Projections `(pairs, width)` of both networks of the pairs; signals `(pairs,)`."""
        import torch

        from dwsnet.keyed import fold_in

        if self.group == 1:  # each network twice
            twice = torch.arange(len(batch), device=keys.device).repeat_interleave(2)
            batch, keys = batch.take(twice), torch.stack([fold_in(keys, i) for i in (0, 1)], 1)
        state = self.augmentation.apply(model.space, batch.state, keys.flatten())
        projections = model(state)[1]
        return projections[::2], projections[1::2], batch.columns["source_index"][::2]

    def sums(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Sums over one batch, each network augmented in the same way in every epoch."""
        import torch
        from torch.nn.functional import cross_entropy

        from dwsnet.pretraining import similarities

        logits, partner = similarities(*self.pairs(model, batch, batch.positions), self.temperature)
        candidates = logits.isfinite().sum(1)
        return {
            "anchors": candidates.new_tensor(len(logits), dtype=torch.float64),
            "loss": cross_entropy(logits, partner, reduction="sum").double(),
            "retrieved": (logits.argmax(1) == partner).sum().double(),
            "chance": (1 / candidates.double()).sum(),
        }

    def metrics(self, sums: Mapping[str, Tensor]) -> dict[str, float]:
        """How often the partner is the most similar of a batch, and how often by chance."""
        anchors = sums["anchors"].item()
        return {
            "loss": sums["loss"].item() / anchors,
            "retrieval_accuracy": sums["retrieved"].item() / anchors,
            "trivial_retrieval_accuracy": sums["chance"].item() / anchors,
        }


def largest_group(zoo: Zoo) -> int:
    """The most members of one signal in the train split; planned ones if none is fitted yet."""
    import numpy as np

    from pipeline.archive.zoo import column

    sources = column(zoo.members("train"), "source_index")
    if not len(sources):
        return getattr(zoo.record.config, "views", 2)
    return int(np.unique(sources, return_counts=True)[1].max())
