"""Regression of catalog columns: what is learned, what is measured, what is refused."""

import numpy as np
import pyarrow as pa
import pytest
import torch
from pydantic import ValidationError
from scipy.stats import kendalltau
from sklearn.metrics import mean_absolute_error, mean_squared_error, r2_score
from torch import nn

from dwsnet.encoders import DWSNetEncoder
from dwsnet.weight_space import WeightSpace
from pipeline.archive.zoo import Zoo
from pipeline.errors import InputError
from pipeline.figures.regression import draw_predicted
from pipeline.tasks.classification import Classification
from pipeline.tasks.columns import batch_columns
from pipeline.tasks.inputs import encode
from pipeline.tasks.ranks import rank_scores
from pipeline.tasks.regression import Regression
from pipeline.tasks.task import Batch
from pipeline.training.loader import Feed, LearnedFrom

BOTH = Regression(targets=("psnr", "psnr_off_grid"), inputs=("stop_reason", "view"))


def batches(zoo: Zoo, task: Regression, split: str, changed: dict | None = None) -> list[Batch]:
    """The blocks of a split, with columns `changed` to arrays over the split."""
    found, start = [], 0
    for state, rows in zoo.blocks(split):
        columns = batch_columns(rows, task.columns)
        for name, values in (changed or {}).items():
            columns[name] = values[start : start + len(rows)]
        found.append(Batch(state, columns, torch.arange(start, start + len(rows))))
        start += len(rows)
    return found


def model_of(task: Regression, zoo: Zoo) -> nn.Module:
    torch.manual_seed(0)
    encoder = DWSNetEncoder(zoo.space, width=16, channels=4, num_layers=2)
    encoder.calibrate(zoo.statistics, {})
    return task.build(encoder, task.prepare(zoo))


def learn(task: Regression, model: nn.Module, some: list[Batch], epochs: int) -> list[float]:
    """The mean loss of each epoch."""
    optimizer, losses = torch.optim.AdamW(model.parameters(), 1e-2), []
    for _ in range(epochs):
        total = 0.0
        for batch in some:
            loss = task.loss(model, batch, batch.positions)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item()
        losses.append(total / len(some))
    return losses


@torch.no_grad()
def sums_of(task: Regression, model: nn.Module, some: list[Batch]) -> dict[str, torch.Tensor]:
    parts = [task.sums(model, batch) for batch in some]
    return {name: sum(part[name] for part in parts) for name in parts[0]}


@torch.no_grad()
def table_of(task: Regression, model: nn.Module, some: list[Batch]) -> pa.Table:
    made = [task.predictions(task.outputs(model, batch)) for batch in some]
    return pa.concat_tables([pa.table(dict(columns)) for columns in made])


@pytest.mark.parametrize("objective", ["mse", "bce"])
def test_the_loss_falls_and_the_metric_rises(zoo, objective):
    task = Regression(targets=("share",), objective=objective)
    quality = zoo.members("train")["psnr"].to_numpy()
    share = torch.from_numpy((quality - quality.min()) / np.ptp(quality)).float()
    prepared = {"targets": {"share": {"mean": float(share.mean()), "std": float(share.std())}}}
    torch.manual_seed(0)
    encoder = DWSNetEncoder(zoo.space, 16, 4, 2).calibrate(zoo.statistics, {})
    model = task.build(encoder, prepared | {"inputs": []})
    some = [
        Batch(state, {"share": share[start : start + 32]}, torch.arange(32))
        for start, (state, _) in zip(range(0, len(share), 32), zoo.blocks("train"), strict=True)
    ]
    before = task.metrics(sums_of(task, model.eval(), some))
    losses = learn(task, model.train(), some, 6)
    after = task.metrics(sums_of(task, model.eval(), some))
    assert losses[-1] < 0.8 * losses[0] if objective == "mse" else losses[-1] < losses[0] - 0.01
    assert after["r2"] > before["r2"] + 0.3
    assert after["trivial_r2"] == pytest.approx(0, abs=1e-6)
    if objective == "bce":
        predicted = table_of(task, model, some)["predicted share"].to_numpy()
        assert ((predicted > 0) & (predicted < 1)).all()


