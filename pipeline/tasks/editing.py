"""Weights in, weights out: an INR is edited so that it renders what an operation makes of its signal."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import PositiveInt

from pipeline.config import Operation
from pipeline.errors import InputError
from pipeline.tasks.augmentation import Augmentation
from pipeline.tasks.task import Figure, Monitor, Table, TaskConfig

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import numpy as np
    from torch import Tensor

    from dwsnet.encoders import Encoder
    from dwsnet.heads import WeightsHead
    from pipeline.archive.shard import Block
    from pipeline.archive.zoo import Zoo
    from pipeline.tasks.task import Batch, Evaluation

SHOWN = 8
"""Members of the picture."""


class Editing(TaskConfig):
    kind: Literal["editing"] = "editing"
    """INRs are edited: v - s dv, with a learned scale s of each tensor."""
    operation: Operation = "dilate"
    """What makes the target, of the original signal and never of a rendering; 'identity' where
    zoo.signals.operation is what is to be undone."""
    expansion: PositiveInt = 1
    """Hidden layers of the edited networks are so many times as wide; with more than 1 they are larger
    than those that came in, and scores are not comparable with those of 1."""
    augmentation: Augmentation = Augmentation(signs=True)
    """What is done to networks in training, anew each epoch. Nothing that moves signals: targets stay."""

    columns: ClassVar[tuple[str, ...]] = ("source_index",)
    monitor: ClassVar[Monitor] = Monitor("mse", more_is_better=False)

    def check(self, zoo: Zoo) -> None:
        """INRs that can be run, on a known grid, whose original signals are known."""
        import numpy as np

        from pipeline.decode import Decoder
        from pipeline.signals.operations import OPERATIONS

        record, where = zoo.record, f"zoo {zoo.folder} cannot teach how INRs are edited"
        grid = record.signals.grid
        if record.decode.image is not None:
            raise InputError(f"{where}: its members must be INRs, found classifiers of images")
        Decoder(record.decode, zoo.space, f"zoo {zoo.folder}")
        if (why := zoo.why_no_signals) is not None:
            raise InputError(f"{where}: targets are made from the original signals, and {why}")
        OPERATIONS[self.operation](np.zeros((1, *grid, record.signals.num_channels), np.float32))
        self.augmentation.check(zoo)
        if self.augmentation.moves:
            raise InputError(
                f"task editing has targets that stay where they are: leave out training.task.augmentation."
                f"{self.augmentation.moves[0]}"
            )
        super().check(zoo)

    def prepare(self, zoo: Zoo) -> dict[str, Any]:
        """How INRs are rendered, and on what grid."""
        record = zoo.record
        return {"decode": record.decode.model_dump(mode="json"), "grid": list(record.signals.grid)}

    def build(self, encoder: Encoder, prepared: Mapping[str, Any]) -> WeightsHead:
        """Takes stacked state dicts of INRs, returns those of the edited ones; knows how to render both."""
        from dwsnet.encoders import features_of
        from dwsnet.heads import WeightsHead
        from pipeline.decode import DecodeContract, Decoder, coordinates_of

        contract, grid = DecodeContract.model_validate(prepared["decode"]), prepared["grid"]
        model = WeightsHead(features_of(encoder), self.expansion)
        model.decode = Decoder(contract, encoder.space, "the zoo that was trained on")
        model.register_buffer("points", coordinates_of(contract, grid), persistent=False)
        return model

    def attach(self, model: WeightsHead, zoo: Zoo) -> None:
        """The targets `(signals, points, channels)`, in the order of the source."""
        import torch

        targets = torch.from_numpy(self.targets(zoo)).flatten(1, -2)
        model.register_buffer("targets", targets, persistent=False)

    def targets(self, zoo: Zoo) -> np.ndarray:
        """`(signals, *grid, channels)` in [0, 1]: what edited INRs should render."""
        from pipeline.signals.operations import OPERATIONS

        return OPERATIONS[self.operation](originals_of(zoo))

    def loss(self, model: WeightsHead, batch: Batch, keys: Tensor) -> Tensor:
        """Mean squared error over members, all points of the grid and channels, of values that are not cut to [0, 1]."""
        state = self.augmentation.apply(model.space, batch.state, keys)
        return squared_errors(model, model(state), batch).mean()

    def sums(self, model: WeightsHead, batch: Batch) -> dict[str, Tensor]:
        import torch

        return {
            "members": torch.tensor(float(len(batch))),
            "edited": squared_errors(model, model(batch.state), batch).sum(),
            "unedited": squared_errors(model, batch.state, batch).sum(),
        }

    def metrics(self, sums: Mapping[str, Tensor]) -> dict[str, float]:
        """`mse` on the [0, 1] scale, `trivial_mse` of the unedited INRs, and the expansion where it is not 1."""
        mse, unedited = (
            float(sums[name]) / float(sums["members"]) for name in ("edited", "unedited")
        )
        expansion = {"expansion": float(self.expansion)} if self.expansion > 1 else {}
        return {"mse": mse, "loss": mse, "trivial_mse": unedited} | expansion

    def outputs(self, model: WeightsHead, batch: Batch) -> Tensor:
        """`(batch,)` the mean squared difference between what a member renders after and before."""
        after, before = (
            model.decode(state, model.points) for state in (model(batch.state), batch.state)
        )
        return (after - before).square().mean((1, 2))

    def predictions(self, outputs: Tensor) -> dict[str, Any]:
        """How much the edit changes what a member renders; `dwszoo edit` gives the edited networks themselves."""
        return {"mean_squared_change": outputs.numpy()}

    def figures(
        self, metrics: Mapping[str, Any], evaluation: Evaluation
    ) -> Sequence[Figure | Table]:
        larger = f", in networks {self.expansion} times as wide" if self.expansion > 1 else ""
        return (
            Figure(
                "edits.png",
                f"Members of the {metrics['split']} split: their signals, what they render, the target "
                f"('{self.operation}' of the signal) and what they render once edited{larger}; above "
                "INRs the mean squared error to the target.",
                partial(self._draw, evaluation, metrics["split"]),
            ),
            Table(
                "Mean squared error to the target on the [0, 1] scale, over all points of the grid:",
                ("INRs", f"{metrics['split']} split"),
                (
                    ("as they were", f"{metrics['trivial_mse']:.3e}"),
                    (f"edited{larger}", f"{metrics['mse']:.3e}"),
                ),
            ),
        )

    def _draw(self, evaluation: Evaluation, split: str, path: Path):
        """Some members, evenly over the split, with what each was, should be and is."""
        import numpy as np
        import pyarrow.compute as pc
        import torch

        from pipeline.figures.signals import draw_rows

        zoo, model = evaluation.zoo, evaluation.model
        rows = zoo.where((pc.field("split") == split) & (pc.field("status") == "ok"))
        rows = rows[np.unique(np.linspace(0, len(rows) - 1, SHOWN).round().astype(int))]
        source = zoo.catalog["source_index"].to_numpy()[rows]
        state = zoo[rows]
        with torch.no_grad():
            before, after = (model.decode(x, model.points) for x in (state, model(state)))
        values = {"INR": before, "target": model.targets[source], "edited": after}
        pictures = {"original": originals_of(zoo)[source]} | {
            name: points.unflatten(1, evaluation.prepared["grid"]).numpy()
            for name, points in values.items()
        }
        draw_rows(pictures, ("INR", "edited"), pictures["target"], path)


def originals_of(zoo: Zoo) -> np.ndarray:
    """`(signals, *grid, channels)`: the signals before anything was done to them, in the order of their source."""
    signals = zoo.signals()
    return signals.values if signals.originals is None else signals.originals


def squared_errors(model: WeightsHead, state: Block, batch: Batch) -> Tensor:
    """`(batch,)`: of what networks render to the targets of the members that they are or were, means over each."""
    targets = model.targets[batch.columns["source_index"]]
    return (model.decode(state, model.points) - targets).square().mean((1, 2))
