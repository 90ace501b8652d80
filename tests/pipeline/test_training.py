"""Loader, schedule, checkpoints and evaluation; the engine is tested through the command."""

import errno
import json
import os
import re
from collections import OrderedDict
from itertools import pairwise
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from dwsnet.models import num_parameters
from dwsnet.weight_space import WeightSpace
from flows.recipes import smoke
from flows.stages import learn
from flows.stages.learn import claim
from pipeline.archive.zoo import Zoo, column
from pipeline.encoders import DWSNetConfig, FlatMLPConfig
from pipeline.errors import ArchiveError, InputError, WorkError
from pipeline.tasks import Monitor
from pipeline.tasks.own import task_of
from pipeline.training.checkpoint import load_best
from pipeline.training.config import TrainingConfig
from pipeline.training.engine import compile_for_training, learning_rate_factor
from pipeline.training.evaluate import evaluate, predict
from pipeline.training.history import EpochMetrics, History
from pipeline.training.launch import Job, check_batches, launch_training
from pipeline.training.loader import Feed
from pipeline.training.models import build_model, calibrate, num_parameters_of, warn_of_wide_axes
from pipeline.training.variants import Variant, variants
from pipeline.training.worker import same_zoo
from tests.pipeline.foreign import bring_in, save

BASELINES = (
    "mlp",
    "mlp-augmented",
    "mlp-aligned",
    "inr2vec",
    "transformer",
    "statistics",
    "probing",
)
TEN = {"class_names": [str(digit) for digit in range(10)], "majority": 0}


def feed(zoo, split="train", seed=0, **fields) -> Feed:
    return Feed(zoo, split, ("label",), seed=seed, **fields)


def members(batches) -> list[bytes]:
    """One fingerprint for each member, in order."""
    rows = [
        torch.cat([tensor.flatten(1) for tensor in batch.state.values()], 1) for batch in batches
    ]
    return [row.numpy().tobytes() for batch in rows for row in batch]


def test_ranks_share_each_batch_and_the_order_does_not_depend_on_their_number(zoo):
    whole = list(feed(zoo).epoch(1, 32))
    shares = [list(feed(zoo).epoch(1, 32, rank, 4)) for rank in range(4)]
    assert {len(share) for share in shares} == {len(whole)} == {feed(zoo).num_batches(32)}
    for k, batch in enumerate(whole):
        assert members([batch]) == members([share[k] for share in shares])


def test_an_epoch_holds_every_member_once_in_an_order_of_its_own(zoo):
    one, again, other = (members(feed(zoo).epoch(epoch, 1)) for epoch in (1, 1, 2))
    assert one == again
    assert one != other
    assert sorted(one) == sorted(other) == sorted(members(feed(zoo).whole()))
    assert len(set(one)) == len(zoo.members("train"))


def test_a_small_window_still_gives_every_member_once(zoo, monkeypatch):
    monkeypatch.setattr("pipeline.training.loader.HELD", 100)
    seen = members(feed(zoo).epoch(1, 2))
    assert len(set(seen)) == len(seen) == len(zoo.members("train"))


def test_labels_go_with_their_members(zoo):
    labels = dict(
        zip(members(feed(zoo).whole()), column(zoo.members("train"), "label"), strict=True)
    )
    for batch in feed(zoo).epoch(1, 16):
        assert [labels[member] for member in members([batch])] == batch.columns["label"].tolist()


def test_ranks_share_a_split_without_overlap(zoo):
    shares = [members(feed(zoo).whole(rank, 3)) for rank in range(3)]
    assert sorted(member for share in shares for member in share) == sorted(
        members(feed(zoo).whole())
    )


def test_batches_that_cannot_be_are_refused(zoo):
    config = TrainingConfig(batch_size=30)
    check_batches(feed(zoo), config, 4)
    with pytest.raises(
        InputError, match=r"batch_size must be at least resources\.workers \(31\), got 30"
    ):
        check_batches(feed(zoo), config, 31)
    with pytest.raises(InputError, match="the 2 views of a signal, and a multiple of those, got 7"):
        check_batches(feed(zoo, group=2), config.model_copy(update={"batch_size": 7}), 2)
    with pytest.raises(
        InputError, match="batch_size must be at most the 282 members of the train split, got 5000"
    ):
        check_batches(feed(zoo), config.model_copy(update={"batch_size": 5000}), 2)


