"""Probes read the target, use only members they may know, and choose penalties by validation."""

import numpy as np
import pytest

from pipeline.errors import InputError
from pipeline.tasks.contrastive import Contrastive
from pipeline.training import probe as probing
from pipeline.training.config import FinetuneConfig, TrainingConfig
from pipeline.training.probe import Target, drawn, known_of, probe_table, readings, target_of
from pipeline.training.transfer import TRANSFERS

pytestmark = pytest.mark.fast


def features(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, 5))


@pytest.fixture
def parts():
    return {"train": features(300, 0), "validation": features(80, 1), "test": features(90, 2)}


def read(parts, values, is_class, labelled=300):
    known = {split: np.ones(len(x), bool) for split, x in parts.items()}
    target = Target("target", values, known, is_class)
    mask = np.arange(300) < labelled
    found = readings(target, {"vectors": parts}, labelled / 300, mask)
    return {reading.reader: reading for reading in found}


def test_numbers_that_are_linear_in_the_vectors_are_read_exactly(parts):
    weights = np.array([1.0, -2.0, 0.5, 0.0, 3.0])
    found = read(parts, {split: x @ weights + 7 for split, x in parts.items()}, False)
    assert [*found] == ["mean", "vectors, ridge regression", "vectors, least squares"]
    assert found["vectors, least squares"].metrics["mse"] < 1e-12
    assert found["vectors, ridge regression"].metrics["r2"] > 0.999
    assert found["vectors, ridge regression"].strength == min(probing.RIDGE)
    assert found["mean"].metrics["r2"] < 0.01


def test_numbers_that_are_not_in_the_vectors_are_not_read(parts):
    noise = {split: features(len(x), 9)[:, 0] for split, x in parts.items()}
    found = read(parts, noise, False, labelled=20)
    assert found["vectors, ridge regression"].metrics["r2"] < 0.1
    assert found["vectors, ridge regression"].strength > min(probing.RIDGE)


def test_classes_are_read_by_few_labels_and_better_by_all(parts):
    labels = {split: (x[:, 0] > 0).astype(np.int64) + (x[:, 1] > 0) for split, x in parts.items()}
    few, every = (read(parts, labels, True, labelled=size) for size in (24, 300))
    name = "vectors, softmax regression"
    assert few[name].num_members == 24
    assert few[name].metrics["accuracy"] < every[name].metrics["accuracy"]
    assert every[name].metrics["accuracy"] > every["most frequent class"].metrics["accuracy"] + 0.2


def test_members_of_a_share_are_those_that_training_takes(zoo):
    from pipeline.training.loader import Feed

    mask = drawn(zoo, 0.1, seed=3)
    chosen = Feed(zoo, "train", (), members=mask.sum(), seed=3).positions
    every = Feed(zoo, "train", ()).positions
    assert np.array_equal(every[mask], chosen)
    assert mask.sum() == round(0.1 * len(every))
    assert not np.array_equal(mask, drawn(zoo, 0.1, seed=4))


def test_what_can_be_read_from_a_zoo(zoo):
    assert known_of(zoo)[0] == "label"
    assert not target_of(zoo, "seed").is_class  # larger than float64 tells apart
    target = target_of(zoo, "label")
    assert target.is_class
    assert [len(values) for values in target.values.values()] == [282, 38, 80]
    assert not target_of(zoo, "psnr").is_class
    with pytest.raises(InputError, match=r"has no column 'psrn' .* did you mean"):
        target_of(zoo, "psrn")
    with pytest.raises(InputError, match=r"'status' .* two values or more in each split"):
        target_of(zoo, "status")


def test_transfers_take_as_many_steps_at_every_share():
    training = TrainingConfig(
        task=Contrastive(positives="views"), batch_size=50, baselines=("mlp",)
    )
    made = [transfer.of("run", training, FinetuneConfig(epochs=3), 1000) for transfer in TRANSFERS]
    assert [config.members * config.passes for config in made] == [1000] * 6
    assert [config.start is None for config in made] == [False] * 3 + [True] * 3
    assert {config.task.kind for config in made} == {"classification"}
    assert {(config.epochs, config.baselines) for config in made} == {(3, ())}
    assert len({transfer.folder for transfer in TRANSFERS}) == 6


def test_one_table_has_all(parts):
    labels = {split: (x[:, 0] > 0).astype(np.int64) for split, x in parts.items()}
    few, every = (read(parts, labels, True, labelled=size) for size in (3, 300))
    table = probe_table([*few.values(), *every.values()])
    assert [*table.columns] == ["target", "read by", "1 % (3)", "100 % (300)"]
    assert [row[1] for row in table.rows] == ["most frequent class", "vectors, softmax regression"]
    assert all(cell.endswith(" %") for row in table.rows for cell in row[2:])


@pytest.mark.parametrize(
    ("scores", "cell"),
    [
        ({"accuracy": 0.5, "loss": 2.0}, "50.0 %"),
        ({"r2": 0.5, "mse": 2.0}, "0.500 (2)"),
        ({"mse": 2.0, "trivial_mse": 3.0}, "mse 2"),
        ({"quality_of_rank": 0.25, "loss": 2.0}, "quality of rank 0.25"),
    ],
)
def test_the_table_shows_a_transfer_to_any_task(scores, cell):
    scores = {"task": "any", "monitor": next(iter(scores))} | scores
    table = probe_table([TRANSFERS[0].reading(scores, 300)])
    assert [*table.rows] == [["any", "fine-tuned", cell]]
