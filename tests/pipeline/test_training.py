"""The loader's promises, the schedule, checkpoints and evaluation; the engine itself is tested through the command."""

import json
import re
from collections import OrderedDict
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pyarrow as pa
import pytest
import torch

from dwsnet.models import num_parameters
from dwsnet.set_attention import EquivariantAttention
from dwsnet.weight_space import WeightSpace
from flows import stages
from flows.recipes import smoke
from flows.stages import claim
from pipeline.archive.zoo import column
from pipeline.config import ModelConfig, TrainingConfig, identity_of_model
from pipeline.errors import InputError, WorkError
from pipeline.tasks.classification import (
    adapt_to,
    build_model,
    majority,
    warn_of_wide_axes,
)
from pipeline.training.checkpoint import EpochMetrics, best_epoch, load_best
from pipeline.training.engine import deepspeed_config, learning_rate_factor
from pipeline.training.evaluate import evaluate, predict
from pipeline.training.launch import check_batches, launch_training
from pipeline.training.loader import epoch_batches, num_batches, split_batches
from tests.pipeline.foreign import bring_in, save


def members(batches) -> list[bytes]:
    """One fingerprint for each member, in order."""
    rows = [
        torch.cat([tensor.flatten(1) for tensor in batch.state.values()], 1) for batch in batches
    ]
    return [row.numpy().tobytes() for batch in rows for row in batch]


def test_ranks_share_each_batch_and_the_order_does_not_depend_on_their_number(zoo):
    whole = list(epoch_batches(zoo, "train", 0, 1, 32))
    shares = [list(epoch_batches(zoo, "train", 0, 1, 32, rank, 4)) for rank in range(4)]
    assert {len(share) for share in shares} == {len(whole)} == {num_batches(zoo, "train", 32)}
    for k, batch in enumerate(whole):
        assert members([batch]) == members([share[k] for share in shares])


def test_an_epoch_holds_every_member_once_in_an_order_of_its_own(zoo):
    one, again, other = (members(epoch_batches(zoo, "train", 0, epoch, 1)) for epoch in (1, 1, 2))
    assert one == again
    assert one != other
    assert sorted(one) == sorted(other) == sorted(members(split_batches(zoo, "train")))
    assert len(set(one)) == len(zoo.members("train"))


def test_a_small_window_still_gives_every_member_once(zoo, monkeypatch):
    monkeypatch.setattr("pipeline.training.loader.WINDOW", 100)
    seen = members(epoch_batches(zoo, "train", 0, 1, 2))
    assert len(set(seen)) == len(seen) == len(zoo.members("train"))


def test_labels_go_with_their_members(zoo):
    labels = dict(
        zip(
            members(split_batches(zoo, "train")), column(zoo.members("train"), "label"), strict=True
        )
    )
    for batch in epoch_batches(zoo, "train", 0, 1, 16):
        assert [labels[member] for member in members([batch])] == batch.labels.tolist()


def test_ranks_share_a_split_without_overlap(zoo):
    shares = [members(split_batches(zoo, "train", rank, 3)) for rank in range(3)]
    assert sorted(member for share in shares for member in share) == sorted(
        members(split_batches(zoo, "train"))
    )


def test_batches_that_cannot_be_are_refused(zoo):
    config = TrainingConfig(batch_size=30)
    with pytest.raises(
        InputError, match=r"batch_size must be a multiple of resources\.workers \(4\), got 30"
    ):
        check_batches(zoo, config, 4)
    with pytest.raises(
        InputError, match="batch_size must be at most the 282 members of the train split, got 5000"
    ):
        check_batches(zoo, config.model_copy(update={"batch_size": 5000}), 2)


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
    claim(tmp_path, zoo.record, other)
    with pytest.raises(InputError, match=r"training\.batch_size"):
        claim(tmp_path, zoo.record, training)


def ray_failures():
    from ray import exceptions
    from ray.train import ControllerError, WorkerGroupError

    out_of_memory = exceptions.OutOfMemoryError("The node ran low on memory.\nRefer to the docs")
    raised = exceptions.RayError('ray::f()\n  File "f.py", line 1\nKeyError: 3')
    return [
        (out_of_memory, "The node ran low on memory."),
        (exceptions.ActorDiedError(), "The actor died unexpectedly before finishing this task."),
        (exceptions.LocalRayletDiedError(), "The task's local raylet died. Check raylet.out"),
        (ControllerError(out_of_memory), "The node ran low on memory."),
        (WorkerGroupError("...", {1: out_of_memory}), "The node ran low on memory."),
        (WorkerGroupError("...", {0: raised}), "KeyError: 3"),
    ]


