"""`report/index.html`: one page with its pictures beside it, readable without a server and without network."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from pipeline.archive.files import read_json, write_atomic
from pipeline.archive.summary import in_words, summarize
from pipeline.archive.zoo import Zoo, column
from pipeline.config import Recipe, describe
from pipeline.report import pictures
from pipeline.signals import load_signals
from pipeline.training.checkpoint import EpochMetrics, read_history

NAMES = {"dwsnet": "DWSNet", "baseline": "flat MLP"}


def write_report(run: Path, recipe: Recipe):
    """Draw everything into `run/report` and write the page last.

    Needs the run's zoo and both trained models' metrics.json (`run` and `run/baseline`). How fast the zoo was fitted is
    told where this run fitted it and left fit.json.
    """
    folder = run / "report"
    folder.mkdir(exist_ok=True)
    zoo = Zoo.open(run / "zoo")
    folders = {"dwsnet": run, "baseline": run / "baseline"}
    metrics = {name: read_json(path / "metrics.json") for name, path in folders.items()}
    histories = {name: read_history(path) for name, path in folders.items()}
    fitted = read_json(run / "fit.json") if (run / "fit.json").exists() else None
    pictures.draw_reconstructions(
        zoo, folder / "reconstructions.png", load_signals(recipe.zoo.signals)
    )
    pictures.draw_psnr(zoo, folder / "psnr.svg")
    named = {NAMES[name]: history for name, history in histories.items()}
    pictures.draw_curves(named, len(zoo.record.signals.class_names), folder / "curves.svg")
    pictures.draw_confusion(
        metrics["dwsnet"]["confusion"], metrics["dwsnet"]["class_names"], folder / "confusion.svg"
    )
    template = Environment(
        loader=PackageLoader("pipeline.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    ).get_template("page.html")
    page = template.render(
        title=f"{zoo.record.signals.name}: {len(zoo):,} INRs and a DWSNet that reads them",
        subtitle=f"zoo {zoo.record.fingerprint}, run {recipe.fingerprint()}",
        figures=headline(zoo, metrics, histories, fitted),
        models=model_table(metrics, histories),
        zoo={key: in_words(value) for key, value in summarize(zoo).items()},
        throughput=throughput(zoo, histories, fitted),
        configuration=[
            (name, json.dumps(value, default=str), meaning)
            for name, value, meaning in describe(recipe)
        ],
    )
    write_atomic(folder / "index.html", page.encode())


def headline(
    zoo: Zoo,
    metrics: dict[str, Any],
    histories: dict[str, list[EpochMetrics]],
    fitted: dict[str, Any] | None,
) -> list[dict]:
    psnr = zoo.catalog["psnr"].drop_null().to_numpy()
    values = {
        "DWSNet test accuracy, each INR by itself": percent(metrics["dwsnet"]["accuracy"]),
        "flat MLP test accuracy, same budget": percent(metrics["baseline"]["accuracy"]),
        "median PSNR": f"{np.median(psnr):.1f} dB",
        "models/s in training": f"{train_rate(histories['dwsnet']):,.0f}",
    }
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
        "test, each INR",
        "test, mean over views",
    ]
    rows = [
        [
            NAMES[name],
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
        rows[f"train {NAMES[name]}"] = (
            f"{train_rate(history):,.0f} models/s ({len(history)} epochs in {seconds:.1f} s) "
            f"to {percent(best)} validation accuracy"
        )
    return rows


def fit_rate(fitted: dict[str, Any] | None) -> float:
    return fitted["num_members"] / fitted["seconds"]


def train_rate(history: list[EpochMetrics]) -> float:
    """Models/s over all epochs."""
    return sum(metrics.models_per_second * metrics.seconds for metrics in history) / sum(
        metrics.seconds for metrics in history
    )


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"
