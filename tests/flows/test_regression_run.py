"""Regression through the real command: accuracy of classifiers, fewer members, boosting."""

import json

import pyarrow.parquet as pq
import pytest

from flows.cli import main
from flows.overrides import resolve_recipe
from flows.recipes import mlps, sines_frequency, smoke
from flows.stages import build, learn
from pipeline.archive.zoo import Zoo
from pipeline.encoders import DWSNetConfig
from pipeline.encoders.message_passing import MessagePassingConfig
from pipeline.encoders.probing import ProbingConfig
from pipeline.errors import InputError
from pipeline.report.markdown import data_uri
from pipeline.tasks.regression import Regression
from pipeline.training.config import TrainingConfig
from pipeline.zoos.build import fit_shard
from tests.pipeline.worlds import without_ray

SMALL = {
    "zoo.signals.limit": 150,
    "zoo.num_runs": 40,
    "zoo.hyperparameters.epochs": [4],
    "zoo.checkpoints": [1],
    "training.encoder.channels": 4,
    "training.encoder.num_layers": 2,
    "training.epochs": 2,
    "training.batch_size": 16,
    "training.baselines": [],
    "training.sizes": [8],
}


def test_a_run_learns_accuracies_and_scores_boosting_beside_it(command, tmp_path):
    """Score and report in this process what the command trained, as `dwszoo run` does."""
    from flows.run import run_stages

    folder, table = tmp_path / "run", tmp_path / "predictions.parquet"
    settings = [f"{name}={json.dumps(value)}" for name, value in SMALL.items()]
    recipe = resolve_recipe("mlps", settings)
    plan = build.plan(recipe.zoo, folder / "zoo")
    for shard in plan.shards:
        fit_shard(recipe.zoo, folder / "zoo", plan.signals, shard)
    build.archive(folder / "zoo", fitted=True)
    chosen = [part for setting in settings for part in ("--set", setting)]
    train = ("train", "mlps", "--workers", "1", *chosen, "--zoo", folder / "zoo", "--out", folder)
    with without_ray():
        assert command(*train).code == 0
        run_stages(recipe, folder)
    assert "r2" in command("evaluate", folder).out
    for model in (folder, folder / "sizes" / "8"):
        metrics, boosted = (
            json.loads((model / f"{name}.json").read_text()) for name in ("metrics", "boosted")
        )
        assert {"r2", "mse", "mae", "tau", "tau_ceiling", "tied_predictions"} <= metrics.keys()
        assert metrics["trivial_mse"] == boosted["trivial_mse"]  # the same members
        assert boosted["num_members"] == metrics["num_members"]
        assert boosted["seconds"] > 0
    fewer = json.loads((folder / "sizes" / "8" / "config.json").read_text())["training"]
    assert (fewer["members"], fewer["batch_size"]) == (8, 8)
    whole, some = (
        json.loads(max(one.glob("checkpoints/*/model.json")).read_text())["prepared"]["targets"]
        for one in (folder, folder / "sizes" / "8")
    )
    assert whole["test_accuracy"] != some["test_accuracy"]
    boosted = json.loads((folder / "boosted.json").read_text())
    older = {name: value for name, value in boosted.items() if name != "train"}
    (folder / "boosted.json").write_text(json.dumps(older))
    assert main(["report", str(folder)]) == 0
    again = json.loads((folder / "boosted.json").read_text())
    assert again["train"] == boosted["train"]
    page = (folder / "report" / "index.html").read_text()
    assert "gradient boosting on statistics" in page
    for picture in ("predicted.svg", "sizes.svg"):
        assert data_uri(folder / "report" / picture) in page
        assert (folder / "report" / picture).stat().st_size > 1000
    result = command("predict", folder, "--zoo", folder / "zoo", "--out", table)
    assert result.code == 0, result.err
    predictions, catalog = pq.read_table(table), Zoo.open(folder / "zoo").catalog
    assert predictions["predicted test_accuracy"].null_count == 0
    truth = dict(zip(catalog["key"].to_pylist(), catalog["test_accuracy"].to_pylist(), strict=True))
    for row in predictions.to_pylist():
        assert row["true test_accuracy"] == pytest.approx(truth[row["key"]])


@pytest.mark.parametrize(
    ("recipe", "task", "message"),
    [
        (smoke, Regression(targets=("test_accuracy",)), "has no column 'test_accuracy'"),
        (sines_frequency, Regression(targets=("frequencey",)), "did you mean 'frequency'"),
        (mlps, Regression(inputs=("activations",)), "did you mean 'activation'"),
        (
            mlps,
            Regression(targets=("optimizer",)),
            "must hold numbers to be a target, found string",
        ),
    ],
)
def test_columns_that_a_zoo_will_not_have_are_refused_before_it_is_fitted(
    tmp_path, recipe, task, message
):
    build.plan(recipe().zoo, tmp_path / "zoo")
    zoo = Zoo.open(tmp_path / "zoo")
    with pytest.raises(InputError, match=message):
        learn.check_task(zoo, TrainingConfig(task=task))
    assert not zoo.shards


def test_more_members_than_there_are_to_train_on_are_refused_before_anything_is_fitted(tmp_path):
    build.plan(smoke().zoo, tmp_path / "zoo")
    with pytest.raises(InputError, match=r"at most the 282 members of the train split, got 283"):
        learn.check_task(Zoo.open(tmp_path / "zoo"), TrainingConfig(sizes=(10, 283)))
    with pytest.raises(InputError, match=r"batch_size must be at most the 282 members"):
        learn.check_task(Zoo.open(tmp_path / "zoo"), TrainingConfig(batch_size=283))


def test_networks_are_only_run_as_they_compute(tmp_path):
    build.plan(mlps().zoo, tmp_path / "zoo")
    zoo = Zoo.open(tmp_path / "zoo")
    with pytest.raises(InputError, match=r"expected each member's own, got sine of omega 30: set"):
        learn.check_task(zoo, mlps().training.model_copy(update={"encoder": ProbingConfig()}))


@pytest.mark.parametrize(
    ("encoder", "field"),
    [(DWSNetConfig, "canonical_signs"), (MessagePassingConfig, "signs")],
)
def test_signs_that_matter_are_not_left_out(tmp_path, encoder, field):
    recipe = mlps()
    build.plan(recipe.zoo, tmp_path / "zoo")
    changes = {"encoder": encoder(**{field: True})}
    training = recipe.training.model_copy(update=changes)
    message = rf"{field} needs networks of odd activations, .* relu.*: set it to false"
    with pytest.raises(InputError, match=message):
        learn.check_task(Zoo.open(tmp_path / "zoo"), training)