def test_however_ray_fails_in_training_it_is_a_sentence(built_zoo, tmp_path, monkeypatch):
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

    for error, reason in ray_failures():
        monkeypatch.setattr(DataParallelTrainer, "fit", Mock(side_effect=error))
        with pytest.raises(WorkError) as caught:
            launch_training(
                built_zoo, tmp_path, smoke().training, smoke().resources, lambda run: None
            )
        assert str(caught.value).startswith(f"training of {tmp_path} failed: {reason}")
        assert "\n" not in str(caught.value)


def test_the_learning_rate_warms_up_and_ends_at_zero():
    factors = [learning_rate_factor(step, 100, 0.2) for step in range(101)]
    assert factors[0] == 1 / 20
    assert max(factors) == factors[19] == factors[20] == 1
    assert factors[100] == pytest.approx(0, abs=1e-12)
    assert all(a >= b for a, b in pairwise(factors[20:]))
    assert learning_rate_factor(0, 10, 0.0) == 1


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_the_global_batch_does_not_depend_on_the_workers(workers):
    config = deepspeed_config(TrainingConfig(batch_size=64), workers)
    assert config["train_batch_size"] == 64 == config["train_micro_batch_size_per_gpu"] * workers


@pytest.mark.parametrize("kind", ["mlp", "mlp-augmented", "mlp-aligned", "inr2vec", "transformer"])
def test_every_baseline_learns_and_has_as_many_parameters_as_the_dwsnet(zoo, kind):
    torch.manual_seed(0)
    dwsnet, baseline = (
        build_model(ModelConfig(kind=name), zoo.space, 10) for name in ("dwsnet", kind)
    )
    assert num_parameters(baseline) == pytest.approx(num_parameters(dwsnet), rel=0.02)
    batch = next(split_batches(zoo, "train"))
    adapt_to(zoo, baseline).train()
    optimizer = torch.optim.Adam(baseline.parameters(), lr=1e-3)
    losses = []
    for _ in range(8):
        losses.append(torch.nn.functional.cross_entropy(baseline(batch.state), batch.labels))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.9 * losses[0]


def test_the_dwsnet_attends_and_pools_as_it_is_told(zoo):
    model = build_model(ModelConfig(num_heads=2, pooling="max"), zoo.space, 10)
    layer = model.encoder.trunk.layers[0]
    assert isinstance(layer, EquivariantAttention)
    assert layer.pooling == "max"


@pytest.mark.parametrize("canonical", [True, False])
def test_the_classifier_ignores_the_order_of_hidden_units_and_the_baseline_does_not(zoo, canonical):
    from dwsnet.symmetry import permute, random_permutation

    batch = next(split_batches(zoo, "test"))
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
        model = build_model(ModelConfig(kind=kind, canonical_signs=canonical), zoo.space, 10)
        model = adapt_to(zoo, model).double().eval()
        one, other = (
            model({name: x.double() for name, x in state.items()}) for state in (batch.state, moved)
        )
        assert torch.allclose(one, other, atol=1e-10) == invariant


def test_the_best_epoch_is_the_first_with_the_highest_validation_accuracy():
    one = EpochMetrics(1, 2.0, 2.0, 0.4, 0.1, 1.0, 10.0)
    assert (
        best_epoch(
            [
                one,
                replace(one, epoch=2, validation_accuracy=0.6),
                replace(one, epoch=3, validation_accuracy=0.6),
            ]
        ).epoch
        == 2
    )


def test_a_folder_without_checkpoints_says_so(tmp_path):
    with pytest.raises(InputError, match="has no checkpoint: expected"):
        load_best(tmp_path)


def test_metrics_are_those_of_the_predictions(smoke_run):
    from pipeline.archive.zoo import Zoo

    trained, zoo = load_best(smoke_run.folder), Zoo.open(smoke_run.folder / "zoo")
    metrics = evaluate(trained, zoo, "test")
    assert metrics == json.loads((smoke_run.folder / "metrics.json").read_text())
    predictions = predict(trained, zoo, "test")
    labels = column(predictions.rows, "label")
    assert metrics["accuracy"] == (predictions.predicted == labels).mean()
    confusion = np.array(metrics["confusion"])
    assert confusion.sum() == metrics["num_members"] == 80
    assert np.trace(confusion) / confusion.sum() == metrics["accuracy"]
    np.testing.assert_array_equal(confusion.sum(1), np.bincount(labels, minlength=10))
    by_signal = {}
    for row, probabilities in zip(
        predictions.rows.to_pylist(), predictions.probabilities, strict=True
    ):
        total, _ = by_signal.get(row["source_index"], (0, None))
        by_signal[row["source_index"]] = (total + probabilities, row["label"])
    right = [total.argmax() == label for total, label in by_signal.values()]
    assert metrics["signal_accuracy"] == sum(right) / len(right)


