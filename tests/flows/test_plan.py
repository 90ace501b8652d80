"""The output of `dwszoo plan`: remaining work, cost, finished work and missing resources."""

import json
import os
import shutil
from contextlib import contextmanager

import pytest

from cluster.address import require_resources
from flows.forecast import forecast, training
from flows.forecast.table import disk, time
from flows.forecast.zoos import PlannedZoo, small_zoo
from flows.recipes import smoke
from pipeline.archive.zoo import Zoo
from pipeline.config import ResourcesConfig
from pipeline.training.loader import Feed
from pipeline.zoos.build import plan_members

KEYS = {"out", "resources", "parts", "seconds", "bytes", "core_hours", "lacking"}


@pytest.fixture(autouse=True)
def measure_shortly(monkeypatch):
    monkeypatch.setattr(forecast, "FIT_BUDGET", 0.02)
    monkeypatch.setattr(training, "BUDGET", 0.02)


def planned(command, *arguments) -> dict:
    result = command("plan", "smoke", *arguments, "--json")
    assert result.code == 0, result.err
    return json.loads(result.out)


def test_a_recipe_is_planned_and_nothing_is_written(command, built_zoo, tmp_path):
    out = tmp_path / "run"
    found = planned(command, "--out", out)
    assert found.keys() == KEYS
    zoo, model, baseline = found["parts"]
    assert zoo["what"] == "400 INRs in 8 shards"
    assert model["what"] == "3 epochs of 8 steps of 32, 7,858 parameters"
    assert (model["title"], baseline["title"]) == ("dwsnet", "mlp")
    assert all(part["seconds"] > 0 and not part["there"] for part in found["parts"])
    assert zoo["seconds"] == pytest.approx(
        zoo["worker_seconds"] / min(2, len(os.sched_getaffinity(0)))
    )
    assert found["seconds"] == pytest.approx(
        forecast.AROUND + sum(part["seconds"] for part in found["parts"])
    )
    size = sum(file.stat().st_size for file in built_zoo.rglob("*") if file.is_file())
    assert zoo["bytes"] == pytest.approx(size, rel=0.3)
    assert not list(tmp_path.iterdir())


def test_models_that_differ_in_their_seed_are_one_line(command, tmp_path):
    settings = ("--set", "training.seeds=3", "--set", "training.baselines=[]")
    _, model = planned(command, *settings, "--out", tmp_path / "run")["parts"]
    assert model["what"] == "3 seeds of 3 epochs of 8 steps of 32, 7,858 parameters"


def test_what_is_there_is_not_done_again(command, zoo_copy, tmp_path):
    (zoo_copy / "statistics.json").unlink()
    lost = sorted(zoo_copy.glob("catalog/*.parquet"))[:2]
    for part in lost:
        part.unlink()
    zoo, *models = planned(command, "--out", tmp_path)["parts"]
    assert zoo["there"] == "6 of 8 shards"
    assert all(model["seconds"] > 0 for model in models)
    shutil.rmtree(tmp_path / "zoo")
    whole = planned(command, "--out", tmp_path)["parts"][0]
    assert zoo["bytes"] / whole["bytes"] == pytest.approx(80 / 400, rel=0.01)


def test_the_next_night_of_a_recipe_that_grows_is_planned(command, zoo_copy, tmp_path):
    night = tmp_path / "runs" / "0001"
    night.mkdir(parents=True)
    (night / "night.json").write_text("{}")
    grows = ("--set", "growth.views=1", "--set", "training.baselines=[]")
    zoo, model = planned(command, *grows, "--out", tmp_path)["parts"]
    assert (zoo["what"], zoo["there"]) == ("600 INRs in 13 shards", "8 of 13 shards")
    assert model["what"].startswith("3 epochs of 13 steps of 32")
    assert (model["there"], model["seconds"] > 0) == ("", True)


def test_another_zoo_in_the_folder_is_refused(command, zoo_copy, tmp_path):
    result = command("plan", "smoke", "--set", "zoo.fit.max_steps=50", "--out", tmp_path)
    assert result.code == 2
    assert "differs from this one" in result.err
    assert "fit.max_steps: was 60, is 50" in result.err