def test_before_the_first_checkpoint_the_training_of_a_run_may_change_but_not_its_zoo(
    zoo, tmp_path
):
    training = smoke().training
    other = training.model_copy(update={"batch_size": 16})
    claim(tmp_path, zoo.record, training)
    claim(tmp_path, zoo.record, other)
    signals = zoo.record.signals.model_copy(update={"digest": "another"})
    elsewhere = zoo.record.model_copy(update={"signals": signals})
    with pytest.raises(InputError, match="another configuration"):
        claim(tmp_path, elsewhere, other)
    (tmp_path / "checkpoints" / "epoch-0001").mkdir(parents=True)
    (tmp_path / "checkpoints" / "epoch-0001" / "training.json").touch()
    claim(tmp_path, zoo.record, other)
    with pytest.raises(InputError, match=r"training\.batch_size"):
        claim(tmp_path, zoo.record, training)


def ray_failures():
    from ray import exceptions
    from ray.train import ControllerError, WorkerGroupError

    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "model")
    out_of_memory = exceptions.OutOfMemoryError("The node ran low on memory.\nRefer to the docs")
    raised = exceptions.RayError('ray::f()\n  File "f.py", line 1\nKeyError: 3')
    return [
        (out_of_memory, "The node ran low on memory."),
        (exceptions.ActorDiedError(), "The actor died unexpectedly before finishing this task."),
        (exceptions.LocalRayletDiedError(), "The task's local raylet died. Check raylet.out"),
        (ControllerError(out_of_memory), "The node ran low on memory."),
        (WorkerGroupError("...", {1: out_of_memory}), "The node ran low on memory."),
        (WorkerGroupError("...", {0: raised}), "KeyError: 3"),
        (WorkerGroupError("...", {0: full}), "[Errno 28] No space left on device: 'model'"),
    ]


def test_however_ray_fails_in_training_it_is_a_sentence(built_zoo, tmp_path, monkeypatch):
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

    job = Job("dwsnet", tmp_path, smoke().training, {}, 256)
    for error, reason in ray_failures():
        monkeypatch.setattr(DataParallelTrainer, "fit", Mock(side_effect=error))
        with pytest.raises(WorkError) as caught:
            launch_training(Zoo.open(built_zoo), [[job]], smoke().resources, lambda: None)
        assert str(caught.value).startswith(f"training of {tmp_path} failed: {reason}")
        assert "\n" not in str(caught.value)


def test_what_is_wrong_with_the_input_is_said_as_a_worker_says_it_and_not_tried_again(
    built_zoo, tmp_path, monkeypatch
):
    from ray.train import WorkerGroupError
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

    job = Job("dwsnet", tmp_path, smoke().training, {}, 256)
    for wrong in (ArchiveError("a block is damaged"), InputError("pickles are not read")):
        fit = Mock(side_effect=WorkerGroupError("...", {1: wrong}))
        monkeypatch.setattr(DataParallelTrainer, "fit", fit)
        with pytest.raises(type(wrong), match=str(wrong)):
            launch_training(Zoo.open(built_zoo), [[job]], smoke().resources, lambda: None)
        assert fit.call_count == 1


def test_the_learning_rate_warms_up_and_ends_at_zero():
    factors = [learning_rate_factor(step, 100, 0.2) for step in range(101)]
    assert factors[0] == 1 / 20
    assert max(factors) == factors[19] == factors[20] == 1
    assert factors[100] == pytest.approx(0, abs=1e-12)
    assert all(a >= b for a, b in pairwise(factors[20:]))
    assert learning_rate_factor(0, 10, 0.0) == 1


