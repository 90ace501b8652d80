"""Weights in, weights out: an INR is edited so that it renders what an operation makes of its signal."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow.compute as pc
import torch
from jaxtyping import Float
from torch import Tensor, nn

from dwsnet.encoders import Encoder, features_of
from dwsnet.heads import WeightsHead
from pipeline.archive.shard import Block
from pipeline.archive.zoo import Zoo
from pipeline.decode import DecodeContract, Decoder, coordinates_of
from pipeline.errors import InputError
from pipeline.signals.operations import OPERATIONS
from pipeline.tasks.config import EditingConfig
from pipeline.tasks.task import Batch, Evaluation, Figure, Monitor, Table

SHOWN = 8
"""Members of the picture."""


class INREditor(WeightsHead):
    """Takes stacked state dicts of INRs, returns those of the edited ones; knows how to render both."""

    def __init__(
        self, encoder: Encoder, expansion: int, contract: DecodeContract, grid: Sequence[int]
    ):
        super().__init__(features_of(encoder), expansion)
        self.decode = Decoder(contract, encoder.space, "the zoo that was trained on")
        self.register_buffer("points", coordinates_of(contract, grid), persistent=False)
        self.grid = tuple(grid)


class Editing(EditingConfig):
    columns: ClassVar[tuple[str, ...]] = ("source_index",)
    monitor: ClassVar[Monitor] = Monitor("mse", more_is_better=False)

    def check(self, zoo: Zoo) -> None:
        """INRs that can be run, on a known grid, whose original signals are known."""
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

    def build(self, encoder: Encoder, prepared: Mapping[str, Any]) -> INREditor:
        contract = DecodeContract.model_validate(prepared["decode"])
        return INREditor(encoder, self.expansion, contract, prepared["grid"])

    def attach(self, model: nn.Module, zoo: Zoo) -> None:
        """The targets `(signals, points, channels)`, in the order of the source."""
        targets = torch.from_numpy(self.targets(zoo)).flatten(1, -2)
        model.register_buffer("targets", targets, persistent=False)

    def targets(self, zoo: Zoo) -> np.ndarray:
        """`(signals, *grid, channels)` in [0, 1]: what edited INRs should render."""
        return OPERATIONS[self.operation](originals_of(zoo))

    def loss(self, model: nn.Module, batch: Batch, keys: Tensor) -> Tensor:
        """Mean squared error over members, all points of the grid and channels, of values that are not cut to [0, 1]."""
        state = self.augmentation.apply(model.space, batch.state, keys)
        return squared_errors(model, model(state), batch).mean()

    def sums(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
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

    def outputs(self, model: nn.Module, batch: Batch) -> Tensor:
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

    @torch.no_grad()
    def _draw(self, evaluation: Evaluation, split: str, path: Path):
        """Some members, evenly over the split, with what each was, should be and is."""
        from pipeline.figures.signals import draw_rows

        zoo, model = evaluation.zoo, evaluation.model
        rows = zoo.where((pc.field("split") == split) & (pc.field("status") == "ok"))
        rows = rows[np.unique(np.linspace(0, len(rows) - 1, SHOWN).round().astype(int))]
        source = zoo.catalog["source_index"].to_numpy()[rows]
        state = zoo[rows]
        rendered = (model.decode(x, model.points) for x in (state, model(state)))
        before, after = (x.unflatten(1, model.grid).numpy() for x in rendered)
        pictures = {
            "original": originals_of(zoo)[source],
            "INR": before,
            "target": model.targets[source].unflatten(1, model.grid).numpy(),
            "edited": after,
        }
        draw_rows(pictures, ("INR", "edited"), pictures["target"], path)


def originals_of(zoo: Zoo) -> np.ndarray:
    """`(signals, *grid, channels)`: the signals before anything was done to them, in the order of their source."""
    signals = zoo.signals()
    return signals.values if signals.originals is None else signals.originals


def squared_errors(model: nn.Module, state: Block, batch: Batch) -> Float[Tensor, " batch"]:
    """The mean squared error of what networks render to the targets of the members that they are or were."""
    targets = model.targets[batch.columns["source_index"]]
    return (model.decode(state, model.points) - targets).square().mean((1, 2))
