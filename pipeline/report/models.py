"""The table of a run's models: its own, baselines and boosting, over seeds."""

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
    """One model of a run, as the report shows it."""

    family: str
    """Name of its encoder, the same for models that differ only in their seed."""
    metrics: dict[str, Any]
    """Metrics on the test split."""
    history: History | None
    """None for boosting, which has no epochs."""
    seed: int | None = None
    """None for the run's own seed."""

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
        """Training throughput over all epochs, models/s."""
        assert self.history is not None
        epochs = self.history.epochs
        return sum(epoch.models_per_second * epoch.seconds for epoch in epochs) / self.seconds


def models_of(run: Path) -> list[Model]:
    """The scored models of a run, its own first, each followed by its boosting."""
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
    """The training configuration of a run. Raises ArchiveError if its config.json is damaged."""
    file = run / "config.json"
    try:
        return TrainingConfig.model_validate(read_json(file)["training"])
    except (ValueError, TypeError, KeyError) as error:
        problem = first_problem(error) if isinstance(error, ValueError) else repr(error)
        raise ArchiveError(f"{file} is damaged ({problem}): put back a copy") from error


def families(models: Sequence[Model]) -> list[list[Model]]:
    """Models grouped with those that differ only in their seed, in order of first appearance."""
    groups: dict[str, list[Model]] = {}
    for model in models:
        groups.setdefault(model.family, []).append(model)
    return list(groups.values())


def model_table(models: Sequence[Model]) -> dict[str, Any]:
    """One line per family: its budget, the monitored metric on each split, all metrics on test.

    The budget is parameters, epochs and seconds. For several seeds, metrics are mean ± standard
    deviation.
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
                *(over_seeds(name, [model.metrics[name] for model in group]) for name in names),
            ]
        )
    return {"columns": columns, "rows": rows}


def over_seeds(metric: str, values: Sequence[float]) -> str:
    """A metric formatted for display, as mean ± standard deviation if there are several values."""
    if len(values) == 1:
        return shown(metric, values[0])
    return f"{shown(metric, fmean(values))} ± {shown(metric, stdev(values))}"


def budget(group: Sequence[Model]) -> tuple[str, ...]:
    """Parameters, epochs and best epochs of models that differ only in their seed."""
    first = group[0]
    if first.history is None:
        return ("", "", "")
    return (
        f"{first.metrics['num_parameters']:,}",
        str(len(first.history)),
        ", ".join(str(model.metrics["epoch"]) for model in group),
    )