def test_a_precision_and_the_zero_stage_leave_the_identity_of_older_runs_as_it_was():
    identity = TrainingConfig().identity()
    assert "precision" not in identity
    assert identity["zero_stage"] == 0
    assert TrainingConfig(zero_stage=3, checkpoint_steps=5).identity() == identity
    assert TrainingConfig(precision="bf16").identity() == identity | {"precision": "bf16"}


@pytest.mark.parametrize("kind", BASELINES)
def test_every_baseline_learns_and_has_as_many_parameters_as_the_dwsnet(zoo, kind):
    torch.manual_seed(0)
    training = TrainingConfig()
    task = task_of(training.task, ())
    prepared = task.prepare(zoo)
    size = num_parameters_of(training, zoo.space, prepared, ())
    encoder, baseline = build_model(
        Variant(kind).of(training, zoo.space, prepared), zoo.space, prepared, ()
    )
    assert num_parameters(baseline) == pytest.approx(size, rel=0.02)
    batch = next(feed(zoo).whole())
    calibrate(encoder, zoo)
    task.attach(baseline, zoo)
    baseline.train()
    optimizer = torch.optim.Adam(baseline.parameters(), lr=1e-3)
    losses = []
    for _ in range(8):
        losses.append(task.loss(baseline, batch, feed(zoo).keys(1, batch)))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.9 * losses[0]


def test_the_dwsnet_attends_and_pools_as_it_is_told(zoo):
    config = TrainingConfig(encoder=DWSNetConfig(num_heads=2, pooling="max"))
    encoder, _ = build_model(config, zoo.space, TEN, ())
    assert type(encoder.trunk.layers[0]).__name__ == "EquivariantAttention"
    plain, _ = build_model(TrainingConfig(), zoo.space, TEN, ())
    assert type(plain.trunk.layers[0]).__name__ == "EquivariantLinear"


@pytest.mark.parametrize("canonical", [True, False])
def test_the_classifier_ignores_the_order_of_hidden_units_and_the_baseline_does_not(zoo, canonical):
    from dwsnet.symmetry import permute, random_permutation

    batch = next(feed(zoo, "test").whole())
    permutation = random_permutation(zoo.space, torch.Generator().manual_seed(0))
    names = [spec.name for spec in zoo.space.tensors]
    moved = dict(
        zip(
            names,
            permute(zoo.space, [batch.state[name] for name in names], permutation),
            strict=True,
        )
    )
    for kind, invariant in (("dwsnet", True), ("mlp", False)):
        fields = {"kind": kind, "canonical_signs": canonical}
        config = TrainingConfig.model_validate({"encoder": fields})
        encoder, model = build_model(config, zoo.space, TEN, ())
        calibrate(encoder, zoo)
        model.double().eval()
        one, other = (
            model({name: x.double() for name, x in state.items()}) for state in (batch.state, moved)
        )
        assert torch.allclose(one, other, atol=1e-10) == invariant


def test_the_best_epoch_is_the_first_with_the_best_value_of_the_monitored_metric():
    values = {"accuracy": (0.4, 0.6, 0.6), "loss": (2.0, 3.0, 1.0)}
    epochs = [
        EpochMetrics(k + 1, 2.0, {name: values[name][k] for name in values}, 0.1, 1.0, 10.0)
        for k in range(3)
    ]
    assert History(Monitor("accuracy"), tuple(epochs)).best.epoch == 2
    assert History(Monitor("loss", more_is_better=False), tuple(epochs)).best.epoch == 3
    history = History(Monitor("loss"), tuple(epochs))
    assert History.from_json(json.loads(json.dumps(history.as_json()))) == history


def test_a_zoo_that_grew_while_it_was_trained_on_is_refused(zoo):
    assert same_zoo(str(zoo.folder), zoo.record.fingerprint, ()).record == zoo.record
    with pytest.raises(
        InputError, match=r"must be 0123 as it was when training began, found .* grown"
    ):
        same_zoo(str(zoo.folder), "0123", ())


