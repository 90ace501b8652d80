"""Many classifiers at once against one at a time: autograd, torch.optim, single runs."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from dwsnet.state import unpack
from dwsnet.weight_space import WeightSpace
from pipeline.config import ClassifierZooConfig, HyperparametersConfig
from pipeline.distributions import draw, ends
from pipeline.fit.classifiers import train_runs
from pipeline.fit.dataset import ImageDataset, epoch_order, order_keys
from pipeline.fit.runs import Runs, checkpoint_epochs, draw_runs, initial_rows
from pipeline.fit.stack import Stack

pytestmark = pytest.mark.fast

TORCH = {
    "relu": torch.relu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "gelu": F.gelu,
    "sine": torch.sin,
}
OPTIM = {
    "sgd": torch.optim.SGD,
    "momentum": torch.optim.SGD,
    "adam": torch.optim.Adam,
    "rmsprop": torch.optim.RMSprop,
}
SPACES = {"mlp": WeightSpace.mlp((2 * 6 * 9, 7, 5, 4)), "cnn": WeightSpace.cnn(2, (6, 5), 3, 4)}
IMAGES = torch.rand(120, 2, 6, 9, generator=torch.Generator().manual_seed(0))
LABELS = np.arange(120) % 4
SPLITS = {"train": np.arange(80), "validation": np.arange(80, 95), "test": np.arange(95, 120)}
DATASET = ImageDataset(IMAGES, LABELS, SPLITS, 4, None)
BATCH = 16


def config(**hyperparameters) -> ClassifierZooConfig:
    every = {
        "activation": tuple(TORCH),
        "optimizer": tuple(OPTIM),
        "learning_rate": "loguniform(1e-3, 1e-2)",
    }
    return ClassifierZooConfig(
        hyperparameters=HyperparametersConfig(**every | {"epochs": (2, 3)} | hyperparameters)
    )


def drawn(count: int, **hyperparameters) -> Runs:
    return draw_runs(config(**hyperparameters), np.arange(count), 4)


def trained(kind: str, runs: Runs, checkpoints: tuple[int, ...] = ()):
    epochs = [
        checkpoint_epochs(ClassifierZooConfig(checkpoints=checkpoints), number)
        for number in runs["epochs"].tolist()
    ]
    stack = Stack(SPACES[kind], stride=2)
    return train_runs(stack, replace(DATASET, images=stack.prepare(IMAGES)), runs, epochs, BATCH)


def logits(kind: str, row: torch.Tensor, images: torch.Tensor, activation: str) -> torch.Tensor:
    """One network, in plain torch."""
    *hidden, (weight, bias) = zip(
        *[iter(tensor[0] for tensor in unpack(SPACES[kind], row).values())] * 2, strict=True
    )
    values = images.flatten(1) if kind == "mlp" else images
    for w, b in hidden:
        values = TORCH[activation](
            F.linear(values, w, b) if kind == "mlp" else F.conv2d(values, w, b, stride=2, padding=1)
        )
    return F.linear(values if kind == "mlp" else values.mean((2, 3)), weight, bias)


@pytest.mark.parametrize("kind", SPACES)
def test_gradients_are_those_of_autograd(kind):
    stack, index = Stack(SPACES[kind], stride=2), torch.arange(35).view(5, 7)
    rows = (
        torch.randn(
            5,
            stack.space.num_parameters,
            dtype=torch.float64,
            generator=torch.Generator().manual_seed(1),
        )
        / 3
    )
    targets, activations = (
        torch.from_numpy(LABELS)[index],
        [(slice(i, i + 1), name) for i, name in enumerate(TORCH)],
    )
    inputs = stack.inputs(stack.prepare(IMAGES.double()), index)
    found = stack.gradients(rows, inputs, targets, activations, None)
    for member, name in enumerate(TORCH):
        row = rows[member : member + 1].clone().requires_grad_()
        wanted = logits(kind, row, IMAGES[index[member]].double(), name)
        F.cross_entropy(wanted, targets[member]).backward()
        assert torch.allclose(found[member], row.grad[0], rtol=1e-9, atol=1e-12)
        assert torch.allclose(stack.logits(rows, inputs, activations)[member], wanted, rtol=1e-9)


@pytest.mark.parametrize("kind", SPACES)
@pytest.mark.parametrize("optimizer", OPTIM)
def test_training_is_that_of_torch_one_network_at_a_time(kind, optimizer):
    runs = drawn(4, optimizer=(optimizer,), weight_decay=0.01, train_fraction=(0.5, 1.0))
    found = trained(kind, runs)
    momentum = {"momentum": 0.9} if optimizer == "momentum" else {}
    for i, epochs in enumerate(runs["epochs"].tolist()):
        own = {name: column[i : i + 1] for name, column in runs.items()}
        (pool,), (key,) = DATASET.pools("train", own), order_keys(own)
        row = initial_rows(SPACES[kind], own).requires_grad_()
        optim = OPTIM[optimizer](
            [row], lr=float(own["learning_rate"][0]), weight_decay=0.01, **momentum
        )
        batches = [
            batch
            for epoch in range(epochs)
            for batch in epoch_order(pool, key, epoch, BATCH).reshape(-1, BATCH)
        ]
        for batch in batches:
            optim.zero_grad()
            F.cross_entropy(
                logits(kind, row, IMAGES[batch], own["activation"][0]),
                torch.from_numpy(LABELS[batch]),
            ).backward()
            optim.step()
        assert torch.allclose(found.rows[i], row.detach()[0], rtol=1e-3, atol=2e-5)
        assert found.steps[i] == len(batches) == epochs * (len(pool) // BATCH)
    assert len({len(pool) for pool in DATASET.pools("train", runs)}) == 2


@pytest.mark.parametrize("kind", SPACES)
def test_a_run_does_not_depend_on_its_neighbours_and_comes_out_the_same_again(kind):
    runs = drawn(
        9,
        dropout="uniform(0, 0.5)",
        train_fraction="uniform(0.3, 1)",
        optimizer=("momentum", "adam"),
    )
    together, again = trained(kind, runs, (0, 1)), trained(kind, runs, (0, 1))
    assert torch.equal(together.rows, again.rows)
    of_run = np.repeat(np.arange(9), [len({0, 1, epochs}) for epochs in runs["epochs"]])
    for i in (2, 7):
        alone = trained(kind, {name: column[i : i + 1] for name, column in runs.items()}, (0, 1))
        assert torch.allclose(alone.rows, together.rows[of_run == i], rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(
            alone.scores["test_loss"], together.scores["test_loss"][of_run == i], rtol=1e-4
        )


@pytest.mark.parametrize("kind", SPACES)
def test_a_run_that_diverges_fails_from_then_on_and_does_not_disturb_the_others(kind):
    runs = drawn(4, optimizer=("sgd",), activation=("relu",))
    quiet = trained(kind, runs, (0, 1))
    runs["learning_rate"][1] = 1e30
    found = trained(kind, runs, (0, 1))
    wild = np.repeat(np.arange(4), [len({0, 1, epochs}) for epochs in runs["epochs"]]) == 1
    assert (found.ok[wild].tolist(), found.steps[wild].tolist()) == (
        [True, False, False],
        [0, 5, 5],
    )
    assert found.ok[~wild].all()
    assert torch.allclose(found.rows[~wild], quiet.rows[~wild], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("kind", SPACES)
def test_scores_are_those_of_the_weights_as_stored(kind):
    runs = drawn(3, dropout=0.4)
    found = trained(kind, runs)
    for i, (row, activation) in enumerate(zip(found.rows, runs["activation"], strict=True)):
        for split, images in SPLITS.items():
            wanted, labels = (
                logits(kind, row[None], IMAGES[images], activation),
                torch.from_numpy(LABELS[images]),
            )
            assert found.scores[f"{split}_loss"][i] == pytest.approx(
                F.cross_entropy(wanted, labels).item(), rel=1e-5
            )
            assert found.scores[f"{split}_accuracy"][i] == pytest.approx(
                (wanted.argmax(1) == labels).float().mean().item()
            )


def test_dropout_changes_training_and_its_share_is_that_of_the_run():
    from pipeline.fit.classifiers import StackTraining

    runs = drawn(3, dropout=(0.25,)) | {"dropout": np.array([0.25, 0.0, 0.8])}
    stack = Stack(SPACES["mlp"], stride=2)
    due = [{10: i} for i in range(3)]
    training = StackTraining(
        stack,
        DATASET,
        stack.prepare(IMAGES),
        runs,
        DATASET.pools("train", runs),
        np.full(3, 5),
        due,
        4000,
    )
    first, second = training.masks(7)
    assert (first.shape, second.shape) == ((3, 4000, 7), (3, 4000, 5))
    assert (first == 0).float().mean((1, 2)).tolist() == pytest.approx([0.25, 0, 0.8], abs=0.01)
    assert first.mean((1, 2)).tolist() == pytest.approx([1, 1, 1], abs=0.05)
    assert torch.equal(first, training.masks(7)[0])
    assert not torch.equal(first, training.masks(8)[0])


def test_pairs_of_classes_are_learned_as_two_outputs():
    runs = draw_runs(config().model_copy(update={"classes": "pairs"}), np.arange(30), 4)
    assert (runs["class_0"] < runs["class_1"]).all()
    assert len(set(zip(runs["class_0"].tolist(), runs["class_1"].tolist(), strict=True))) == 6
    for pool, one, two in zip(
        DATASET.pools("test", runs), runs["class_0"], runs["class_1"], strict=True
    ):
        assert set(LABELS[pool]) == {one, two}
    outputs = DATASET.outputs(runs).numpy()
    assert (outputs[np.arange(30), runs["class_0"]] == 0).all()
    assert (outputs[np.arange(30), runs["class_1"]] == 1).all()


def test_what_a_run_draws_is_its_own():
    every = drawn(400, dropout="uniform(0, 0.5)")
    one = draw_runs(config(dropout="uniform(0, 0.5)"), np.array([17]), 4)
    assert all(column[0] == every[name][17] for name, column in one.items())
    assert set(every["activation"].tolist()) == set(TORCH)
    assert np.median(every["learning_rate"]) == pytest.approx(10**-2.5, rel=0.15)
    assert every["dropout"].mean() == pytest.approx(0.25, abs=0.03)
    assert abs(np.corrcoef(np.log(every["learning_rate"]), every["dropout"])[0, 1]) < 0.15
    assert len(np.unique(every["seed"])) == 400


@given(
    low=st.floats(1e-9, 1e3),
    factor=st.floats(1, 1e6),
    share=st.floats(0, 1, exclude_max=True),
    kind=st.sampled_from(["uniform", "loguniform"]),
)
def test_draws_stay_in_their_range_and_grow_with_their_share(low, factor, share, kind):
    distribution = f"{kind}({low!r}, {low * factor!r})"
    assert ends(distribution) == (low, low * factor)
    assert (
        low * (1 - 1e-9) <= draw(distribution, share / 2) <= draw(distribution, share) * (1 + 1e-9)
    )
    assert draw(distribution, share) <= low * factor * (1 + 1e-9)


@pytest.mark.parametrize(
    ("init", "deviation"),
    [("he_normal", (2 / 18) ** 0.5), ("glorot_uniform", (2 / (18 + 54)) ** 0.5), ("normal", 0.05)],
)
def test_initial_weights_have_the_deviation_of_their_scheme(init, deviation):
    space = SPACES["cnn"]
    runs = drawn(300, init=(init,), init_scale=(2.0,))
    weight, bias = [*unpack(space, initial_rows(space, runs)).values()][:2]
    assert weight.std().item() == pytest.approx(2 * deviation, rel=0.02)
    assert not bias.any()
    assert (weight.abs().max() <= 2 * deviation * 3**0.5) == init.endswith("uniform")
