"""Nightly runs: the zoo grows, training continues, and a large fall of the metric fails."""

import json
import shutil
from pathlib import Path

import pytest

from flows import nightly
from flows.overrides import override
from flows.recipes import mlps, smoke
from flows.run import run
from pipeline.archive.growing import PLAN
from pipeline.archive.write import seal_zoo
from pipeline.archive.zoo import Zoo
from pipeline.errors import InputError, WorkError
from pipeline.training.checkpoint import read_best
from pipeline.training.evaluate import read_metrics, write_metrics
from tests.pipeline.test_growth import fit
from tests.pipeline.worlds import without_ray

GROWS = ("growth.views=1", "growth.max_fall=0.02", "training.baselines=[]", "training.epochs=1")
RECIPE = override(smoke(), GROWS)


@pytest.fixture
def out(smoke_run, tmp_path) -> Path:
    """A folder with one finished night, the run of the smoke recipe."""
    folder = tmp_path / "out"
    shutil.copytree(
        smoke_run.folder, folder / "runs" / "0001", ignore=shutil.ignore_patterns("zoo")
    )
    shutil.copytree(smoke_run.folder / "zoo", folder / "zoo")
    (folder / "runs" / "0001" / "zoo").symlink_to("../../zoo")
    (folder / "runs" / "0001" / "night.json").write_text("{}")
    return folder


def begin(recipe, out: Path) -> nightly.Night:
    """Begin a night, which is the one that was to come."""
    before = {file.name: file.read_bytes() for file in (out / "zoo").glob("*.json")}
    plan, folder = nightly.upcoming(recipe, out)
    assert before == {file.name: file.read_bytes() for file in (out / "zoo").glob("*.json")}
    night = nightly.begin(recipe, out)
    assert (folder, plan.record) == (night.folder, night.planned.record)
    return night


def test_the_first_night_builds_and_the_next_ones_grow(tmp_path, out):
    first = begin(RECIPE, tmp_path / "new")
    assert (first.folder, first.last) == (tmp_path / "new" / "runs" / "0001", None)
    assert first.recipe.training.start is None
    assert not first.planned.record.grown
    assert begin(RECIPE, tmp_path / "new").folder == first.folder
    night = begin(RECIPE, out)
    assert (night.folder.name, night.last) == ("0002", out / "runs" / "0001")
    assert night.recipe.training.start.checkpoint == night.last
    assert night.planned.record.config.views == 3
    assert (night.folder / "zoo").resolve() == out / "zoo"


def test_a_night_that_is_not_over_goes_on_whatever_has_come(out):
    night = begin(RECIPE, out)
    again = begin(override(RECIPE, ["growth.views=2"]), out)  # killed while it grows
    assert (again.folder, again.planned.record) == (night.folder, night.planned.record)
    fit(night.planned, out / "zoo")
    seal_zoo(out / "zoo")
    content = json.dumps({"zoo": night.planned.record.zoo_identity()})
    (night.folder / "config.json").write_text(content)
    trains = begin(RECIPE, out)  # killed while it trains
    assert (trains.folder, trains.planned.record) == (night.folder, night.planned.record)
    assert not (out / "zoo" / PLAN).exists()
    (night.folder / "night.json").write_text("{}")
    assert begin(RECIPE, out).folder.name == "0003"


def test_where_nothing_is_new_the_last_night_is_looked_at_again(out, capsys):
    still = override(RECIPE, ["growth.views=0"])
    assert begin(still, out).folder == out / "runs" / "0001"
    assert f"nothing is new since {out / 'runs' / '0001'}" in capsys.readouterr().err


def ended(out: Path, recipe, before: float, now: float) -> nightly.Night:
    night = nightly.begin(recipe, out)
    metrics = read_metrics(night.last / "metrics.json")
    write_metrics(night.last / "metrics.json", metrics | {"accuracy": before})
    nightly.finish(night, {"accuracy": now})
    return night


@pytest.mark.parametrize("now", [0.77, float("nan")])
def test_a_metric_that_fell_too_far_fails_the_run_once(out, now):
    with pytest.raises(
        WorkError, match=r"accuracy must be at most 0\.02 worse than the night before, 80\.0 % in"
    ):
        ended(out, RECIPE, before=0.8, now=now)
    (night,) = (folder for folder in nightly.runs_in(out) if folder.name == "0002")
    assert json.loads((night / "night.json").read_text())["before"] == 0.8
    nightly.finish(nightly.Night(night, None, RECIPE, None), {"accuracy": now})


@pytest.mark.parametrize(("before", "now"), [(0.8, 0.781), (0.8, 0.95)])
def test_a_metric_may_fall_a_little_and_rise(out, before, now):
    night = ended(out, RECIPE, before, now)
    assert json.loads((night.folder / "night.json").read_text())["now"] == now


def test_of_a_loss_less_is_better(out):
    recipe = override(RECIPE, ["training.task.kind=editing"])
    night = nightly.begin(recipe, out)
    metric = nightly.monitor_of(recipe).metric
    assert not nightly.monitor_of(recipe).more_is_better
    write_metrics(night.last / "metrics.json", {metric: 1.0})
    with pytest.raises(WorkError, match="worse than the night before"):
        nightly.finish(night, {metric: 1.1})


def test_another_recipe_and_zoos_that_do_not_grow_are_refused(out):
    nightly.begin(RECIPE, out)
    with pytest.raises(
        InputError, match=r"another zoo than the recipe's, which differs in seed: was 0, is 1"
    ):
        nightly.begin(override(RECIPE, ["zoo.seed=1"]), out)
    with pytest.raises(InputError, match=r"growth takes a zoo of INRs, got zoo\.kind classifiers"):
        nightly.begin(override(mlps(), ["growth.views=1"]), out)


def test_a_night_grows_trains_on_and_fails_where_the_metric_fell(out):
    first, night = out / "runs" / "0001", out / "runs" / "0002"
    write_metrics(first / "metrics.json", read_metrics(first / "metrics.json") | {"accuracy": 1.0})
    fell = rf"100\.0 % in {first}, found .*: look at {night}/report"
    with without_ray(), pytest.raises(WorkError, match=fell):
        run("smoke", out, GROWS)
    assert (night / "report" / "index.html").exists()
    zoo = Zoo.open(night / "zoo")
    assert (zoo.folder.resolve(), len(zoo)) == (out / "zoo", 600)
    config = json.loads((night / "config.json").read_text())
    assert config["training"]["start"]["sha256"] == read_best(first).card["sha256"]
    assert config["zoo"]["grown from"] == zoo.record.grown[0].fingerprint
    with without_ray():
        again = run("smoke", out, (*GROWS, "growth.views=0"))
    assert again["run"] == night