def test_a_folder_without_checkpoints_says_so(tmp_path):
    with pytest.raises(InputError, match="has no checkpoint: expected"):
        load_best(tmp_path)


def test_metrics_are_those_of_the_predictions(smoke_run):
    from pipeline.archive.zoo import Zoo

    trained, zoo = load_best(smoke_run.folder), Zoo.open(smoke_run.folder / "zoo")
    metrics, table = evaluate(trained, zoo, "test")
    assert metrics == json.loads((smoke_run.folder / "metrics.json").read_text())
    assert table.equals(predict(trained, zoo, "test"))
    labels = column(zoo.members("test"), "label")
    predicted = np.array([int(name) for name in table["predicted"].to_pylist()])
    assert metrics["accuracy"] == (predicted == labels).mean()
    confusion = np.array(metrics["confusion"])
    assert confusion.sum() == metrics["num_members"] == 80
    assert np.trace(confusion) / confusion.sum() == metrics["accuracy"]
    np.testing.assert_array_equal(confusion.sum(1), np.bincount(labels, minlength=10))
    by_signal = {}
    for row, label in zip(table.to_pylist(), labels, strict=True):
        probabilities = np.array([row[f"probability of {digit}"] for digit in range(10)])
        total, _ = by_signal.get(row["source_index"], (0, None))
        by_signal[row["source_index"]] = (total + probabilities, label)
    right = [total.argmax() == label for total, label in by_signal.values()]
    assert metrics["signal_accuracy"] == sum(right) / len(right)
    majority = np.bincount(column(zoo.members("train"), "label")).argmax()
    assert metrics["trivial_accuracy"] == (labels == majority).mean()


def test_a_number_of_members_is_the_same_ones_and_those_of_a_larger_number(zoo):
    few, more = (feed(zoo, members=count).rows()["key"].to_pylist() for count in (31, 60))
    assert len(few) == 31
    assert set(few) < set(more)
    assert len(members(feed(zoo, members=31).epoch(1, 1))) == 31
    assert few != feed(zoo, members=31, seed=1).rows()["key"].to_pylist()


def test_views_of_a_signal_come_together_where_a_task_wants_groups(zoo):
    pairs = feed(zoo, group=2)
    assert pairs.num_members == len(zoo.members("train"))
    keys = zoo.catalog["source_index"].to_numpy()
    for batches in (pairs.epoch(1, 16), pairs.whole()):
        seen = []
        for batch in batches:
            source = keys[batch.positions.numpy()]
            assert (source[::2] == source[1::2]).all()
            assert (batch.positions[::2] != batch.positions[1::2]).all()
            seen += batch.positions.tolist()
        assert len(set(seen)) == len(seen)
    whole = list(pairs.epoch(3, 16))
    shares = [list(pairs.epoch(3, 16, rank, 2)) for rank in range(2)]
    for k, batch in enumerate(whole):
        assert members([batch]) == members([share[k] for share in shares])


def test_keys_of_augmentation_belong_to_member_and_epoch_alone(zoo):
    keys = {}
    for rank in range(2):
        for batch in feed(zoo).epoch(1, 32, rank, 2):
            keys |= dict(
                zip(batch.positions.tolist(), feed(zoo).keys(1, batch).tolist(), strict=True)
            )
    batch = next(feed(zoo).epoch(1, 32))
    assert [keys[place] for place in batch.positions.tolist()] == feed(zoo).keys(1, batch).tolist()
    assert len(set(keys.values())) == len(keys)
    assert not set(keys.values()) & set(feed(zoo).keys(2, batch).tolist())


