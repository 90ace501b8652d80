"""Domain adaptation: learning, an evaluation that can be repeated, and refusals."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch

from dwsnet.heads import WeightsHead
from dwsnet.symmetry import permute
from pipeline.archive.write import seal_zoo
from pipeline.archive.zoo import Zoo
from pipeline.config import (
    ClassifierConfig,
    ClassifierZooConfig,
    HyperparametersConfig,
    SignalsConfig,
)
from pipeline.encoders import DWSNetConfig
from pipeline.errors import InputError
from pipeline.fit import seeds
from pipeline.tasks.adaptation import Adaptation
from pipeline.tasks.class_images import ClassImages
from pipeline.tasks.columns import batch_columns
from pipeline.tasks.task import Batch, Evaluation, Figure
from pipeline.zoos.build import fit_shard, plan_zoo
from tests.pipeline.worlds import without_ray

TASK = Adaptation(
    corruptions=("inversion", "noise"), images=16, evaluation_images=24, finetuning_steps=(2,)
)


def made(folder: Path, **changes) -> Zoo:
    """60 CNNs, each of two digits."""
    config = ClassifierZooConfig(
        signals=SignalsConfig(limit=600, validation_fraction=0.2),
        num_runs=60,
        classes="pairs",
        network=ClassifierConfig(kind="cnn", hidden=(4, 5)),
        hyperparameters=HyperparametersConfig(
            activation=("relu", "tanh"), learning_rate=(1e-2,), epochs=(8,)
        ),
        batch_size=32,
        shard_size=20,
    ).model_copy(update=changes)
    plan = plan_zoo(config, folder)
    for shard in plan.shards:
        fit_shard(config, folder, plan.signals, shard)
    return seal_zoo(folder)


@pytest.fixture(scope="module")
def pairs_zoo(tmp_path_factory) -> Zoo:
    return made(tmp_path_factory.mktemp("pairs") / "zoo")


def batch_of(zoo: Zoo, split: str) -> Batch:
    rows = zoo.where((pc.field("split") == split) & (pc.field("status") == "ok"))
    columns = batch_columns(zoo.catalog.take(rows), TASK.columns)
    return Batch(zoo[rows], columns, torch.from_numpy(rows))


def model_of(zoo: Zoo, task: Adaptation = TASK, channels: int = 6) -> WeightsHead:
    """An untrained model, with the images of the zoo."""
    torch.manual_seed(0)
    encoder = DWSNetConfig(channels=channels, num_layers=2).build(zoo.space)
    encoder.calibrate(zoo.statistics, zoo[:4])
    model = task.build(encoder, task.prepare(zoo))
    task.attach(model, zoo)
    return model.eval()


def moved(model: WeightsHead) -> WeightsHead:
    """The model with a large dv."""
    for head in model.heads:
        torch.nn.init.normal_(head.weight, std=0.3)
    return model


def score(task: Adaptation, model: WeightsHead, batches: list[Batch]) -> dict[str, float]:
    with torch.no_grad():
        parts = [task.sums(model, batch) for batch in batches]
    return task.metrics({name: sum(part[name] for part in parts) for name in parts[0]})


def keys(batch: Batch, epoch: int) -> torch.Tensor:
    drawn = seeds.member_keys(epoch, batch.positions.numpy(), np.zeros(len(batch), np.int64))
    return torch.from_numpy(drawn.view(np.int64))


def test_a_model_that_is_not_trained_changes_nothing(pairs_zoo):
    model, batch = model_of(pairs_zoo), batch_of(pairs_zoo, "test")
    for name, tensor in model(batch.state).items():
        torch.testing.assert_close(tensor, batch.state[name], rtol=0, atol=0.01)
    metrics = score(TASK, model, [batch])
    for domain in ("source", "target"):
        was = metrics[f"trivial_{domain}_accuracy"]
        assert metrics[f"{domain}_accuracy"] == pytest.approx(was, abs=0.02)
    assert metrics["source_accuracy"] > 0.9 > metrics["target_accuracy"] + 0.2


def test_it_learns_the_target_domain(pairs_zoo):
    model = model_of(pairs_zoo, channels=12).train()
    batch, optimizer = batch_of(pairs_zoo, "train"), torch.optim.Adam(model.parameters(), 3e-3)
    losses = []
    for step in range(40):
        loss = TASK.loss(model, batch, keys(batch, step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-5:]) < 0.8 * losses[0]
    metrics = score(TASK, model.eval(), [batch_of(pairs_zoo, "test")])
    assert metrics["loss"] < 0.8 * metrics["trivial_loss"]
    assert metrics["target_accuracy"] > metrics["trivial_target_accuracy"] + 0.05


def test_evaluation_is_the_same_twice_and_in_any_batches(pairs_zoo):
    model, whole = moved(model_of(pairs_zoo)), batch_of(pairs_zoo, "test")
    once = score(TASK, model, [whole])
    assert score(TASK, model, [whole]) == once
    order = torch.randperm(len(whole), generator=torch.Generator().manual_seed(0))
    parts = [whole.take(part) for part in order.split(5)]
    assert score(TASK, model, parts) == pytest.approx(once, abs=1e-5)
    assert score(TASK, model_of(pairs_zoo), [whole])["loss"] != pytest.approx(once["loss"])


def test_a_corruption_is_a_function_of_seed_image_and_network(pairs_zoo):
    model, batch = model_of(pairs_zoo), batch_of(pairs_zoo, "test")
    twins = batch.take(torch.tensor([0, 0, 3]))
    (trial,) = model.domains.trials(twins, TASK.evaluation_images)
    assert torch.equal(trial.target[0], trial.target[1])
    other = Batch(twins.state, twins.columns, twins.positions + 1)
    (moved_on,) = model.domains.trials(other, TASK.evaluation_images)
    assert torch.equal(moved_on.source, trial.source)
    assert not torch.equal(moved_on.target[0], trial.target[0])
    TASK.model_copy(update={"seed": 1}).attach(model, pairs_zoo)
    (reseeded,) = model.domains.trials(twins, TASK.evaluation_images)
    assert not torch.equal(reseeded.target[0], trial.target[0])


def test_training_images_are_drawn_by_the_keys_alone(pairs_zoo):
    model, batch = moved(model_of(pairs_zoo)), batch_of(pairs_zoo, "train")
    first = keys(batch, 1)
    with torch.no_grad():
        whole = TASK.loss(model, batch, first)
        halves = [
            TASK.loss(model, batch.take(part), first[part])
            for part in torch.arange(len(batch)).split(len(batch) // 2)
        ]
        other = TASK.loss(model, batch, keys(batch, 2))
    torch.testing.assert_close(torch.stack(halves).mean(), whole)
    assert abs(other - whole) > 1e-4


def test_images_are_of_the_networks_classes_and_of_the_split(pairs_zoo):
    images, signals = ClassImages(pairs_zoo), pairs_zoo.signals()
    batch = batch_of(pairs_zoo, "validation")
    classes = images.classes(batch.columns)
    seen = {}
    for split in ("train", "validation", "test"):
        index, outputs = images.evenly(split, classes, 20)
        assert index.shape == (len(batch), 20)
        labels = torch.from_numpy(signals.labels)[index]
        assert torch.equal(labels, classes.gather(1, outputs))
        assert all(len(set(row)) == 20 for row in index.tolist())
        seen[split] = set(index.flatten().tolist())
    assert not (seen["train"] | seen["validation"]) & seen["test"]
    state = {name: tensor[:1] for name, tensor in batch.state.items()}
    row = int(batch.positions[0])
    mine = pairs_zoo.module(row)(images.values[index[0]])
    model = model_of(pairs_zoo)
    theirs = model.domains.decode(state, images.values[index[:1]], batch.columns["activation"][:1])
    torch.testing.assert_close(theirs[0], mine, rtol=1e-4, atol=1e-4)


def test_networks_of_unseen_pairs_teach_nothing_and_are_scored_apart(pairs_zoo):
    task = TASK.model_copy(update={"unseen_pairs": 0.3})
    prepared = task.prepare(pairs_zoo)
    assert len(prepared["unseen_pairs"]) == round(0.3 * 45)
    assert task.prepare(pairs_zoo) == prepared
    model, batch = moved(model_of(pairs_zoo, task)), batch_of(pairs_zoo, "train")
    pairs = torch.stack([batch.columns["class_0"], batch.columns["class_1"]], 1).tolist()
    unseen = torch.tensor([pair in prepared["unseen_pairs"] for pair in pairs])
    assert 0 < unseen.sum() < len(batch)
    alone, rest = batch.take(unseen.nonzero()[:, 0]), batch.take((~unseen).nonzero()[:, 0])
    with torch.no_grad():
        assert float(task.loss(model, alone, keys(alone, 0))) == 0
        whole = task.loss(model, batch, keys(batch, 0))
        theirs = task.loss(model, rest, keys(rest, 0))
    torch.testing.assert_close(whole, theirs * len(rest) / len(batch))
    metrics = score(task, model, [batch])
    apart = [score(task, model, [part]) for part in (rest, alone)]
    assert metrics["target_accuracy"] == pytest.approx(apart[0]["target_accuracy"])
    assert metrics["unseen_loss"] == pytest.approx(apart[1]["unseen_loss"], rel=1e-4)
    assert "unseen_loss" not in apart[0]


def test_permuting_neurons_permutes_the_adapted_network(pairs_zoo):
    space = pairs_zoo.space
    model, batch = moved(model_of(pairs_zoo)).double(), batch_of(pairs_zoo, "test")
    state = {name: tensor.double() for name, tensor in batch.state.items()}
    generator = torch.Generator().manual_seed(0)
    order = {
        name: torch.rand(len(batch), size, generator=generator).argsort(1)
        for name, size in space.hidden.items()
    }
    permuted = dict(zip(state, permute(space, list(state.values()), order), strict=True))
    with torch.no_grad():
        found, plain = model(permuted), model(state)
    expected = dict(zip(plain, permute(space, list(plain.values()), order), strict=True))
    assert any(not torch.allclose(found[name], plain[name]) for name in plain)
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor)


def test_fine_tuning_is_the_networks_own(pairs_zoo):
    task = TASK.model_copy(update={"finetuning_steps": (1, 12), "finetuning_rate": 1e-2})
    model, batch = model_of(pairs_zoo, task), batch_of(pairs_zoo, "test")
    with torch.no_grad():
        tuned, alone = (
            dict(model.domains.finetuned(part, (1, 12), 1e-2, task.images))
            for part in (batch, batch.take(torch.tensor([2])))
        )
        assert list(tuned) == [1, 12]
        table = pa.table(task.predictions(task.outputs(model, batch)))
    for name, tensor in alone[12].items():
        torch.testing.assert_close(tensor[0], tuned[12][name][2], rtol=1e-3, atol=1e-4)
    losses = [table[f"{state}loss"].to_numpy().mean() for state in ("trivial_", "finetuned_12_")]
    assert losses[1] < 0.8 * losses[0]
    scores = task.scores(table)
    assert set(scores) == {f"finetuned_{steps}_target_accuracy" for steps in (1, 12)}
    assert all(0 <= value <= 1 for value in scores.values())


def test_predictions_need_no_images(pairs_zoo):
    torch.manual_seed(0)
    encoder = DWSNetConfig(channels=6, num_layers=2).build(pairs_zoo.space)
    model = moved(TASK.build(encoder, TASK.prepare(pairs_zoo)).eval())
    batch = batch_of(pairs_zoo, "test")
    with torch.no_grad():
        table = pa.table(TASK.predictions(TASK.outputs(model, batch)))
        adapted = model(batch.state)
    assert table.column_names == ["change"]
    assert TASK.scores(table) == {}
    was, now = (
        torch.cat([tensor[0].flatten() for tensor in state.values()])
        for state in (batch.state, adapted)
    )
    assert table["change"][0].as_py() == pytest.approx(
        float((was - now).norm() / was.norm()), rel=1e-4
    )


def test_networks_without_finite_numbers_are_wrong(pairs_zoo):
    model, batch = model_of(pairs_zoo), batch_of(pairs_zoo, "test")
    broken = {name: torch.full_like(tensor, math.nan) for name, tensor in batch.state.items()}
    (trial,) = model.domains.trials(batch, TASK.evaluation_images)
    scores = model.domains.scores(trial, {"": batch.state, "broken_": broken})
    assert not scores["broken_target_accuracy"].any()
    assert not scores["broken_source_accuracy"].any()
    assert torch.allclose(scores["broken_loss"], torch.tensor(2.0).log())
    assert scores["source_accuracy"].all()


def test_a_network_of_an_unseen_pair_without_finite_numbers_spoils_no_batch(pairs_zoo):
    task = TASK.model_copy(update={"unseen_pairs": 0.3})
    model, batch = moved(model_of(pairs_zoo, task)), batch_of(pairs_zoo, "train")
    pairs = torch.stack([batch.columns["class_0"], batch.columns["class_1"]], 1)
    unseen = model.unseen[pairs[:, 0], pairs[:, 1]].nonzero()[:, 0]
    state = {name: tensor.clone() for name, tensor in batch.state.items()}
    for tensor in state.values():
        tensor[unseen[0]] *= 1e15  # finite, but what it gives of an image is not
    broken = batch.with_state(state)
    loss, whole = (task.loss(model, one, keys(batch, 0)) for one in (broken, batch))
    loss.backward()
    assert loss.item() == pytest.approx(whole.item())
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    metrics = score(task, model, [broken])
    assert all(math.isfinite(value) for value in metrics.values())
    seen = batch.take((~model.unseen[pairs[:, 0], pairs[:, 1]]).nonzero()[:, 0])
    assert metrics["loss"] == pytest.approx(score(task, model, [seen])["loss"], rel=1e-4)


def test_a_split_of_unseen_pairs_alone_has_no_scores_of_seen_ones(pairs_zoo):
    task = TASK.model_copy(update={"unseen_pairs": 0.3})
    model, batch = model_of(pairs_zoo, task), batch_of(pairs_zoo, "test")
    pairs = torch.stack([batch.columns["class_0"], batch.columns["class_1"]], 1)
    unseen = batch.take(model.unseen[pairs[:, 0], pairs[:, 1]].nonzero()[:, 0])
    metrics = score(task, model, [unseen])
    assert math.isnan(metrics["target_accuracy"])
    assert 0 <= metrics["unseen_target_accuracy"] <= 1


def test_figures(pairs_zoo, tmp_path):
    model, batch = model_of(pairs_zoo), batch_of(pairs_zoo, "test")
    prepared = TASK.prepare(pairs_zoo)
    with torch.no_grad():
        table = pa.table(TASK.predictions(TASK.outputs(model, batch)))
    evaluation = Evaluation(pairs_zoo, model, prepared, table)
    comparison, *figures = TASK.figures(score(TASK, model, [batch]), evaluation)
    assert [row[0] for row in comparison.rows] == [
        "unadapted",
        "adapted",
        "fine-tuned one by one, 2 steps",
    ]
    assert all(len(row) == len(comparison.columns) for row in comparison.rows)
    for figure in figures:
        assert isinstance(figure, Figure)
        figure.draw(tmp_path / figure.file)
        assert (tmp_path / figure.file).stat().st_size > 2000


def test_networks_of_all_classes_are_adapted_too(tmp_path):
    zoo = made(tmp_path / "zoo", classes="all", num_runs=20)
    model, batch = model_of(zoo), batch_of(zoo, "test")
    metrics = score(TASK, model, [batch])
    assert not any("unseen" in name for name in metrics)
    assert 0.1 < metrics["source_accuracy"] <= 1
    assert TASK.loss(model, batch, keys(batch, 0)).isfinite()


def test_a_zoo_of_inrs_is_refused(zoo):
    with pytest.raises(
        InputError, match="its members must be classifiers of images, found 2-8-6-1 networks"
    ):
        TASK.check(zoo)


def test_a_zoo_that_does_not_say_how_to_run_its_members_is_refused(pairs_zoo):
    decode = pairs_zoo.record.decode.model_copy(update={"activations": None})
    record = pairs_zoo.record.model_copy(update={"decode": decode})
    unknown = Zoo(pairs_zoo.folder, record, pairs_zoo.shards, None)
    with pytest.raises(InputError, match="record does not say what their activations are"):
        TASK.check(unknown)


def test_images_that_are_not_the_zoos_are_refused(pairs_zoo, monkeypatch):
    model, signals = model_of(pairs_zoo), pairs_zoo.signals()
    other = replace(signals, values=1 - signals.values)
    monkeypatch.setattr("pipeline.archive.originals.load_signals", lambda config: other)
    with pytest.raises(InputError, match=r"signals of zoo .* have changed since it was built"):
        TASK.attach(model, pairs_zoo)


def test_a_zoo_whose_pairs_are_all_held_out_is_refused(tmp_path):
    zoo = made(tmp_path / "zoo", num_runs=6, validation_runs=0.2, test_runs=0.2)
    with pytest.raises(
        InputError, match="networks of pairs of classes that are not held out, found none"
    ):
        TASK.model_copy(update={"unseen_pairs": 0.99}).prepare(zoo)


@pytest.mark.parametrize("names", [(), ("rotated",)])
def test_a_corruption_that_does_not_exist_is_refused(names):
    with pytest.raises(ValueError, match="corruptions"):
        Adaptation(corruptions=names)


def test_the_command_adapts_digits(command, pairs_zoo, tmp_path):
    zoo, run, table = pairs_zoo.folder, tmp_path / "run", tmp_path / "adapted.parquet"
    few = ["training.epochs=2"]
    few += ["training.task.finetuning_steps=[2]", "training.task.evaluation_images=16"]
    few += ["training.encoder.channels=4", "training.baselines=[]", "training.batch_size=8"]
    settings = [argument for setting in few for argument in ("--set", setting)]
    train = ("train", "digits-adapt", "--workers", "1", *settings, "--zoo", zoo, "--out", run)
    with without_ray():
        assert command(*train).code == 0
    assert command("evaluate", run).code == 0
    metrics = json.loads((run / "metrics.json").read_bytes())
    assert command("evaluate", run).code == 0
    assert json.loads((run / "metrics.json").read_bytes()) == metrics
    assert command("report", run).code == 0
    for name in ("target_accuracy", "trivial_target_accuracy", "finetuned_2_target_accuracy"):
        assert 0.3 < metrics[name] <= 1
    for name in ("adaptation.svg", "corrupted.png"):
        assert (run / "report" / name).stat().st_size > 2000
    assert "fine-tuned one by one, 2 steps" in (run / "report" / "index.html").read_text()
    assert command("predict", run, "--zoo", zoo, "--out", table).code == 0
    assert pq.read_table(table)["change"].null_count == 0
