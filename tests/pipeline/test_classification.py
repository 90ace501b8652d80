"""Classification: classes by any column, batches in training, and errors without classes."""

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch.nn import functional as F

from pipeline.archive.zoo import Zoo
from pipeline.errors import InputError
from pipeline.tasks.augmentation import Augmentation
from pipeline.tasks.classes import labels_of
from pipeline.tasks.classification import Classification, signal_accuracy
from pipeline.training.config import TrainingConfig
from pipeline.training.evaluate import as_table
from pipeline.training.loader import Feed
from pipeline.training.models import build_model, calibrate
from pipeline.training.scoring import add_up, sums_over

pytestmark = pytest.mark.fast

ENCODER = {"kind": "dwsnet", "channels": 8, "num_layers": 2, "width": 32}


def made(zoo: Zoo, task: Classification, encoder=ENCODER):
    """The model, and the members of the train split as one batch with their keys."""
    torch.manual_seed(0)
    config = TrainingConfig.model_validate({"encoder": encoder, "task": task})
    encoder, model = build_model(config, zoo.space, task.prepare(zoo), ())
    calibrate(encoder, zoo)
    task.attach(model, zoo)
    feed = Feed.of(task, zoo, "train")
    batch = next(feed.epoch(1, 64))
    return model, batch, feed.keys(1, batch)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"label_smoothing": 0.1, "dropout": 0.1},
        {"augmentation": Augmentation(noise=0.05, shift=0.1, rotation=10, zoom=1.1, signs=True)},
        {"mixup": 0.3},
    ],
    ids=["plain", "smoothing", "augmentation", "mixup"],
)
def test_it_learns_what_it_sees(zoo, changes):
    task = Classification(**changes)
    model, batch, keys = made(zoo, task)
    optimizer, losses = torch.optim.Adam(model.parameters(), lr=1e-2), []
    for _ in range(30):
        losses.append(task.loss(model.train(), batch, keys))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.8 * losses[0]


def test_the_loss_is_that_of_the_targets_it_says(zoo):
    model, batch, keys = made(zoo, Classification())
    model.eval()
    logits, labels = model(batch.state), batch.columns["label"]
    found = Classification(label_smoothing=0.2).loss(model, batch, keys)
    assert torch.allclose(found, F.cross_entropy(logits, labels, label_smoothing=0.2))
    mixed = Classification(mixup=0.3)
    assert torch.equal(mixed.loss(model, batch, keys), mixed.loss(model, batch, keys))
    assert not torch.isclose(mixed.loss(model, batch, keys), F.cross_entropy(logits, labels))
    order = torch.randperm(len(batch))
    again = mixed.loss(model, batch.take(order), keys[order])
    assert torch.allclose(again, mixed.loss(model, batch, keys), atol=1e-5)


def test_sums_add_up_and_members_without_finite_numbers_are_wrong(zoo):
    task = Classification()
    model, batch, _ = made(zoo, task)
    model.eval()
    parts = [batch.take(torch.arange(i, len(batch), 3)) for i in range(3)]
    whole, summed = sums_over(task, model, [batch]), sums_over(task, model, parts)
    for name, value in whole.items():
        torch.testing.assert_close(summed[name], value, rtol=1e-5, atol=1e-5)
    assert add_up([whole, {}]) == whole
    with torch.no_grad():
        model.head[-1].bias.fill_(torch.nan)
    assert task.metrics(sums_over(task, model, [batch]))["accuracy"] == 0
    with torch.no_grad():
        table = as_table(task, model, batch)
    assert table["predicted"].null_count == len(batch) == table["probability of 3"].null_count
    scores = task.scores(table.append_column("source_index", pa.array(range(len(batch)))))
    assert scores["signal_accuracy"] == 0
    assert np.sum(scores["confusion"]) == 0


def test_any_column_of_texts_or_whole_numbers_has_classes(zoo):
    """Which of its signal's two views is a network? It cannot be learned, but it can be asked."""
    task = Classification(column="view")
    task.check(zoo)
    assert task.prepare(zoo) == {"class_names": ["0", "1"], "majority": 0}
    model, batch, keys = made(zoo, task)
    assert task.loss(model, batch, keys).isfinite()
    assert set(task.labels(model, batch).tolist()) == {0, 1}
    with torch.no_grad():
        table = as_table(task, model, batch)
    rows = zoo.catalog.take(pa.array(batch.positions.tolist()))
    assert table["class"].to_pylist() == [str(view) for view in rows["view"].to_pylist()]
    source = rows.select(["source_index"])["source_index"]
    assert "signal_accuracy" not in task.scores(table.append_column("source_index", source))


def test_texts_are_classes_too_and_what_is_none_of_them_is_not_known():
    assert labels_of(["b", "a", None], "activation", ["a", "b"]).tolist() == [1, 0, -1]
    assert labels_of(torch.tensor([20, 3, -1]), "epoch", ["3", "20"]).tolist() == [1, 0, -1]
    assert labels_of(torch.tensor([2, 0, 1]), "label", ["x", "y"]).tolist() == [-1, 0, 1]


def test_signals_are_right_by_the_mean_over_their_members():
    votes = np.array([[0.9, 0.1], [0.3, 0.7], [0.2, 0.8], [0.0, 0.0]])
    source, labels = np.array([5, 5, 2, 7]), np.array([0, 0, 0, 1])
    assert signal_accuracy(source, labels, votes) == {"signal_accuracy": pytest.approx(1 / 3)}
    assert signal_accuracy(source, np.array([0, 1, 0, 1]), votes) == {}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"column": "lable"}, "has no column 'lable' to learn from: .*did you mean 'label'"),
        ({"column": "psnr"}, "column 'psnr' must hold strings, integers or booleans, found"),
        ({"column": "failure"}, "members have no 'failure'"),
    ],
    ids=["unknown", "numbers", "nulls"],
)
def test_what_are_no_classes_is_a_sentence(zoo, changes, message):
    with pytest.raises(InputError, match=message):
        Classification(**changes).check(zoo)


def test_augmentation_that_does_not_suit_is_refused_before_anything_is_trained(zoo):
    decode = zoo.record.decode.model_copy(update={"activations": ("relu", "relu", "linear")})
    record = zoo.record.model_copy(update={"decode": decode})
    other = Zoo(zoo.folder, record, zoo.shards, zoo._seal)
    with pytest.raises(InputError, match=r"training.task.augmentation.signs needs .* odd"):
        Classification(augmentation=Augmentation(signs=True)).check(other)
