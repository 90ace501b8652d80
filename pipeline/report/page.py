"""`report/index.html`: one page with its pictures beside it, readable without a server and without network."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from pipeline.archive.files import read_json, write_atomic
from pipeline.archive.record import first_problem
from pipeline.archive.summary import in_words, shown, summarize
from pipeline.archive.zoo import Zoo, column
from pipeline.config import (
    Config,
    TrainingConfig,
    ZooConfig,
    describe,
    fingerprint,
    identity_of_model,
)
from pipeline.errors import ArchiveError, InputError
from pipeline.figures.confusion import draw_confusion
from pipeline.report.accuracies import ACCURACY, draw_accuracies
from pipeline.report.pictures import draw_psnr, draw_reconstructions, psnr_of
from pipeline.report.scores import draw_curves
from pipeline.tasks.classification import majority
from pipeline.training.checkpoint import EpochMetrics, read_history

NAMES = {"dwsnet": "DWSNet", "mlp": "flat MLP"}
"""Of models, by the kind that their configuration has."""
NUM_MISTAKES = 10


def write_report(run: Path):
    """Draw everything into `run/report` and write the page last.

    Needs the run's zoo and metrics.json. The baseline stands beside it where `run/baseline` has been scored, and how fast the
    zoo was fitted is told where this run fitted it and left fit.json. A zoo that cannot be drawn is reported without its
    picture, with the reason.
    """
    folder = run / "report"
    folder.mkdir(exist_ok=True)
    zoo, training = Zoo.open(run / "zoo"), read_training(run)
    folders = {name_of(training): run}
    if (run / "baseline" / "metrics.json").exists():
        folders.setdefault(NAMES["mlp"], run / "baseline")
    metrics = {name: read_json(path / "metrics.json") for name, path in folders.items()}
    histories = {name: read_history(path) for name, path in folders.items()}
    fitted = read_json(run / "fit.json") if (run / "fit.json").exists() else None
    (first, main), (majority_class, majority_accuracy) = (
        next(iter(metrics.items())),
        majority(zoo, "test"),
    )
    draw_curves(histories, majority(zoo, "validation")[1], folder / "curves.svg")
    draw_confusion(main["confusion"], main["class_names"], folder / "confusion.svg")
    members = "INRs" if isinstance(zoo.record.config, ZooConfig) else "networks"
    template = Environment(
        loader=PackageLoader("pipeline.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    ).get_template("page.html")
    configuration: list[tuple[str, Config]] = [("zoo.", zoo.record.config), ("training.", training)]
    identity = {"zoo": zoo.record.config.identity(), "training": training.identity()}
    page = template.render(
        title=f"{zoo.record.signals.name}: {len(zoo):,} {members} and a {first} that reads them",
        subtitle=f"zoo {zoo.record.fingerprint}, run {fingerprint(identity)}",
        figures=headline(zoo, metrics, histories, fitted),
        models=model_table(metrics, histories),
        majority_class=majority_class,
        majority_accuracy=percent(majority_accuracy),
        confusions=most_frequent_mistakes(main["confusion"], main["class_names"]),
        zoo_pictures=zoo_pictures(zoo, folder),
        zoo={key: in_words(value, isolated) for key, value in summarize(zoo).items()},
        throughput=throughput(zoo, histories, fitted),
        configuration=[
            (name, json.dumps(value, default=str), meaning)
            for prefix, config in configuration
            for name, value, meaning in describe(config, prefix)
        ],
    )
    write_atomic(folder / "index.html", page.encode())


def read_training(run: Path) -> TrainingConfig:
    """What the run was trained with. Raises ArchiveError where its config.json is damaged."""
    file = run / "config.json"
    try:
        written = read_json(file)["training"]
        return TrainingConfig.model_validate(
            written | {"model": identity_of_model(written["model"])}
        )
    except (ValueError, TypeError, KeyError) as error:
        problem = first_problem(error) if isinstance(error, ValueError) else repr(error)
        raise ArchiveError(f"{file} is damaged ({problem}): put back a copy") from error


def name_of(training: TrainingConfig) -> str:
    return NAMES.get(training.model.kind, training.model.kind)


def zoo_pictures(zoo: Zoo, folder: Path) -> list[dict[str, str | None]]:
    """Pictures of the zoo, each with the text above it; the text alone, with the reason, where it cannot be drawn."""
    drawn = [members_picture(zoo, folder)]
    if len(psnr_of(zoo)):
        draw_psnr(zoo, folder / "psnr.svg")
        text = "How well members render their signals, on the grid that they were fitted on."
        drawn.append({"file": "psnr.svg", "text": text, "alt": "Histogram of PSNR"})
    return drawn


def members_picture(zoo: Zoo, folder: Path) -> dict[str, str | None]:
    if ACCURACY in zoo.catalog.column_names:
        draw, file = draw_accuracies, "accuracies.svg"
        text = "How accurate its members are, and what that depends on."
    else:
        draw, file = draw_reconstructions, "reconstructions.png"
        text = "One signal of each class, and what its INRs render from their stored weights."
    try:
        draw(zoo, folder / file)
    except InputError as error:
        (folder / file).unlink(missing_ok=True)  # of an earlier report
        return {"file": None, "text": f"No picture: {error}.", "alt": None}
    return {"file": file, "text": text, "alt": text}


def headline(
    zoo: Zoo,
    metrics: dict[str, Any],
    histories: dict[str, list[EpochMetrics]],
    fitted: dict[str, Any] | None,
) -> list[dict]:
    first = next(iter(metrics))
    values = {
        f"{name} test accuracy, "
        + ("each member by itself" if name == first else "same budget"): percent(scores["accuracy"])
        for name, scores in metrics.items()
    }
    if len(psnr := psnr_of(zoo)):
        values["median PSNR"] = f"{np.median(psnr):.1f} dB"
    values["models/s in training"] = f"{train_rate(histories[first]):,.0f}"
    if fitted:
        values["INRs/s in fitting"] = f"{fit_rate(fitted):,.0f}"
    return [{"meaning": meaning, "value": value} for meaning, value in values.items()]


def model_table(
    metrics: dict[str, Any], histories: dict[str, list[EpochMetrics]]
) -> dict[str, Any]:
    columns = [
        "model",
        "parameters",
        "epochs",
        "best epoch",
        "validation",
        "test, each member",
        "test, mean over views",
    ]
    rows = [
        [
            name,
            f"{scores['num_parameters']:,}",
            len(histories[name]),
            scores["epoch"],
            percent(histories[name][scores["epoch"] - 1].validation_accuracy),
            percent(scores["accuracy"]),
            percent(scores["signal_accuracy"]),
        ]
        for name, scores in metrics.items()
    ]
    return {"columns": columns, "rows": rows}


def most_frequent_mistakes(
    confusion: Sequence[Sequence[int]], class_names: Sequence[str]
) -> list[tuple[str, str, str]]:
    """True class, predicted class and how many percent of the true class, the largest shares first."""
    counts = np.array(confusion, float)
    shares = counts / np.maximum(1, counts.sum(1, keepdims=True))
    np.fill_diagonal(shares, 0)
    order = np.argsort(-shares, axis=None, kind="stable")[:NUM_MISTAKES]
    pairs = zip(*np.unravel_index(order, shares.shape), strict=True)
    return [
        (class_names[true], class_names[predicted], percent(shares[true, predicted]))
        for true, predicted in pairs
        if shares[true, predicted]
    ]


def throughput(
    zoo: Zoo, histories: dict[str, list[EpochMetrics]], fitted: dict[str, Any] | None
) -> dict[str, str]:
    rows = {}
    if fitted:
        steps = column(zoo.catalog, "steps").mean() * fit_rate(fitted)
        rows["fit"] = (
            f"{fit_rate(fitted):,.0f} INRs/s, {steps:,.0f} Adam steps/s, to a mean PSNR of {fitted['mean_quality']:.1f} dB "
            f"({fitted['num_members']:,} INRs in {fitted['seconds']:.1f} s, {fitted['workers']} workers)"
        )
    for name, history in histories.items():
        seconds = sum(metrics.seconds for metrics in history)
        best = max(metrics.validation_accuracy for metrics in history)
        rows[f"train {name}"] = (
            f"{train_rate(history):,.0f} models/s ({len(history)} epochs in {seconds:.1f} s) "
            f"to {percent(best)} validation accuracy"
        )
    return rows


def fit_rate(fitted: dict[str, Any]) -> float:
    return fitted["num_members"] / fitted["seconds"]


def train_rate(history: list[EpochMetrics]) -> float:
    """Models/s over all epochs."""
    return sum(metrics.models_per_second * metrics.seconds for metrics in history) / sum(
        metrics.seconds for metrics in history
    )


def isolated(name: str) -> str:
    """A name whose direction of writing does not turn its neighbours'."""
    return f"\N{FIRST STRONG ISOLATE}{shown(name)}\N{POP DIRECTIONAL ISOLATE}"


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"