def test_the_reference_of_an_accuracy_is_the_most_frequent_class_of_the_train_split():
    labels = {"train": [2, 2, 2, 0, 1], "test": [2, 2, 2, 2, 0, 0, 0, 1]}
    record = SimpleNamespace(signals=SimpleNamespace(class_names=("a", "b", "c")))
    zoo = SimpleNamespace(
        record=record, members=lambda split: pa.table({"label": pa.chunked_array([labels[split]])})
    )
    assert majority(zoo, "test") == ("c", 0.5)
    assert majority(zoo, "train") == ("c", 0.6)


@pytest.mark.parametrize(
    ("space", "axis"),
    [
        (WeightSpace.mlp((784, 32, 10)), "'layer0' of its networks had a single entry and not 784"),
        (WeightSpace.mlp((2, 32, 500)), "'layer2' of its networks had a single entry and not 500"),
        (WeightSpace.cnn(3, (8, 8), 11, 10), r"'layers\.0\.position0' .* and not 11"),
        (WeightSpace.mlp((2, 32, 32, 1)), None),
        (WeightSpace.mlp((2, 1024, 1024, 1)), None),
    ],
)
def test_a_model_that_is_large_by_a_wide_fixed_axis_is_warned_of(space, axis, caplog):
    config = ModelConfig(channels=16)
    warn_of_wide_axes(config, space, 10)
    if axis is None:
        assert not caplog.text
        return
    with torch.device("meta"):
        size = num_parameters(build_model(config, space, 10))
    assert f"the dwsnet has {size:,} parameters" in caplog.text
    assert re.search(f"the fixed axis {axis}", caplog.text)
    assert "dwsnet.downsample.DownsampledLinear" in caplog.text


def test_the_skip_is_written_down_and_older_files_had_none(zoo, tmp_path):
    """A run of a deep model that was started when there was no skip goes on without one, and is read without one."""
    for num_layers in (4, 8):
        config = TrainingConfig(model=ModelConfig(num_layers=num_layers))
        written = config.model.identity()
        assert written["skip"] is config.model.has_skips is (num_layers == 8)
        assert ModelConfig(**identity_of_model(written)) == ModelConfig(**written)
        older = {name: value for name, value in written.items() if name != "skip"}
        assert not ModelConfig(**identity_of_model(older)).has_skips

        run = tmp_path / str(num_layers)
        run.mkdir()
        claim(run, zoo.record, config)
        (run / "checkpoints" / "epoch-0001").mkdir(parents=True)
        content = json.loads((run / "config.json").read_bytes())
        del content["training"]["model"]["skip"]
        (run / "config.json").write_text(json.dumps(content))
        without = config.model.model_copy(update={"skip": False})
        claim(run, zoo.record, config.model_copy(update={"model": without}))
        if num_layers == 8:
            with pytest.raises(InputError, match=r"training.model.skip: was false, is true"):
                claim(run, zoo.record, config)
        else:
            claim(run, zoo.record, config)


def test_the_warning_comes_before_training_starts(tmp_path, monkeypatch, caplog):
    """Of an imported zoo of MLPs that take 784 pixels, which says nothing of its activations: none of them is needed."""
    for i in range(30):
        shapes = {"seq.0.weight": (4, 784), "seq.0.bias": (4,), "seq.1.weight": (3, 4)}
        state = OrderedDict((name, torch.randn(shape)) for name, shape in shapes.items())
        folder = tmp_path / "in" / f"mnist_png_training_{i % 3}_{i}" / "checkpoints"
        save(state | {"seq.1.bias": torch.randn(3)}, folder / "model_final.pth")
    bring_in("dwsnets", tmp_path / "in", tmp_path / "zoo", splits="drawn")
    warned = []
    monkeypatch.setattr(
        "pipeline.training.launch.launch_training", lambda *_: warned.append(caplog.text)
    )
    recipe = smoke()
    training = recipe.training.model_copy(update={"batch_size": 8})
    stages.train(tmp_path / "zoo", tmp_path / "run", training, recipe.resources)
    (text,) = warned
    assert "'layer0' of its networks had a single entry and not 784" in text