def test_what_is_lacking_is_said_below_the_table(command, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=10_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    result = command("plan", "smoke", "--set", "training.baselines=[]", "--out", tmp_path / "run")
    assert result.code == 1
    table, lacking = result.out.splitlines()[:-1], result.out.splitlines()[-1]
    assert [line.split()[0] for line in table] == ["what", "zoo", "dwsnet", "the", "total"]
    assert lacking.startswith(f"lacking: the disk of {tmp_path} has 0.0 GB free, expected at least")


def test_a_cluster_that_is_too_small_is_lacking_and_its_workers_are_counted(
    command, tmp_path, monkeypatch
):
    @contextmanager
    def small_cluster(num_workers, gpus_per_worker, fewest):
        require_resources("the cluster", fewest, gpus_per_worker, CPU=2)
        yield

    monkeypatch.setattr(forecast, "ray_session", small_cluster)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    settings = ("--set", "training.baselines=[]", "--workers")
    for workers, lacking in (
        ("1:8", []),
        ("8", ["the cluster has 2 CPUs, expected at least the 8"]),
    ):
        result = command("plan", "smoke", *settings, workers, "--json", "--out", tmp_path / "run")
        found = json.loads(result.out)
        assert result.code == len(lacking) == len(found["lacking"])
        assert all(map(str.startswith, found["lacking"], lacking))
        zoo, model = found["parts"]
        assert zoo["seconds"] == pytest.approx(zoo["worker_seconds"] / 8)
        assert model["seconds"] == pytest.approx(model["worker_seconds"] / 8)


@pytest.mark.parametrize(
    ("groups", "of_models", "seconds"),
    [(1, (4.0, 2.0, 2.0), 8.0), (2, (4.0, 2.0, 2.0), 4.0), (2, (5.0, 1.0), 5.0), (2, (), 0.0)],
)
def test_models_of_several_groups_train_at_the_same_time(
    tmp_path, monkeypatch, groups, of_models, seconds
):
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    parts = [forecast.Part("zoo", "", "", seconds=10.0)]
    parts += [forecast.Part("model", "", "", seconds=one) for one in of_models]
    found = forecast.Forecast(tmp_path, ResourcesConfig(groups=groups), tuple(parts), ())
    assert found.seconds == 10 + forecast.AROUND + seconds
    monkeypatch.delenv("RAY_ADDRESS")
    here = ResourcesConfig(groups=2, workers=10**6)
    assert forecast.Forecast(tmp_path, here, tuple(parts), ()).groups == 1


@pytest.mark.parametrize(
    ("group", "members", "passes", "batch_size"),
    [(1, None, 1, 32), (2, None, 3, 8), (1, 40, 5, 7), (2, 41, 1, 4)],
)
def test_steps_are_counted_as_training_takes_them(built_zoo, group, members, passes, batch_size):
    plan = plan_members(smoke().zoo)
    before, after = (
        Feed(zoo, "train", (), group, members, 3, passes).num_batches(batch_size)
        for zoo in (PlannedZoo(plan), Zoo.open(built_zoo))
    )
    assert before == after > 0


def test_a_small_zoo_is_of_the_same_networks(tmp_path):
    kind = plan_members(smoke().zoo.model_copy(update={"views": 1})).kind
    small = small_zoo(kind, tmp_path / "zoo", ())
    assert small.is_sealed
    assert small.space == kind.space
    assert len(small) == len(small.signals()) == 200
    assert set(small.catalog["steps"].to_pylist()) == {1}


@pytest.mark.parametrize(
    ("show", "value", "text"),
    [
        (time, 3.4, "3 s"),
        (time, 150, "150 s"),
        (time, 3000, "50 min"),
        (time, 9000, "2.5 h"),
        (time, 4e5, "5 d"),
        (time, 0, ""),
        (disk, 2_100_000, "2.1 MB"),
        (disk, 35e9, "35 GB"),
        (disk, 0, ""),
    ],
)
def test_times_and_sizes_are_short(show, value, text):
    assert show(value) == text
