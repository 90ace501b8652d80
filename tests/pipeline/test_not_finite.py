"""NaN and infinity become an error, a null or an infinity, but never an unreadable file."""

import json
import math
import re
import resource
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dwsnet.normalize import Standardize
from flows.overrides import override
from flows.recipes import mlps, smoke
from flows.stages import assess, learn
from pipeline.archive.files import json_text
from pipeline.archive.statistics import compute_statistics
from pipeline.archive.summary import quantiles, summarize
from pipeline.archive.write import seal_zoo
from pipeline.archive.zoo import column
from pipeline.config import FitConfig, ResourcesConfig, SignalsConfig, describe
from pipeline.errors import InputError, WorkError
from pipeline.exchange.exporting import export_zoo
from pipeline.exchange.formats import FORMATS
from pipeline.figures.reconstructions import picture
from pipeline.tasks import Monitor
from pipeline.tasks.classification import Classification
from pipeline.training.checkpoint import TrainedModel, load_best
from pipeline.training.config import TrainingConfig
from pipeline.training.evaluate import evaluate, write_predictions
from pipeline.training.history import are_finite
from pipeline.zoos.build import fit_shard, plan_zoo
from tests.pipeline.foreign import bring_in, ray_run
from tests.pipeline.worlds import without_ray


def only_json(text: str):
    def refuse(word: str):
        raise ValueError(f"{word} is no JSON")

    return json.loads(text, parse_constant=refuse)


FLOATS = [
    (recipe, name)
    for recipe in (smoke, mlps)
    for name, value, _ in describe(recipe())
    if isinstance(value, float) or str(value).startswith("loguniform")
]


@pytest.mark.parametrize("value", ["Infinity", "-Infinity", "NaN", "1e400", "1e300"])
@pytest.mark.parametrize(("recipe", "name"), FLOATS)
def test_no_number_of_a_configuration_is_beyond_what_networks_compute_with(recipe, name, value):
    assert len(FLOATS) > 15
    with pytest.raises(InputError, match=name):
        override(recipe(), [f"{name}={value}"])