def test_metrics_are_those_of_scikit_learn_and_scipy(zoo):
    model = model_of(BOTH, zoo).eval()
    some = batches(zoo, BOTH, "test")
    metrics, table = BOTH.metrics(sums_of(BOTH, model, some)), table_of(BOTH, model, some)
    scores, means = BOTH.scores(table), BOTH.prepare(zoo)["targets"]
    for name in BOTH.targets:
        truth, predicted = (table[f"{kind} {name}"].to_numpy() for kind in ("true", "predicted"))
        assert metrics[f"{name}_r2"] == pytest.approx(r2_score(truth, predicted), rel=1e-4)
        assert metrics[f"{name}_mse"] == pytest.approx(
            mean_squared_error(truth, predicted), rel=1e-4
        )
        assert metrics[f"{name}_mae"] == pytest.approx(
            mean_absolute_error(truth, predicted), rel=1e-4
        )
        trivial = np.full(len(truth), means[name]["mean"])
        assert metrics[f"{name}_trivial_mse"] == pytest.approx(
            mean_squared_error(truth, trivial), rel=1e-4
        )
        assert scores[f"{name}_tau"] == pytest.approx(kendalltau(truth, predicted).statistic)
    for name in ("r2", "mse", "mae", "loss", "trivial_mae"):
        assert metrics[name] == pytest.approx(
            np.mean([metrics[f"{target}_{name}"] for target in BOTH.targets])
        )


def test_sums_add_up_over_any_cut_of_the_members(zoo):
    model, whole = model_of(BOTH, zoo).eval(), batches(zoo, BOTH, "test")
    halves = [
        batch.take(index)
        for batch in whole
        for index in torch.arange(len(batch)).split(len(batch) // 2 + 1)
    ]
    one, other = (BOTH.metrics(sums_of(BOTH, model, some)) for some in (whole, halves))
    assert len(halves) == 2 * len(whole)
    assert one == pytest.approx(other, rel=1e-4)


def test_a_member_whose_target_is_not_known_counts_for_nothing(zoo):
    task = Regression(targets=("psnr", "psnr_off_grid"))
    model, batch = model_of(task, zoo).eval(), batches(zoo, task, "test")[0]
    unknown = {**batch.columns, "psnr": batch.columns["psnr"].clone()}
    unknown["psnr"][::2] = torch.nan
    changed = Batch(batch.state, unknown, batch.positions)
    sums, known = task.sums(model, changed), task.sums(model, batch.take(torch.arange(1, 32, 2)))
    assert sums["known"].tolist() == [16, 32]
    for name, value in sums.items():
        assert value[0].item() == pytest.approx(known[name][0].item(), rel=1e-4)
    task.loss(model, changed, batch.positions).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())
    with pytest.raises(InputError, match="'psnr' must be known for one member or more"):
        task.metrics({**sums, "known": torch.tensor([0, 32])})


def test_a_model_without_finite_numbers_scores_as_the_mean_does(zoo):
    task = Regression(targets=("psnr",))
    model, batch = model_of(task, zoo).eval(), batches(zoo, task, "test")[0]
    with torch.no_grad():
        model.head[1].weight.fill_(torch.inf)
    metrics = task.metrics(task.sums(model, batch))
    assert metrics["mse"] == metrics["trivial_mse"]
    assert not np.isfinite(metrics["loss"])


def outputs_by_network(activation: str, number: int) -> tuple[dict, torch.Tensor]:
    """`number` random networks 2-8-1, and the spread of each one's outputs for 64 inputs."""
    torch.manual_seed(number)
    state = {
        "layers.0.weight": 2 * torch.randn(number, 8, 2),
        "layers.0.bias": torch.randn(number, 8),
        "layers.1.weight": torch.randn(number, 1, 8),
        "layers.1.bias": torch.randn(number, 1),
    }
    x = torch.randn(64, 2)
    hidden = torch.einsum("noi,xi->nxo", state["layers.0.weight"], x)
    hidden = getattr(torch, activation)(hidden + state["layers.0.bias"][:, None])
    return state, torch.einsum("noi,nxi->nxo", state["layers.1.weight"], hidden).std((1, 2))


