"""Editing: change an INR so that it renders the result of an operation on its signal."""

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
"""Members in the picture."""


class Editing(TaskConfig):
    kind: Literal["editing"] = "editing"
    """Edit INRs: v - s dv, with a learned scale s per tensor."""
    operation: Operation = "dilate"
    """Makes the target from the original signal, never from a rendering; 'identity' if
    zoo.signals.operation is to be undone."""
    expansion: PositiveInt = 1
    """How many times as wide the hidden layers of the edited networks are. Above 1, scores are not
    comparable with those of 1, as the networks are larger."""
    augmentation: Augmentation = Augmentation(signs=True)
    """Augmentation of the networks in training, drawn anew each epoch. It must not move signals, as
    targets do not move."""

    columns: ClassVar[tuple[str, ...]] = ("source_index",)
    monitor: ClassVar[Monitor] = Monitor("mse", more_is_better=False)

    def check(self, zoo: Zoo) -> None:
        """Require INRs that can be rendered on a known grid, and their original signals."""
        import numpy as np

        from pipeline.decode import Decoder
        from pipeline.signals.operations import OPERATIONS

        record, where = zoo.record, f"zoo {zoo.folder} cannot teach editing"
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
                "the targets of task editing do not move with the signal: leave out "
                f"training.task.augmentation.{self.augmentation.moves[0]}"
            )
        super().check(zoo)

    def prepare(self, zoo: Zoo) -> dict[str, Any]:
        """How to render INRs, and on what grid."""
        record = zoo.record
        return {"decode": record.decode.model_dump(mode="json"), "grid": list(record.signals.grid)}

    def build(self, encoder: Encoder, prepared: Mapping[str, Any]) -> WeightsHead:
        """A model that maps stacked state dicts of INRs to edited ones, and can render both."""
        from dwsnet.encoders import features_of
        from dwsnet.heads import WeightsHead
        from pipeline.decode import DecodeContract, Decoder, coordinates_of

        contract, grid = DecodeContract.model_validate(prepared["decode"]), prepared["grid"]
        model: Any = WeightsHead(features_of(encoder), self.expansion)
        model.decode = Decoder(contract, model.space, "the zoo that was trained on")
        model.register_buffer("points", coordinates_of(contract, grid), persistent=False)
        return model

    def attach(self, model: WeightsHead, zoo: Zoo) -> None:
        """Attach the targets `(signals, points, channels)`, in the order of the source."""
        import torch

        targets = torch.from_numpy(self.targets(zoo)).flatten(1, -2)
        model.register_buffer("targets", targets, persistent=False)

    def targets(self, zoo: Zoo) -> np.ndarray:
        """`(signals, *grid, channels)` in [0, 1]: what the edited INRs should render."""
        from pipeline.signals.operations import OPERATIONS

        return OPERATIONS[self.operation](originals_of(zoo))

    def loss(self, model: WeightsHead, batch: Batch, keys: Tensor) -> Tensor:
        """Mean squared error over members, grid points and channels, without clipping to [0, 1]."""
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
        """`mse` on the [0, 1] scale, `trivial_mse` of unedited INRs, `expansion` if not 1."""
        mse, unedited = (
            float(sums[name]) / float(sums["members"]) for name in ("edited", "unedited")
        )
        expansion = {"expansion": float(self.expansion)} if self.expansion > 1 else {}
        return {"mse": mse, "loss": mse, "trivial_mse": unedited} | expansion

    def outputs(self, model: WeightsHead, batch: Batch) -> Tensor:
        """`(batch,)`: mean squared difference between a member's renderings after and before."""
        after, before = (
            model.decode(state, model.points) for state in (model(batch.state), batch.state)
        )
        return (after - before).square().mean((1, 2))

    def predictions(self, outputs: Tensor) -> dict[str, Any]:
        """How much an edit changes the rendering; `dwszoo edit` writes the edited networks."""
        return {"mean_squared_change": outputs.numpy()}

    def figures(
        self, metrics: Mapping[str, Any], evaluation: Evaluation
    ) -> Sequence[Figure | Table]:
        larger = f", in networks {self.expansion} times as wide" if self.expansion > 1 else ""
        return (
            Figure(
                "edits.png",
                f"Members of the {metrics['split']} split: the signal, what the INR renders, the "
                f"target ('{self.operation}' of the signal), and what the INR renders once "
                f"edited{larger}. The numbers are mean squared errors to the target.",
                partial(self._draw, evaluation, metrics["split"]),
            ),
            Table(
                "Mean squared error to the target on the [0, 1] scale, over all points of the "
                "grid:",
                ("INRs", f"{metrics['split']} split"),
                (
                    ("unedited", f"{metrics['trivial_mse']:.3e}"),
                    (f"edited{larger}", f"{metrics['mse']:.3e}"),
                ),
            ),
        )

    def _draw(self, evaluation: Evaluation, split: str, path: Path):
        """Draw members spread evenly over the split: unedited, target, edited."""
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
    """The signals before any operation, `(signals, *grid, channels)`, in the source's order."""
    signals = zoo.signals()
    return signals.values if signals.originals is None else signals.originals


def squared_errors(model: WeightsHead, state: Block, batch: Batch) -> Tensor:
    """`(batch,)` mean squared errors between the renderings of `state` and the members' targets."""
    targets = model.targets[batch.columns["source_index"]]
    return (model.decode(state, model.points) - targets).square().mean((1, 2))
