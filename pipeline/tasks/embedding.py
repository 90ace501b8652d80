"""The base of tasks without labels, which predict and plot each network's vector."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from pipeline.tasks.task import Figure, Monitor, TaskConfig

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from pipeline.archive.zoo import Zoo
    from pipeline.tasks.task import Evaluation

EMBEDDING = "embedding_"
"""Prefix of the prediction columns with the numbers of a vector, counted from 0."""


class EmbeddingTask(TaskConfig):
    """A task whose model returns the networks' vectors first, monitored by its loss."""

    columns: ClassVar[tuple[str, ...]] = ()
    monitor: ClassVar[Monitor] = Monitor("loss", more_is_better=False)

    def prepare(self, zoo: Zoo) -> dict[str, Any]:
        return {}

    def predictions(self, outputs: Sequence[Tensor]) -> Mapping[str, Any]:
        """The numbers of each vector."""
        vectors = outputs[0].cpu().numpy()  # (batch, width)
        return {f"{EMBEDDING}{i}": numbers for i, numbers in enumerate(vectors.T)}

    def figures(self, metrics: Mapping[str, Any], evaluation: Evaluation) -> Sequence[Figure]:
        """The vectors of the test split, projected to a plane."""
        import numpy as np
        import pyarrow as pa

        from pipeline.figures.embedding import draw_embedding

        zoo, table = evaluation.zoo, evaluation.table
        names = [name for name in table.column_names if name.startswith(EMBEDDING)]
        vectors = np.stack([table[name].to_numpy() for name in names], 1)
        finite = np.isfinite(vectors).all(1)
        if finite.sum() < 2 or len(names) < 2:  # nothing to project
            return ()
        rows = zoo.members(metrics["split"]).filter(pa.array(finite))
        class_names = zoo.record.class_names
        labels = rows["label"].fill_null(-1).to_numpy() if class_names else None
        numbers = {name: rows[name].to_numpy() for name in zoo.record.facts}
        draw = partial(draw_embedding, vectors[finite], labels, class_names, numbers)
        text = (
            "The vectors of the test split's networks in their first two principal components, one "
            "point per network. The colours were not used in training."
        )
        return (Figure("embedding.png", text, draw),)
