"""The table of a report: one line per family, with mean and spread over several seeds."""

import json
from math import inf, isnan, nan

import pytest

from pipeline.report.models import Model, families, model_table, over_seeds
from pipeline.report.sizes import draw_sizes
from pipeline.tasks import Monitor
from pipeline.training.evaluate import read_metrics, write_metrics
from pipeline.training.history import EpochMetrics, History

pytestmark = pytest.mark.fast


def model(family: str, accuracy: float, seed: int | None = None, boosted: bool = False) -> Model:
    metrics = {
        "monitor": "accuracy",
        "epoch": 1,
        "num_parameters": 1234,
        "loss": 0.5,
        "accuracy": accuracy,
        "train": {"members": 10, "value": accuracy + 0.05},
        "validation": 0.7,
        "seconds": 2.0,
    }
    line = EpochMetrics(1, 1.0, {"accuracy": accuracy - 0.1, "loss": 1.0}, 0.1, 4.0, 100.0)
    return Model(family, metrics, None if boosted else History(Monitor("accuracy"), (line,)), seed)


def test_a_family_is_a_row_with_the_mean_and_the_spread_of_its_seeds():
    models = [model("DWSNet", 0.8), model("DWSNet", 0.9, 1), model("flat MLP", 0.3)]
    table = model_table(models)
    assert [group[0].title for group in families(models)] == ["DWSNet", "flat MLP"]
    assert models[1].title == "DWSNet, seed 1"
    first, second = (dict(zip(table["columns"], row, strict=True)) for row in table["rows"])
    assert first["model"] == "DWSNet, 2 seeds"
    assert first["test accuracy"] == "85.0 % ± 7.1 %"
    assert first["train accuracy"] == "90.0 % ± 7.1 %"
    assert first["validation accuracy"] == "75.0 % ± 7.1 %"
    assert first["best epoch"] == "1, 1"
    assert second["model"] == "flat MLP"
    assert second["test accuracy"] == "30.0 %"
    assert second["parameters"] == "1,234"


def test_a_metric_without_a_trivial_answer_is_drawn_by_the_number_of_members(tmp_path):
    metrics = {"monitor": "error", "error": 0.5, "loss": 0.1, "other": 0.2}
    draw_sizes({10: [("mine", metrics)], 20: [("mine", metrics)]}, tmp_path / "a.svg")
    drawn = (tmp_path / "a.svg").read_text()
    assert "test error" in drawn
    assert "test other" not in drawn
    assert "trivial answer" not in drawn


def test_what_has_no_epochs_has_no_parameters_either():
    row = model_table([model("DWSNet", 0.8), model("boosting", 0.6, boosted=True)])["rows"][1]
    assert row[:5] == ["boosting", "", "", "", "2"]


def test_metrics_that_are_not_finite_come_back_from_disk(tmp_path):
    metrics = {
        "monitor": "a",
        "a": nan,
        "b": inf,
        "c": 0.5,
        "names": ["NaN"],
        "train": {"value": nan},
    }
    write_metrics(tmp_path / "metrics.json", metrics)
    text = (tmp_path / "metrics.json").read_text()
    assert json.loads(text, parse_constant=pytest.fail)["a"] is None
    again = read_metrics(tmp_path / "metrics.json")
    assert isnan(again.pop("a"))
    assert isnan(again.pop("train")["value"])
    assert again == {"monitor": "a", "b": inf, "c": 0.5, "names": ["NaN"]}


@pytest.mark.parametrize(
    ("metric", "values", "text"),
    [
        ("accuracy", [0.5], "50.0 %"),
        ("r2", [0.5, 0.7], "0.6 ± 0.1414"),
        ("target_accuracy", [nan], "undefined"),
    ],
)
def test_metrics_are_read_as_people_read_them(metric, values, text):
    assert over_seeds(metric, values) == text
