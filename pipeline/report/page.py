"""`report/index.html`: one self-contained page, readable offline and without a server."""

import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from pipeline.archive.files import read_json, write_atomic
from pipeline.archive.summary import in_words, summarize
from pipeline.archive.summary import shown as shown_name
from pipeline.archive.zoo import Zoo, column
from pipeline.config import Config, describe, fingerprint
from pipeline.errors import InputError
from pipeline.figures.picture import files_of
from pipeline.figures.reconstructions import draw_psnr, psnr_of
from pipeline.figures.zoo import picture_of
from pipeline.report.curves import draw_curves
from pipeline.report.markdown import data_uri
from pipeline.report.models import (
    Model,
    families,
    model_table,
    models_of,
    over_seeds,
    read_training,
)
from pipeline.report.sizes import draw_sizes
from pipeline.tasks import Evaluation, Figure
from pipeline.training.checkpoint import load_best
from pipeline.training.evaluate import predict, shown, titled
from pipeline.training.probe import Reading, probe_table
from pipeline.training.variants import sizes_in
from pipeline.zoos import KINDS


def write_report(run: Path, trusted: Collection[str] = ()):
    """Draw all figures into `run/report`, and write the page, which contains them, last.

    Each figure is kept beside the page as PNG and as SVG.

    Needs the run's zoo and metrics.json. Baselines and other seeds are included once they have been
    scored, and fitting speed if this run fitted the zoo and left fit.json. If a zoo cannot be
    drawn, the page gives the reason instead.
    """
    folder = run / "report"
    folder.mkdir(exist_ok=True)
    zoo, training, models = Zoo.open(run / "zoo", trusted), read_training(run), models_of(run)
    fitted = read_json(run / "fit.json") if (run / "fit.json").exists() else None
    first = models[0]
    histories = {group[0].title: group[0].history for group in families(models) if group[0].history}
    draw_curves(histories, folder / "curves")
    kind = KINDS.get(zoo.record.config.kind)
    members = kind.members if kind else "networks"
    template = Environment(
        loader=PackageLoader("pipeline.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    ).get_template("page.html")
    configuration: list[tuple[str, Config]] = [("zoo.", zoo.record.config), ("training.", training)]
    identity = {"zoo": zoo.record.config.identity(), "training": training.identity()}
    page = template.render(
        inlined=lambda file: data_uri(folder / file),
        title=f"{zoo.record.signals.name}: {len(zoo):,} {members}, read by a {first.title}",
        subtitle=f"{training.task.kind}; zoo {zoo.record.fingerprint}, run {fingerprint(identity)}",
        figures=headline(zoo, models, fitted),
        models=model_table(models),
        task_figures=task_figures(run, first, folder, trusted)
        + size_figures(run, zoo, folder)
        + probe_tables(run),
        zoo_pictures=zoo_pictures(zoo, folder),
        zoo={
            key: in_words(value, isolated) for key, value in summarize(zoo).items() if value != {}
        },
        throughput=throughput(zoo, models, fitted),
        configuration=[
            (name, json.dumps(value, default=str), meaning)
            for prefix, config in configuration
            for name, value, meaning in describe(config, prefix)
        ],
    )
    write_atomic(folder / "index.html", page.encode())


def task_figures(
    run: Path, model: Model, folder: Path, trusted: Collection[str]
) -> list[dict[str, Any]]:
    """The task's own pictures and tables, in the form the page takes."""
    trained, zoo = load_best(run, trusted), Zoo.open(run / "zoo", trusted)
    trained.task.attach(trained.model, zoo)
    table = predict(trained, zoo, "test")
    evaluation = Evaluation(zoo, trained.model, trained.prepared, table)
    drawn: list[dict[str, Any]] = []
    for part in trained.task.figures(model.metrics, evaluation):
        if isinstance(part, Figure):
            part.draw((folder / part.file).with_suffix(""))
            drawn.append({"text": part.text, "file": part.file, "table": None})
        elif part.rows:
            drawn.append({"text": part.text, "file": None, "table": part})
    return drawn


def size_figures(run: Path, zoo: Zoo, folder: Path) -> list[dict[str, Any]]:
    """The metrics by number of members, if the run was trained on several numbers."""
    whole = read_training(run).members or len(zoo.members("train"))
    models = {size: models_of(one) for size, one in sizes_in(run).items()} | {whole: models_of(run)}
    if len(models) < 2:
        return []
    metrics = {
        size: [(model.title, model.metrics) for model in some] for size, some in models.items()
    }
    draw_sizes(metrics, folder / "sizes")
    text = "Metrics on the test split by the number of members trained on."
    return [{"text": text, "file": "sizes.svg", "table": None}]


def probe_tables(run: Path) -> list[dict[str, Any]]:
    """The results of linear probes of, and transfers from, the run's encoder, if it was probed."""
    if not (run / "probe.json").exists():
        return []
    table = probe_table([Reading(**reading) for reading in read_json(run / "probe.json")])
    return [{"text": table.text, "file": None, "table": table}]


def zoo_pictures(zoo: Zoo, folder: Path) -> list[dict[str, str | None]]:
    """Pictures of the zoo with the text above each, or the reason why there is none."""
    drawn = [members_picture(zoo, folder)]
    if len(psnr_of(zoo)):
        draw_psnr(zoo, folder / "psnr")
        text = "How well members render their signals, on the grid they were fitted on."
        drawn.append({"file": "psnr.svg", "text": text, "alt": "Histogram of PSNR"})
    return drawn


def members_picture(zoo: Zoo, folder: Path) -> dict[str, str | None]:
    picture = picture_of(zoo)
    path = (folder / picture.file).with_suffix("")
    try:
        picture.draw(zoo, path)
    except InputError as error:
        for file in files_of(path):  # of an earlier report
            file.unlink(missing_ok=True)
        return {"file": None, "text": f"No picture: {error}.", "alt": None}
    return {"file": picture.file, "text": picture.reasoned, "alt": picture.text}


def headline(zoo: Zoo, models: Sequence[Model], fitted: dict[str, Any] | None) -> list[dict]:
    values, metric = {}, models[0].metrics["monitor"]
    for group in families(models):
        is_baseline = group[0].history and group[0].family != models[0].family
        budget = ", same budget" if is_baseline else ""
        name = f"{group[0].family}: {titled(metric)} on the test split{budget}"
        values[name] = over_seeds(metric, [model.metrics[metric] for model in group])
    if len(psnr := psnr_of(zoo)):
        values["median PSNR"] = f"{np.median(psnr):.1f} dB"
    values["models/s in training"] = f"{models[0].rate:,.0f}"
    if fitted:
        members = KINDS[zoo.record.config.kind].members
        values[f"{members}/s in fitting"] = fit_rate(fitted)
    return [{"meaning": meaning, "value": value} for meaning, value in values.items()]


def throughput(zoo: Zoo, models: Sequence[Model], fitted: dict[str, Any] | None) -> dict[str, str]:
    rows = {}
    if fitted:
        kind = KINDS[zoo.record.config.kind]
        steps = column(zoo.catalog, "steps").mean() * fitted["num_members"] / fitted["seconds"]
        rows["fit"] = (
            f"{fit_rate(fitted)} {kind.members}/s, {steps:,.0f} steps/s, mean "
            f"{kind.in_words(fitted['mean_quality'])} ({fitted['num_members']:,} {kind.members} in "
            f"{fitted['seconds']:.1f} s, {fitted['workers']} workers)"
        )
    for model in models:
        if model.history is None:
            continue
        metric, best = model.history.monitor.metric, model.history.best
        rows[f"train {model.title}"] = (
            f"{model.rate:,.0f} models/s ({len(model.history)} epochs in {model.seconds:.1f} s) "
            f"to {shown(metric, model.history.monitored(best))} validation {titled(metric)}"
        )
    return rows


def fit_rate(fitted: dict[str, Any]) -> str:
    """Members per second, with a decimal if there are few."""
    rate = fitted["num_members"] / fitted["seconds"]
    return f"{rate:,.{int(rate < 10)}f}"


def isolated(name: str) -> str:
    """A name whose writing direction does not affect the text around it."""
    return f"\N{FIRST STRONG ISOLATE}{shown_name(name)}\N{POP DIRECTIONAL ISOLATE}"
