"""Scores, probes and the report of a run."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from flows.tracker import stage, tracker
from pipeline.archive.files import read_json, write_json
from pipeline.archive.new_folder import new_folder
from pipeline.archive.zoo import Zoo
from pipeline.errors import InputError
from pipeline.location import Location
from pipeline.report.models import read_training
from pipeline.training import evaluate as evaluation
from pipeline.training import probe as probing
from pipeline.training.boosting import FILE, boosted_metrics
from pipeline.training.checkpoint import is_exported, load_best, num_epochs, read_best
from pipeline.training.loader import Feed
from pipeline.training.transfer import TRANSFERS
from pipeline.training.variants import all_folders_in, seeds_in, sizes_in


@stage
def evaluate(run: Path, split: str, trusted: Collection[str] = ()) -> dict[str, Any]:
    """Score the best checkpoint of a run on a split of its zoo.

    Writes metrics.json, or metrics-SPLIT.json for splits other than test.
    """
    trained, training = load_best(run, trusted), read_training(run)
    metrics, _ = evaluation.evaluate(
        trained, Zoo.open(run / "zoo", trusted), split, training.members, training.seed
    )
    name = "metrics.json" if split == "test" else f"metrics-{split}.json"
    evaluation.write_metrics(run / name, metrics)
    return metrics


def scored(run: Path, trusted: Collection[str] = ()) -> dict[str, Any]:
    """The best checkpoint's scores on the test split, recomputed if metrics.json is outdated."""
    file, of_epochs = run / "metrics.json", run.glob("metrics.jsonl")
    metrics = evaluation.read_metrics(file) if is_newer(file, *of_epochs) else {}
    return metrics if is_whole(metrics) else evaluate(run, "test", trusted)


def is_whole(metrics: Mapping[str, Any]) -> bool:
    """Whether metrics are for the test split, with the train score that older versions lack."""
    return metrics.get("split") == "test" and "train" in metrics


def boost(run: Path, trusted: Collection[str] = ()):
    """Score gradient boosting on a run's training members, once, into boosted.json, if the task has
    such a baseline."""
    file = run / FILE
    known = evaluation.read_metrics(file) if file.exists() else {}
    if num_epochs(run) and not is_whole(known):
        trained, training = load_best(run, trusted), read_training(run)
        zoo = Zoo.open(run / "zoo", trusted)
        metrics = boosted_metrics(trained, zoo, training.members, training.seed)
        if metrics is not None:
            evaluation.write_metrics(file, metrics)


@stage
def probe(
    run: Path,
    zoo: Location | None = None,
    targets: Sequence[str] = (),
    trusted: Collection[str] = (),
) -> list[probing.Reading]:
    """Fit linear probes to the encoder of a run's best checkpoint, by default for the classes and
    facts of the signals.

    On the run's own zoo, the readings include its transfers and are written to probe.json, for the
    report.
    """
    opened = Zoo.open(zoo or run / "zoo", trusted)
    seed = read_json(run / "config.json")["training"]["seed"]
    readings = probing.probe(load_best(run, trusted), opened, targets, seed)
    if zoo is None:
        num_members = Feed(opened, "train", ()).num_members
        readings += [
            transfer.reading(read_json(file), num_members)
            for transfer in TRANSFERS
            if (file := run / transfer.folder / "metrics.json").exists()
        ]
        write_json(run / "probe.json", [asdict(reading) for reading in readings])
    return readings


@stage
def report(run: Path, trusted: Collection[str] = ()) -> Path:
    """Score the models of a run, if needed, and draw the report; returns the page."""
    from pipeline.report.page import write_report  # imports Matplotlib

    for folder in all_folders_in(run):
        if folder == run or num_epochs(folder):
            scored(folder, trusted)
    for size in (run, *sizes_in(run).values()):
        for folder in seeds_in(size):
            boost(folder, trusted)
    write_report(run, trusted)
    tracker.get().results(run)
    return run / "report" / "index.html"


@stage
def export(run: Path, out: Path, trusted: Collection[str] = ()):
    """Write the best model of a trained run as a Hugging Face model folder, with its scores.

    Raises InputError if the run is not fully trained, or `out` is not a new or empty folder.
    """
    from pipeline.report.model_folder import write_model_folder  # imports Matplotlib

    best, found, planned = read_best(run), num_epochs(run), read_training(run).epochs
    if found < planned:
        raise InputError(
            f"{run} must be fully trained to be exported: expected {planned} epochs, found "
            f"{found}; run its command again to continue"
        )
    with new_folder(out) as folder:
        scored(run, trusted)
        write_model_folder(run, best, load_best(run, trusted), Zoo.open(run / "zoo"), folder)


def require_run(folder: Path):
    """Raises InputError if `folder` is not a run."""
    if is_exported(folder) or not (folder / "config.json").is_file():
        found = "an exported model" if is_exported(folder) else "none"
        raise InputError(
            f"{folder} is not a run: expected a folder with the config.json of a run, found "
            f"{found}; `dwszoo train` or `dwszoo run` makes one"
        )


def require_model(folder: Path):
    """Raises InputError if `folder` is neither a run nor an exported model."""
    if not is_exported(folder):
        require_run(folder)


def is_newer(output: Path, *inputs: Path) -> bool:
    """Whether an output exists and is no older than its inputs, as in make."""
    return output.exists() and all(
        output.stat().st_mtime_ns >= path.stat().st_mtime_ns for path in inputs
    )
