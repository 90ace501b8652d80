"""Groups of workers that train at the same time, and stages that exceed their time limit."""

from pathlib import Path
from threading import Event
from types import SimpleNamespace

import psutil
import pytest

from cluster.address import num_groups
from cluster.session import ray_session
from flows import verbs
from flows.recipes import smoke
from flows.stages import learn
from flows.stages.session import time_limit
from pipeline.archive.write import pending_shards
from pipeline.config import ResourcesConfig
from pipeline.errors import InputError, TimeLimitError
from pipeline.training.launch import Job, launch_training
from pipeline.training.variants import variants
from tests.conftest import contents, metrics_of, wait_for, without_times
from tests.pipeline.worlds import without_ray


@pytest.mark.parametrize(
    ("wanted", "gpus", "found", "number"),
    [
        (1, 0, {"CPU": 64}, 1),
        (3, 0, {"CPU": 64}, 3),
        (20, 0, {"CPU": 67}, 16),
        (3, 0, {"CPU": 3}, 1),  # reported by the check for workers
        (3, 1, {"CPU": 64, "GPU": 8}, 2),
        (3, 0.5, {"CPU": 7, "GPU": 8}, 1),
        (3, 1, {"CPU": 64}, 1),
    ],
)
def test_there_are_no_more_groups_than_there_is_room_for(wanted, gpus, found, number):
    assert num_groups(wanted, 4, gpus, **found) == number


def beside_the_other(spec):
    """Run by workers; waits until those of the other group have started."""
    from pipeline.training.worker import train_worker

    run, both = Path(spec["jobs"][0]["run"]), Path(spec["zoo"]).parent
    (both / f"begun-{run.name}").touch()
    wait_for(lambda: len(list(both.glob("begun-*"))) == 2, 150)
    return train_worker(spec)


def test_models_that_train_at_the_same_time_become_what_they_become_one_after_the_other(
    zoo_copy, tmp_path, monkeypatch
):
    models, run = list(variants(smoke().training)), tmp_path / "run"
    monkeypatch.setattr("pipeline.training.launch.train_worker", beside_the_other)
    one, two = ResourcesConfig(workers=1), ResourcesConfig(workers=1, groups=2)
    with ray_session(2):
        assert learn.train(zoo_copy, run, smoke().training, two, models)
    with without_ray():
        learn.train(zoo_copy, tmp_path / "alone", smoke().training, one, models)
    for model in models:
        alone = metrics_of(tmp_path / "alone" / model.folder)
        assert without_times(metrics_of(run / model.folder)) == without_times(alone)
    assert not list(run.rglob(".ray.tmp"))


def fail():
    raise InputError("it is wrong")


@pytest.mark.parametrize(("in_group", "meanwhile"), [(fail, int), (int, fail)])
def test_a_group_that_fails_ends_the_others(in_group, meanwhile, tmp_path, monkeypatch):
    ended, returned = Event(), []

    def launch(zoo, jobs, resources):
        if jobs[0].run.name == "first":
            in_group()
        assert ended.wait(60)
        returned.append(jobs)
        return [None]

    monkeypatch.setattr("pipeline.training.launch.launch_workers", launch)
    monkeypatch.setattr("ray.shutdown", ended.set)
    groups = [
        [Job(name, tmp_path / name, smoke().training, {}, 256)] for name in ("first", "second")
    ]
    with pytest.raises(InputError, match="it is wrong"):
        launch_training(None, groups, ResourcesConfig(), meanwhile)
    assert groups[1] in returned  # and no thread continues


def test_a_fit_that_takes_too_long_ends_and_the_next_goes_on(built_zoo, tmp_path):
    settings = ("resources.stage_minutes=1e-4",)
    children = psutil.Process().children(recursive=True)
    with pytest.raises(TimeLimitError) as caught:
        verbs.build("smoke", str(tmp_path / "zoo"), settings)
    assert str(caught.value) == (
        f"fitting {tmp_path / 'zoo'} took longer than resources.stage_minutes (0.0001): "
        "run the same command again to continue, or raise the limit"
    )
    left = set(psutil.Process().children(recursive=True)) - set(children)
    assert not [child for child in left if "ray" in child.name()]
    assert pending_shards(tmp_path / "zoo")
    with without_ray():
        verbs.build("smoke", str(tmp_path / "zoo"))
    assert contents(tmp_path / "zoo") == contents(built_zoo)


def test_a_stage_has_any_number_of_minutes_by_default(monkeypatch):
    now = 1000.0
    monkeypatch.setattr("flows.stages.session.time", SimpleNamespace(monotonic=lambda: now))
    unlimited = time_limit(ResourcesConfig(), "a")
    limited = time_limit(ResourcesConfig(stage_minutes=9), "b")
    now += 60 * 9
    unlimited()
    limited()
    now += 1
    unlimited()
    with pytest.raises(
        TimeLimitError, match=r"^b took longer than resources\.stage_minutes \(9\): "
    ):
        limited()