@pytest.mark.parametrize(
    ("space", "axis"),
    [
        (
            WeightSpace.mlp((784, 32, 10)),
            "'layer0' of its networks had a single entry instead of 784",
        ),
        (
            WeightSpace.mlp((2, 32, 500)),
            "'layer2' of its networks had a single entry instead of 500",
        ),
        (WeightSpace.cnn(3, (8, 8), 11, 10), r"'layers\.0\.position0' .* instead of 11"),
        (WeightSpace.mlp((2, 32, 32, 1)), None),
        (WeightSpace.mlp((2, 1024, 1024, 1)), None),
    ],
)
def test_a_model_that_is_large_by_a_wide_fixed_axis_is_warned_of(space, axis, caplog):
    config = TrainingConfig(encoder=DWSNetConfig(channels=16))
    warn_of_wide_axes(config, space, TEN, ())
    if axis is None:
        assert not caplog.text
        return
    size = num_parameters_of(config, space, TEN, ())
    assert f"the dwsnet has {size:,} parameters" in caplog.text
    assert re.search(f"the fixed axis {axis}", caplog.text)
    assert "dwsnet.downsample.DownsampledLinear" in caplog.text


@pytest.mark.fast
def test_only_training_is_compiled_and_state_dicts_stay_the_same(monkeypatch):
    compiled = []

    def compile(forward, mode):
        return lambda x: compiled.append(mode) or forward(x)

    monkeypatch.setattr(torch, "compile", compile)
    model, inputs = torch.nn.Linear(3, 2), torch.ones(1, 3)
    names = [*model.state_dict()]
    compile_for_training(model)
    assert torch.equal(model(inputs), model.eval()(inputs))
    assert compiled == ["reduce-overhead"]
    assert [*model.state_dict()] == names


@pytest.mark.parametrize("num_layers", [4, 8])
def test_the_skip_that_the_depth_decides_is_written_down(num_layers):
    config = DWSNetConfig(num_layers=num_layers)
    assert config.identity()["skip"] is (num_layers == 8)
    assert DWSNetConfig(**config.identity()).identity() == config.identity()


def test_the_warning_comes_before_training_starts(tmp_path, monkeypatch, caplog):
    """For an imported zoo of MLPs of 784 pixels without activations, which are not needed."""
    for i in range(30):
        shapes = {"seq.0.weight": (4, 784), "seq.0.bias": (4,), "seq.1.weight": (3, 4)}
        state = OrderedDict((name, torch.randn(shape)) for name, shape in shapes.items())
        folder = tmp_path / "in" / f"mnist_png_training_{i % 3}_{i}" / "checkpoints"
        save(state | {"seq.1.bias": torch.randn(3)}, folder / "model_final.pth")
    bring_in("dwsnets", tmp_path / "in", tmp_path / "zoo", splits="drawn")
    warned = []
    monkeypatch.setattr("flows.stages.learn.launch_training", lambda *_: warned.append(caplog.text))
    recipe = smoke()
    training = recipe.training.model_copy(update={"batch_size": 8})
    learn.train(tmp_path / "zoo", tmp_path / "run", training, recipe.resources)
    (text,) = warned
    assert "'layer0' of its networks had a single entry instead of 784" in text


def test_canonical_signs_of_networks_without_biases_are_refused_before_anything_is_trained():
    space = WeightSpace.from_shapes({"layers.0.weight": (5, 2), "layers.1.weight": (3, 5)})
    for kind in (DWSNetConfig, FlatMLPConfig):
        plain, canonical = (
            TrainingConfig(encoder=kind(canonical_signs=signs)) for signs in (False, True)
        )
        build_model(plain, space, TEN, ())
        with pytest.raises(
            InputError, match=r"cannot read the networks of the zoo: hidden axis .*bias"
        ):
            build_model(canonical, space, TEN, ())


@pytest.mark.parametrize("baselines", [("mpl",), ("mlp", "mlp"), ("mine:encoder",)])
def test_baselines_are_kinds_of_encoder_each_once(baselines):
    with pytest.raises(
        ValueError, match="each should be a different one of dwsnet, message-passing, mlp, "
    ):
        TrainingConfig(baselines=baselines)


def test_the_model_of_a_run_is_not_its_own_baseline():
    training = TrainingConfig(encoder=FlatMLPConfig(), baselines=("mlp", "statistics"), seeds=2)
    models = [(variant.baseline, variant.seed) for variant in variants(training)]
    assert models == [(None, 0), (None, 1), ("statistics", 0), ("statistics", 1)]