def test_the_activation_as_an_input_helps_where_networks_differ_in_it():
    """The spread of outputs depends on the activation too: given it, a model explains more."""
    parts = [outputs_by_network(name, number) for name, number in (("relu", 400), ("sin", 401))]
    state = {name: torch.cat([part[0][name] for part in parts]) for name in parts[0][0]}
    spread = torch.cat([part[1] for part in parts])
    activation = ["relu"] * 400 + ["sin"] * 401
    order = torch.randperm(801, generator=torch.Generator().manual_seed(0))
    whole = Batch(state, {"spread": spread, "activation": activation}, torch.arange(801))
    train = [whole.take(index) for index in order[:640].split(64)]
    test = [whole.take(order[640:])]
    moments = {"mean": spread.mean().item(), "std": spread.std().item()}
    known = {"name": "activation", "values": ["relu", "sin"]}
    scores = {}
    for inputs in ((), (known,)):
        task = Regression(targets=("spread",), inputs=tuple(one["name"] for one in inputs))
        torch.manual_seed(0)
        space = WeightSpace.from_state_dict({name: x[0] for name, x in state.items()})
        encoder = DWSNetEncoder(space, width=32, channels=4, num_layers=2)
        model = task.build(encoder, {"targets": {"spread": moments}, "inputs": inputs})
        learn(task, model, train, 15)
        scores[len(inputs)] = task.metrics(sums_of(task, model.eval(), test))["r2"]
    assert scores[1] > scores[0] + 0.2, scores


def test_inputs_are_one_hot_and_standardised():
    described = [
        {"name": "activation", "values": ["gelu", "relu"]},
        {"name": "epoch", "mean": 4.0, "std": 2.0},
    ]
    columns = {"activation": ["relu", "gelu"], "epoch": torch.tensor([8, 3])}
    found = encode(described, columns, torch.zeros(2))
    assert found.tolist() == [[0, 1, 2], [1, 0, -0.5]]
    with pytest.raises(InputError, match="found 'rleu'; did you mean 'relu'"):
        encode(described, {**columns, "activation": ["rleu", "gelu"]}, torch.zeros(2))
    with pytest.raises(InputError, match="takes column 'epoch' as an input"):
        encode(described, {"activation": ["relu", "relu"]}, torch.zeros(2))


def test_tau_knows_its_ceiling_ties_and_the_floor():
    rng = np.random.default_rng(0)
    truth = np.concatenate([np.full(47, 0.1), rng.uniform(0.2, 1, 53)])
    best = truth + 1e-9 * rng.random(100)  # in order, without ties
    scores = rank_scores(truth, best)
    assert scores["tau"] == pytest.approx(scores["tau_ceiling"], abs=0.02)
    assert scores["tau_ceiling"] == pytest.approx(np.sqrt(1 - 47 * 46 / (100 * 99)))
    assert scores["tau_above_floor"] == pytest.approx(1)
    assert scores["tied_predictions"] == 0
    tied = rank_scores(truth, truth)
    assert tied["tau"] == pytest.approx(1)
    assert tied["tied_predictions"] == pytest.approx(0.47)
    assert "tau_above_floor" not in rank_scores(np.arange(10.0), np.arange(10.0))
    assert rank_scores(truth, np.zeros(100))["tau"] == 0


def test_a_model_that_gives_no_finite_number_is_scored():
    table = pa.table({"true psnr": [20.0, 20.0, 30.0], "predicted psnr": pa.nulls(3, pa.float64())})
    scores = Regression(targets=("psnr",)).scores(table)
    assert scores == {"tau": 0.0, "tau_ceiling": 1.0, "tied_predictions": 0.0}


