"""Trackers: their own files return what was logged, and a resumed run stays one run."""

import math
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.recipes import smoke
from flows.stages.learn import claim_job
from pipeline.config import ResourcesConfig
from pipeline.errors import InputError
from pipeline.training.trackers import TRACKERS, TensorBoard, Trackers


@pytest.fixture
def run(tmp_path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    return folder


def log_twice(kind: str, run: Path):
    """A run that is interrupted after step 2 and resumes from its newest checkpoint, of step 1."""
    trackers = Trackers((kind,), run, 0)
    trackers.log({"loss": 3.0, "norm": None}, 1)
    trackers.log({"loss": 2.5, "rate": math.nan}, 2)
    trackers.close()
    trackers = Trackers((kind,), run, 1)
    trackers.log({"loss": 2.0}, 2)
    trackers.log({"loss": 1.0}, 3)
    trackers.close()


def events(folder: Path) -> Iterator:
    """The events in the files of a folder, in the order in which they were written."""
    from tensorboardX.proto.event_pb2 import Event

    for file in sorted(folder.iterdir(), key=lambda file: file.stat().st_mtime_ns):
        data, start = file.read_bytes(), 0
        while start < len(data):
            (length,) = struct.unpack_from("<Q", data, start)
            event = Event()
            event.ParseFromString(data[start + 12 : start + 12 + length])
            yield event
            start += length + 16  # with two checksums


def test_tensorboard_shows_the_steps_that_were_repeated_once(run):
    log_twice("tensorboard", run)
    shown: dict[int, float] = {}
    for event in events(run / "tensorboard"):
        if event.session_log.status == event.session_log.START:
            shown = {step: value for step, value in shown.items() if step < event.step}
        for value in event.summary.value:
            if value.tag == "loss":
                shown[event.step] = value.simple_value
    assert shown == {1: 3.0, 2: 2.0, 3: 1.0}


def test_mlflow_goes_on_with_the_run_of_the_folder(run, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{run.parent}/mlflow.db")
    log_twice("mlflow", run)
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("dwszoo").experiment_id
    (found,) = client.search_runs([experiment])
    assert found.info.run_name == "run"
    assert found.info.status == "FINISHED"
    history = client.get_metric_history(found.info.run_id, "loss")
    assert {(point.step, point.value) for point in history} >= {(1, 3.0), (2, 2.0), (3, 1.0)}


def test_wandb_writes_into_the_folder_where_there_is_no_network(run, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    log_twice("wandb", run)
    files = [*run.glob("wandb/offline-run-*/*.wandb")]
    assert files
    assert len({file.name for file in files}) == 1  # of one run


def test_a_library_that_is_not_there_is_asked_for_before_anything_is_trained(
    zoo, tmp_path, monkeypatch
):
    monkeypatch.setattr(TensorBoard, "package", "tensorboard_of_nobody")
    training = smoke().training.model_copy(update={"trackers": ("tensorboard",)})
    message = r"trackers tensorboard needs the package tensorboard_of_nobody, .*pip install"
    with pytest.raises(InputError, match=message):
        claim_job(zoo, tmp_path, Path(), training, ResourcesConfig(), "dwsnet")
    assert not list(tmp_path.iterdir())


def test_every_kind_names_the_package_that_it_imports():
    assert {kind: tracker.package for kind, tracker in TRACKERS.items()} == {
        "tensorboard": "tensorboardX",
        "wandb": "wandb",
        "mlflow": "mlflow",
    }
