"""The models of a run side by side: its own, baselines and boosting, over their seeds."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from pipeline.archive.files import read_json
from pipeline.archive.record import first_problem
from pipeline.errors import ArchiveError
from pipeline.training.boosting import FILE, TITLE
from pipeline.training.checkpoint import read_history
from pipeline.training.config import TrainingConfig
from pipeline.training.evaluate import read_metrics, scalars, shown, titled
from pipeline.training.history import History
from pipeline.training.variants import folders_in


@dataclass(frozen=True)
class Model:
    """What the report says of one model of a run."""

    family: str
    """What its encoder is called: alike for those that differ by their seed."""
    metrics: dict[str, Any]
    """Of the test split."""
    history: History | None
    """None of boosting, which has no epochs."""
    seed: int | None = None
    """Where it is another than the run's."""

    @property
    def title(self) -> str:
        return self.family if self.seed is None else f"{self.family}, seed {self.seed}"

    @property
    def seconds(self) -> float:
        if self.history is None:
            return self.metrics["seconds"]
        return sum(epoch.seconds for epoch in self.history.epochs)

    @property
    def validation(self) -> float:
        """The monitored metric on the validation split."""
        if self.history is None:
            return self.metrics["validation"]
        return self.history.monitored(self.history.best)

    @property
    def rate(self) -> float:
        """Models/s over all epochs."""
        epochs = self.history.epochs
        return sum(epoch.models_per_second * epoch.seconds for epoch in epochs) / self.seconds


def models_of(run: Path) -> list[Model]:
    """The models of a run that have been scored, its own first, and boosting after each of these."""
    models = []
    for folder in folders_in(run):
        history = read_history(folder)
        if history is None or not (folder / "metrics.json").exists():
            continue
        training, metrics = read_training(folder), read_metrics(folder / "metrics.json")
        title = getattr(training.encoder, "title", training.encoder.kind)
        seed = training.seed if folder.parent.name == "seeds" else None
        models.append(Model(title, metrics, history, seed))
        if (folder / FILE).exists():
            models.append(Model(TITLE, read_metrics(folder / FILE), None, seed))
    return models


def read_training(run: Path) -> TrainingConfig:
    """What the run was trained with. Raises ArchiveError where its config.json is damaged."""
    file = run / "config.json"
    try:
        return TrainingConfig.model_validate(read_json(file)["training"])
    except (ValueError, TypeError, KeyError) as error:
        problem = first_problem(error) if isinstance(error, ValueError) else repr(error)
        raise ArchiveError(f"{file} is damaged ({problem}): put back a copy") from error


def families(models: Sequence[Model]) -> list[list[Model]]:
    """The models with those that differ from them by their seed alone, in order of first appearance."""
    groups: dict[str, list[Model]] = {}
    for model in models:
        groups.setdefault(model.family, []).append(model)
    return list(groups.values())


def model_table(models: Sequence[Model]) -> dict[str, Any]:
    """A row a family: parameters, epochs, seconds, the monitored metric on each split and all metrics on test.

    Of several seeds the mean, and their standard deviation after it.
    """
    names = [name for name, _ in scalars(models[0].metrics)]
    metric = models[0].metrics["monitor"]
    columns = [
        "model",
        "parameters",
        "epochs",
        "best epoch",
        "seconds",
        f"train {titled(metric)}",
        f"validation {titled(metric)}",
        *(f"test {titled(name)}" for name in names),
    ]
    rows = []
    for group in families(models):
        first = group[0]

        def cell(metric: str, of: Callable[[Model], float], group: list[Model] = group) -> str:
            return over_seeds(metric, [of(model) for model in group])

        rows.append(
            [
                first.family + (f", {len(group)} seeds" if len(group) > 1 else ""),
                *budget(group),
                f"{fmean(model.seconds for model in group):,.0f}",
                cell(metric, lambda model: model.metrics["train"]["value"]),
                cell(metric, lambda model: model.validation),
                *(cell(name, lambda model, name=name: model.metrics[name]) for name in names),
            ]
        )
    return {"columns": columns, "rows": rows}


def over_seeds(metric: str, values: Sequence[float]) -> str:
    """A metric as people read it, with its standard deviation where there are several."""
    if len(values) == 1:
        return shown(metric, values[0])
    return f"{shown(metric, fmean(values))} ± {shown(metric, stdev(values))}"


def budget(group: Sequence[Model]) -> tuple[str, ...]:
    """Parameters, epochs and the best epochs of models that differ by their seed."""
    first = group[0]
    if first.history is None:
        return ("", "", "")
    return (
        f"{first.metrics['num_parameters']:,}",
        str(len(first.history)),
        ", ".join(str(model.metrics["epoch"]) for model in group),
    )
