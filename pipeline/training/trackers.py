"""Sends training metrics to TensorBoard, Weights & Biases or MLflow, with their own libraries."""

import hashlib
import os
import time
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

from pipeline.errors import InputError

TrackerKind = Literal["tensorboard", "wandb", "mlflow"]
PROJECT = "dwszoo"
"""The project of W&B and the experiment of MLflow, unless their environment variables set it."""
TAG = "dwszoo.run"


class Tracker(Protocol):
    package: ClassVar[str]
    """Name of the package that it needs."""

    def __init__(self, run: Path, step: int):
        """Open the tracker for a run folder, of which `step` steps are done."""

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        """Log numbers by name, after `step` steps since training began."""

    def close(self) -> None:
        """Send what has not been sent yet."""


class TensorBoard:
    """Writes event files to `RUN/tensorboard`."""

    package: ClassVar[str] = "tensorboardX"

    def __init__(self, run: Path, step: int):
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        folder = run / "tensorboard"
        folder.mkdir(exist_ok=True)
        self.writer = EventsWriter(str(folder / "events"), f".{step}")
        begins = SessionLog(status=SessionLog.START)  # discards what was logged for later steps
        self.writer.write_event(Event(wall_time=time.time(), step=step + 1, session_log=begins))

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        """Flushed at once, since a checkpoint may follow from which training resumes."""
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.proto.summary_pb2 import Summary

        values = [Summary.Value(tag=name, simple_value=value) for name, value in numbers.items()]
        event = Event(wall_time=time.time(), step=step, summary=Summary(value=values))
        self.writer.write_event(event)
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()


class WeightsAndBiases:
    """A W&B run with the name of the folder; the same folder continues it."""

    package: ClassVar[str] = "wandb"

    def __init__(self, run: Path, step: int):
        import wandb

        project = os.environ.get("WANDB_PROJECT", PROJECT)
        self.run = wandb.init(
            dir=run, project=project, name=run.name, id=identifier(run), resume="allow"
        )

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        self.run.log(dict(numbers), step=step)

    def close(self) -> None:
        self.run.finish()


class MLflow:
    """An MLflow run with the name of the folder; the same folder continues it."""

    package: ClassVar[str] = "mlflow"

    def __init__(self, run: Path, step: int):
        from mlflow import MlflowClient

        self.client = MlflowClient()
        name, own = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT), identifier(run)
        experiment = self.client.get_experiment_by_name(name)
        place = experiment.experiment_id if experiment else self.client.create_experiment(name)
        known = self.client.search_runs([place], f"tags.`{TAG}` = '{own}'")
        made = known[0] if known else self.client.create_run(place, None, {TAG: own}, run.name)
        self.run_id = made.info.run_id
        self.client.update_run(self.run_id, status="RUNNING")

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        for name, value in numbers.items():
            self.client.log_metric(self.run_id, name, value, step=step)

    def close(self) -> None:
        self.client.set_terminated(self.run_id)


TRACKERS: dict[TrackerKind, type[Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
    "mlflow": MLflow,
}


class Trackers:
    """All trackers of a run as one."""

    def __init__(self, kinds: Sequence[TrackerKind], run: Path, step: int):
        self.trackers = [TRACKERS[kind](run, step) for kind in kinds]

    def log(self, numbers: Mapping[str, Any], step: int) -> None:
        known = {name: float(value) for name, value in numbers.items() if value is not None}
        for tracker in self.trackers:
            tracker.log(known, step)

    def close(self) -> None:
        for tracker in self.trackers:
            tracker.close()


def identifier(run: Path) -> str:
    """An identifier that is stable for a run, and unique to its folder and configuration."""
    content = str(run.resolve()).encode() + (run / "config.json").read_bytes()
    return hashlib.sha256(content).hexdigest()[:16]


def require_installed(kinds: Sequence[TrackerKind]):
    """Raises InputError if the library of a tracker is not installed."""
    for kind in kinds:
        if find_spec(package := TRACKERS[kind].package) is None:
            raise InputError(
                f"training.trackers {kind} needs the package {package}, which is not installed: "
                "`pip install 'dwszoo[trackers]'` installs everything that trackers need"
            )
