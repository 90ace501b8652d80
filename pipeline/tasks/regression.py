"""Regression: predict numeric catalog columns, such as accuracy or frequency, from the weights."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from pipeline.errors import InputError
from pipeline.tasks.task import Figure, Monitor, TaskConfig

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import numpy as np
    import pyarrow as pa
    from torch import Tensor

    from dwsnet.encoders import Encoder
    from dwsnet.weight_space import WeightSpace
    from pipeline.archive.zoo import Zoo
    from pipeline.tasks.regressor import BoostedRegressor, Columns, Regressor
    from pipeline.tasks.task import Batch, Evaluation

ROUNDING = 1e-12
"""Relative size of a sum of squares below which it is rounding error."""


class Outputs(NamedTuple):
    """Predicted targets of a batch, and the true ones if they are known."""

    predicted: Tensor
    """`(batch, targets)`."""
    columns: Columns
    names: tuple[str, ...]


class Regression(TaskConfig):
    kind: Literal["regression"] = "regression"
    """Predict numeric columns of the catalog."""
    targets: tuple[str, ...] = Field(("test_accuracy",), min_length=1)
    """Catalog columns to predict. Members whose target is null are left out of losses and
    metrics."""
    inputs: tuple[str, ...] = ()
    """Catalog columns that the model reads beside the weights, such as the activation: strings
    one-hot, numbers standardised."""
    objective: Literal["mse", "bce"] = "mse"
    """'mse': squared error of targets standardised over the train split; 'bce': cross-entropy of a
    sigmoid, for shares."""

    @model_validator(mode="after")
    def names_each_column_once(self) -> Regression:
        columns = self.targets + self.inputs
        for name in columns:
            if columns.count(name) > 1:
                raise PydanticCustomError(
                    "columns",
                    f"targets and inputs should name each column once, found {name!r} twice",
                )
        return self

    monitor: ClassVar[Monitor] = Monitor("r2")

    @property
    def columns(self) -> tuple[str, ...]:
        return self.targets + self.inputs

    def check(self, zoo: Zoo) -> None:
        """Require numeric targets that are known, finite and not constant.

        For 'bce' they must be from 0 to 1. Inputs are checked by `check_inputs`.
        """
        from pipeline.tasks.inputs import check_inputs, is_number

        super().check(zoo)
        for name in self.targets:
            kind = zoo.record.schema.field(name).type
            if not is_number(kind):
                raise InputError(
                    f"column {name!r} of zoo {zoo.folder} must hold numbers to be a target, found "
                    f"{kind}"
                )
            if zoo.is_sealed:
                check_target(zoo, name, self.objective)
        check_inputs(zoo, self.inputs)

    def prepare(self, zoo: Zoo) -> dict[str, Any]:
        """Mean and standard deviation of each target over the train split; `describe_inputs`."""
        import pyarrow as pa

        from pipeline.tasks.inputs import describe_inputs

        targets = {}
        for name in self.targets:
            known = known_targets(zoo, "train", name).cast(pa.float64(), safe=False).to_numpy()
            targets[name] = {"mean": float(known.mean()), "std": float(known.std())}
        return {"targets": targets, "inputs": describe_inputs(zoo, self.inputs)}

    def build(self, encoder: Encoder, prepared: Mapping[str, Any]) -> Regressor:
        from pipeline.tasks.regressor import Regressor, Targets

        return Regressor(encoder, Targets(prepared, self.objective), prepared["inputs"])

    def boosted(
        self, space: WeightSpace, batches: Iterable[Batch], prepared: Mapping[str, Any]
    ) -> BoostedRegressor:
        from pipeline.tasks.regressor import BoostedRegressor, Targets

        targets = Targets(prepared, self.objective)
        return BoostedRegressor(space, targets, prepared["inputs"]).fit(
            (batch.state, batch.columns) for batch in batches
        )

    def loss(self, model: Regressor, batch: Batch, keys: Tensor) -> Tensor:
        """Mean over members and targets; unknown targets count as 0."""
        outputs = model(batch.state, batch.columns)
        return model.targets.losses(outputs, model.targets.read(batch.columns)).mean()

    def sums(self, model: Regressor, batch: Batch) -> dict[str, Tensor]:
        """Sums `(targets,)` of powers of errors and of distances to the train mean, in raw units.

        For a non-finite output, the error is that of the mean.
        """
        import torch

        outputs, targets = model(batch.state, batch.columns), model.targets
        truth = targets.read(batch.columns)
        known, predicted = truth.isfinite(), targets.values(outputs)
        distance = torch.where(known, truth - targets.mean, 0).double()
        error = torch.where(known, truth - predicted, 0).double()
        error = torch.where(error.isfinite(), error, distance)
        return {
            "known": known.sum(0),
            "loss": targets.losses(outputs, truth).sum(0),
            "error": error.abs().sum(0),
            "error_squared": error.square().sum(0),
            "distance": distance.sum(0),
            "distance_absolute": distance.abs().sum(0),
            "distance_squared": distance.square().sum(0),
        }

    def metrics(self, sums: Mapping[str, Tensor]) -> dict[str, float]:
        """R^2, mean squared and mean absolute error (raw units) of the model and of the train mean.

        Means over the targets and, if there are several, also each target's own. If the truth is
        constant, R^2 is 1 for a perfect prediction and 0 otherwise, as in scikit-learn.
        """
        import torch

        known = torch.as_tensor(sums["known"]).double()
        for name, number in zip(self.targets, known.tolist(), strict=True):
            if not number:
                raise InputError(
                    f"target {name!r} must be known for one member or more, found none"
                )
        spread = sums["distance_squared"] - sums["distance"] ** 2 / known
        is_constant = spread <= ROUNDING * sums["distance_squared"]

        def r2(squared: Tensor) -> Tensor:
            return torch.where(is_constant, squared == 0, 1 - squared / spread)

        scores = {
            "r2": r2(sums["error_squared"]),
            "mse": sums["error_squared"] / known,
            "mae": sums["error"] / known,
            "loss": sums["loss"] / known,
            "trivial_r2": r2(sums["distance_squared"]),
            "trivial_mse": sums["distance_squared"] / known,
            "trivial_mae": sums["distance_absolute"] / known,
        }
        return self._means(
            {name: score.tolist()[i] for name, score in scores.items()}
            for i in range(len(self.targets))
        )

    def _means(self, of_targets: Any) -> dict[str, float]:
        """The mean of each score over the targets and, if there are several, the scores of each."""
        import numpy as np

        scores = dict(zip(self.targets, of_targets, strict=True))
        names = dict.fromkeys(name for one in scores.values() for name in one)
        means = {
            name: float(np.mean([one[name] for one in scores.values() if name in one]))
            for name in names
        }
        if len(scores) == 1:
            return means
        each = {
            f"{target}_{name}": score
            for target, one in scores.items()
            for name, score in one.items()
        }
        return means | each

    def outputs(self, model: Regressor, batch: Batch) -> Outputs:
        predicted = model.targets.values(model(batch.state, batch.columns))
        return Outputs(predicted, batch.columns, model.targets.names)

    def predictions(self, outputs: Outputs) -> dict[str, Any]:
        """For each target, the true value if the zoo has it, and the predicted value."""
        columns = {}
        for name, predicted in zip(outputs.names, outputs.predicted.T, strict=True):
            if name in outputs.columns:
                columns[f"true {name}"] = outputs.columns[name].numpy()
            columns[f"predicted {name}"] = predicted.numpy()
        return columns

    def scores(self, table: pa.Table) -> dict[str, Any]:
        """The scores of `rank_scores`, over members with both a true and a predicted value."""
        from pipeline.tasks.ranks import rank_scores

        return self._means(rank_scores(*truth_and_predicted(table, name)) for name in self.targets)

    def figures(self, metrics: Mapping[str, Any], evaluation: Evaluation) -> Sequence[Figure]:
        from pipeline.figures.regression import draw_predicted

        pairs = {name: truth_and_predicted(evaluation.table, name) for name in self.targets}
        text = "Predicted against true values of the members of the test split."
        return (Figure("predicted.svg", text, partial(draw_predicted, pairs)),)


def truth_and_predicted(table: pa.Table, name: str) -> tuple[np.ndarray, np.ndarray]:
    """True and predicted values of the members that have both."""
    import pyarrow.compute as pc

    from pipeline.tasks.inputs import is_known

    columns = [table[f"true {name}"], table[f"predicted {name}"]]
    both = pc.and_(*(is_known(column) for column in columns))
    truth, predicted = (column.filter(both).to_numpy() for column in columns)
    return truth, predicted


def known_targets(zoo: Zoo, split: str, name: str) -> pa.ChunkedArray:
    """The known values of a column in a split.

    Raises InputError if there are none, or if they are constant in the train split.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    members = zoo.members(split)
    known, what = members[name].drop_null(), f"column {name!r} of zoo {zoo.folder}"
    if not len(known):
        raise InputError(
            f"{what} must be known for members of the {split} split to be a target, found none"
        )
    as_learned = known.cast(pa.float32(), safe=False)
    if split == "train" and pc.count_distinct(as_learned).as_py() == 1:
        least, most = pc.min_max(known).as_py().values()
        found = f"{least}" if least == most else f"{least} to {most}, the same in float32,"
        raise InputError(
            f"{what} must differ between members to be a target, found {found} for all "
            f"{len(known):,} of the train split that are trained on"
        )
    return known


def check_target(zoo: Zoo, name: str, objective: str):
    """Raise InputError if the column cannot be a target of this objective."""
    import pyarrow as pa
    import pyarrow.compute as pc

    from pipeline.tasks.columns import require_int64
    from pipeline.tasks.inputs import is_known

    what = f"column {name!r} of zoo {zoo.folder}"
    members = zoo.catalog.filter(pc.field("status") == "ok")
    column = members[name]
    require_int64(zoo, name)
    for row in members.filter(pc.and_(column.is_valid(), pc.invert(is_known(column)))).to_pylist():
        raise InputError(
            f"{what} must have finite numbers or null to be a target, in float32, found "
            f"{row[name]} for {row['key']}"
        )
    if column.null_count and not pa.types.is_floating(column.type):
        raise InputError(
            f"{what} must be known for every member to be a target, as it holds integers, "
            f"found null for {column.null_count:,}"
        )
    for split in ("train", "validation"):
        known_targets(zoo, split, name)
    least, most = pc.min_max(column).as_py().values()
    if objective == "bce" and not 0 <= least <= most <= 1:
        raise InputError(
            f"{what} must have shares from 0 to 1 for training.task.objective 'bce', found "
            f"{least:g} to {most:g}: "
            "take 'mse'"
        )