def test_predictions_have_the_truth_only_where_the_zoo_has_it(zoo):
    model, batch = model_of(BOTH, zoo).eval(), batches(zoo, BOTH, "test")[0]
    assert list(table_of(BOTH, model, [batch]).column_names) == [
        *("true psnr", "predicted psnr", "true psnr_off_grid", "predicted psnr_off_grid")
    ]
    elsewhere = {name: batch.columns[name] for name in BOTH.inputs}
    table = table_of(BOTH, model, [Batch(batch.state, elsewhere, batch.positions)])
    assert table.column_names == ["predicted psnr", "predicted psnr_off_grid"]


def with_column(zoo: Zoo, name: str, change, kind: pa.DataType | None = None) -> Zoo:
    """The zoo with `change` applied to the list of values of a catalog column."""
    table = zoo.catalog
    place = table.column_names.index(name)
    values = pa.array(change(table[name].to_pylist()), kind or table.schema.field(name).type)
    zoo.__dict__["catalog"] = table.set_column(place, name, values)
    return zoo


def in_split(split: str, value):
    """A change that sets all values of a split to `value`."""
    return lambda zoo, values: [
        value if row == split else old
        for row, old in zip(zoo.catalog["split"].to_pylist(), values, strict=True)
    ]


@pytest.mark.parametrize(
    ("task", "column", "change", "message"),
    [
        (
            ("shard",),
            None,
            None,
            "'shard' of zoo .* must hold numbers to be a target, found string",
        ),
        (
            ("psnr",),
            "psnr",
            lambda v: [np.nan, *v[1:]],
            "finite numbers or null .* found nan for 0",
        ),
        (("psnr",), "psnr", lambda v: [*v[:-1], np.inf], "finite numbers or null .* found inf for"),
        (("steps",), "steps", lambda v: [None, *v[1:]], "it holds integers, found null for 1"),
        (("psnr",), "psnr", lambda v: [7.0] * len(v), "must differ between members .* found 7.0"),
        (("psnr",), "psnr", "validation", "must be known for members of the validation split"),
        (("psnr",), "psnr", "train", "must be known for members of the train split"),
    ],
)
def test_targets_that_teach_nothing_are_refused(zoo, task, column, change, message):
    if isinstance(change, str):
        with_column(zoo, column, lambda values: in_split(change, None)(zoo, values))
    elif column:
        with_column(zoo, column, change)
    with pytest.raises(InputError, match=message):
        Regression(targets=task).check(zoo)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: [1e60, *v[1:]], r"must have finite numbers or null .* in float32, found 1e\+60"),
        (
            lambda v: [1e9 + x for x in v],
            "must differ .* found 10000000.* to 10.*, the same in float",
        ),
        (lambda v: [1e-60 * x for x in v], "must differ .* found .*e-59, the same in float32, for"),
    ],
)
def test_targets_that_float32_does_not_tell_apart_are_refused(zoo, change, message):
    """Batches hold float32, where any model would be right, or nothing would be finite."""
    with_column(zoo, "psnr", change, pa.float64())
    with pytest.raises(InputError, match=message):
        Regression(targets=("psnr",)).check(zoo)


@pytest.mark.parametrize("factor", [1e-60, 1e30])
def test_an_input_of_any_size_is_a_number_of_unit_scale(zoo, factor):
    task = Regression(targets=("psnr",), inputs=("psnr_off_grid",))
    with_column(zoo, "psnr_off_grid", lambda v: [factor * x for x in v], pa.float64())
    task.check(zoo)
    columns = batch_columns(zoo.members("train"), task.columns)
    numbers = encode(task.prepare(zoo)["inputs"], columns, columns["psnr"])
    assert numbers.abs().max() < 10


@pytest.mark.parametrize(
    "task",
    [
        Regression(targets=("seed",)),
        Regression(targets=("psnr",), inputs=("seed",)),
        Classification(column="seed"),
    ],
)
def test_whole_numbers_that_no_batch_holds_are_refused(zoo, task):
    with pytest.raises(
        InputError, match=r"'seed' of zoo .* must have numbers up to 92233.*, found"
    ):
        task.check(zoo)