@given(
    st.recursive(
        st.floats() | st.text() | st.sampled_from(["NaN", '"Infinity', "\\", 'a\\"NaN', None]),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_json_for_others_is_json_and_keeps_all_but_nan(value):
    def expected(value):
        if isinstance(value, dict):
            return {key: expected(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [*map(expected, value)]
        return None if isinstance(value, float) and math.isnan(value) else value

    assert only_json(json_text(value)) == expected(value)


def test_training_that_diverges_says_so_and_keeps_what_is_good(built_zoo, tmp_path):
    """Each step multiplies weights by the decay's factor, up to -29, until gradients overflow."""
    settings = ["training.weight_decay=3000", "training.epochs=6"]
    training, run = override(smoke(), settings).training, tmp_path / "run"
    resources = ResourcesConfig(workers=1)
    with without_ray(), pytest.raises(WorkError) as caught:
        learn.train(built_zoo, run, training, resources)
    how = "the loss is no longer finite|10 steps in a row had no finite loss or gradient"
    assert re.search(f"diverged: in epoch [23] ({how}); ", str(caught.value))
    assert "evaluate` and `predict` use its best checkpoint, epoch 1" in str(caught.value)
    assert (run / "checkpoints" / "epoch-0001").is_dir()
    for number, line in enumerate((run / "metrics.jsonl").read_text().splitlines(), start=1):
        assert only_json(line)["epoch"] == number
    metrics = assess.evaluate(run, "test")
    assert (metrics["epoch"], metrics["num_members"]) == (1, 80)
    assert load_best(run).epoch == 1


def test_only_the_loss_and_the_monitored_metric_must_be_finite():
    monitor, undefined = Monitor("tau"), {"tau": 0.5, "other": math.nan}
    assert are_finite(1.0, undefined, monitor)
    assert not are_finite(math.nan, undefined, monitor)
    assert not are_finite(1.0, undefined | {"loss": math.inf}, monitor)
    assert not are_finite(1.0, undefined | {"tau": math.nan}, monitor)


class Constant(torch.nn.Module):
    """Predicts class 3, and NaN for the members `too_large`, by position in the split."""

    def __init__(self, class_names: list[str], too_large: slice):
        super().__init__()
        self.class_names, self.majority, self.too_large = tuple(class_names), 0, too_large

    def forward(self, state):
        logits = torch.zeros(len(state["layers.0.bias"]), 10)
        logits[:, 3] = 1
        logits[self.too_large] = torch.nan
        return logits


def trained(zoo, too_large: slice, epoch: int) -> TrainedModel:
    task = Classification()
    prepared = task.prepare(zoo)
    model = Constant(prepared["class_names"], too_large)
    config = TrainingConfig(task=task)
    return TrainedModel(model, model, config, task, zoo.space, prepared, epoch)


def test_members_that_a_model_gives_no_number_for_are_wrong_and_have_no_prediction(zoo, tmp_path):
    some = trained(zoo, slice(0, 1), 1)
    (metrics, _), labels = evaluate(some, zoo, "test"), column(zoo.members("test"), "label")
    firsts = np.arange(len(labels)) % 32 == 0  # of each block, shards of 64 in blocks of 32
    firsts[64:] = np.arange(16) == 0
    assert metrics["accuracy"] == ((labels == 3) & ~firsts).mean()
    assert np.sum(metrics["confusion"]) == (~firsts).sum()
    write_predictions(some, zoo, tmp_path / "p.parquet")
    table = pq.read_table(tmp_path / "p.parquet")
    test = table.filter(np.array(table["split"]) == "test")
    assert [value is None for value in test["predicted"].to_pylist()] == firsts.tolist()
    assert [value is None for value in test["probability of 7"].to_pylist()] == firsts.tolist()
    broken = trained(zoo, slice(None), 4)
    with pytest.raises(WorkError, match="the model of epoch 4 gives no finite number for any of"):
        evaluate(broken, zoo, "test")
    with pytest.raises(WorkError, match="gives no finite number for any of 400 members"):
        write_predictions(broken, zoo, tmp_path / "q.parquet")
    assert not (tmp_path / "q.parquet").exists()


@pytest.mark.parametrize("name", FORMATS)
def test_runs_that_diverged_come_in_go_out_and_come_back(tmp_path, name):
    """Python's own JSON of a run that diverged."""
    for number in range(6):
        run = ray_run(tmp_path / "in", number, [5, 10])
        lines = [json.loads(line) for line in (run / "result.json").read_text().splitlines()]
        lines[4] |= {"test_loss": math.inf, "gap": -math.inf, "test_acc": math.nan}
        lines[9] |= {"test_loss": math.nan, "gap": 0.5, "note": "NaN, Infinity"}
        (run / "result.json").write_text("".join(json.dumps(line) + "\n" for line in lines))
    zoo = bring_in("modelzoos", tmp_path / "in", tmp_path / "zoo")
    wanted = {"test_loss": {math.inf, None}, "gap": {-math.inf, 0.5}, "test_accuracy": {None, 1.0}}
    assert {column: set(zoo.catalog[column].to_pylist()) for column in wanted} == wanted
    export_zoo(zoo, name, tmp_path / "out", lambda number: None)
    for file in (tmp_path / "out").rglob("*.json"):
        text = file.read_text()
        for part in text.splitlines() if file.name == "result.json" else [text]:
            only_json(part)
    again = bring_in(name, tmp_path / "out", tmp_path / "again").catalog
    rows = {row["key"]: row for row in zoo.catalog.to_pylist()}
    for row in again.to_pylist():
        expected = rows.get(row["key"]) or next(
            other
            for other in rows.values()
            if (other["run"], other["epoch"]) == (row["run"], row["epoch"])
        )
        for column_name in ("run", "epoch", *wanted, "note"):
            assert row[column_name] == expected[column_name], column_name


def test_figures_of_a_zoo_are_of_its_finite_numbers(tmp_path):
    catalog = {"psnr": np.array([math.inf, -math.inf, math.nan, 20.0, 30.0])}
    assert quantiles(pa.table(catalog), "psnr")["50%"] == 25.0


@pytest.fixture(scope="module")
def failed_zoo(tmp_path_factory):
    """A zoo whose members all diverged."""
    folder = tmp_path_factory.mktemp("failed") / "zoo"
    changes = {
        "signals": SignalsConfig(limit=60),
        "fit": FitConfig(max_steps=3, learning_rate=1e30),
    }
    config = smoke().zoo.model_copy(update=changes)
    plan = plan_zoo(config, folder)
    for shard in plan.shards:
        fit_shard(config, folder, plan.signals, shard)
    return seal_zoo(folder)


@pytest.mark.parametrize("name", FORMATS)
def test_a_zoo_of_failures_is_not_exported_and_leaves_nothing(failed_zoo, tmp_path, name):
    with pytest.raises(InputError, match="must have members with weights, all of them failed"):
        export_zoo(failed_zoo, name, tmp_path / "out", lambda number: None)
    assert not [*tmp_path.iterdir()]


def test_a_zoo_of_failures_has_figures(failed_zoo):
    summary = summarize(failed_zoo)
    assert summary["failed"] == summary["members"] == 120
    assert only_json(json.dumps(summary))["psnr"] == {}


def test_a_constant_tensor_has_no_spread_at_all(zoo):
    """0.1 has no exact float64, so a naive sum over many of it has a mean that is not 0.1."""
    constant = {spec.name: torch.full((1000, *spec.shape), 0.1) for spec in zoo.space.tensors}
    blocks = [(constant, range(1000)), ({n: x[:7] for n, x in constant.items()}, range(7))]
    fake = SimpleNamespace(space=zoo.space, blocks=lambda split: blocks)
    statistics = compute_statistics(fake)["tensors"]
    value = torch.tensor(0.1).item()
    assert all(moments == {"mean": value, "std": 0.0} for moments in statistics.values())
    tensors = [constant[spec.name][:2] for spec in zoo.space.tensors]
    standard = Standardize(zoo.space).set(statistics)(tensors)
    assert all(not tensor.any() for tensor in standard)


def test_a_picture_that_cannot_be_drawn_leaves_the_one_that_was_there(tmp_path):
    with picture(tmp_path / "a.png", 1, 1) as figure:
        figure.subplots()
    before = (tmp_path / "a.png").read_bytes()
    with pytest.raises(ZeroDivisionError), picture(tmp_path / "a.png", 1, 1):
        raise ZeroDivisionError
    with (
        pytest.raises(InputError, match="expected a name that ends in"),
        picture(tmp_path / "a.jpg", 1, 1),
    ):
        raise AssertionError
    assert [*tmp_path.iterdir()] == [tmp_path / "a.png"]
    assert (tmp_path / "a.png").read_bytes() == before


@pytest.mark.parametrize("name", FORMATS)
def test_an_export_that_cannot_be_written_leaves_nothing(zoo, tmp_path, name):
    """No file may grow beyond 2,000 bytes, as on a disk that is full."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    try:
        with pytest.raises(OSError, match=r"too large|File too large|errno = 27"):
            export_zoo(zoo, name, tmp_path / "out", lambda number: None)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not [*tmp_path.iterdir()]