def test_shares_outside_of_0_to_1_and_unknown_inputs_are_refused(zoo):
    with pytest.raises(InputError, match=r"shares from 0 to 1 .* 'bce', found .* take 'mse'"):
        Regression(targets=("psnr",), objective="bce").check(zoo)
    task = Regression(targets=("psnr",), inputs=("stop_reason",))
    task.check(zoo)
    with_column(zoo, "stop_reason", lambda v: in_split("validation", "tired")(zoo, v))
    with pytest.raises(InputError, match=r"input 'stop_reason' must be one of .* found 'tired'"):
        task.check(zoo)
    with_column(zoo, "psnr_off_grid", lambda v: [None, *v[1:]])
    with pytest.raises(InputError, match="known for every member to be an input, found None for 0"):
        Regression(targets=("psnr",), inputs=("psnr_off_grid",)).check(zoo)


@pytest.mark.parametrize(
    ("task", "missing"),
    [
        (Regression(targets=("psnr", "test_accuracy")), "test_accuracy"),
        (Regression(targets=("psnr",), inputs=("activation",)), "activation"),
        (Classification(column="optimizer"), "optimizer"),
    ],
)
def test_a_column_that_the_catalog_has_not_is_refused(zoo, task, missing):
    with pytest.raises(InputError, match=f"has no column '{missing}' to learn from: its columns"):
        task.check(zoo)


def test_facts_are_those_of_the_members_that_are_learned_from(zoo):
    feed = Feed.of(BOTH, zoo, "train", members=12, seed=3)
    some, whole = feed.rows(), zoo.members("train")
    prepared = BOTH.prepare(LearnedFrom(feed))
    target = prepared["targets"]["psnr"]
    assert target["mean"] == pytest.approx(some["psnr"].to_numpy().mean())
    assert target["std"] == pytest.approx(some["psnr"].to_numpy().std())
    assert target["mean"] != pytest.approx(whole["psnr"].to_numpy().mean(), rel=1e-6)
    reasons, views = prepared["inputs"]
    assert reasons["values"] == sorted(whole["stop_reason"].unique().to_pylist())
    assert views["mean"] == pytest.approx(some["view"].to_numpy().mean())
    with pytest.raises(InputError, match=r"must differ between members .* for all 1 of the train"):
        BOTH.prepare(LearnedFrom(Feed.of(BOTH, zoo, "train", members=1)))


def test_a_column_named_twice_is_refused():
    with pytest.raises(ValidationError, match="found 'psnr' twice"):
        Regression(targets=("psnr",), inputs=("view", "psnr"))


def test_predictions_are_drawn(tmp_path):
    rng = np.random.default_rng(0)
    truth = rng.random(40)
    pairs = {name: (truth, truth + 0.1 * rng.random(40)) for name in ("accuracy", "loss")}
    draw_predicted(pairs, tmp_path / "predicted.svg")
    drawn = (tmp_path / "predicted.svg").read_text()
    assert "true accuracy" in drawn
    assert "predicted loss" in drawn
    draw_predicted({"none": (truth[:0], truth[:0])}, tmp_path / "empty.png")


def test_boosting_takes_the_place_of_the_model(zoo):
    """It is scored by the same code on the same batches, and best on what it was fitted to."""
    prepared, train = BOTH.prepare(zoo), batches(zoo, BOTH, "train")
    model = BOTH.boosted(zoo.space, train, prepared)
    scores = {
        split: BOTH.metrics(sums_of(BOTH, model, batches(zoo, BOTH, split)))
        for split in ("train", "test")
    }
    assert scores["train"]["r2"] > max(0.3, scores["test"]["r2"])
    table = table_of(BOTH, model, batches(zoo, BOTH, "test"))
    error = table["true psnr"].to_numpy() - table["predicted psnr"].to_numpy()
    assert (error**2).mean() == pytest.approx(scores["test"]["psnr_mse"], rel=1e-4)
    again = BOTH.boosted(zoo.space, train, prepared)
    assert table_of(BOTH, again, train).equals(table_of(BOTH, model, train))
