"""Zoos of classifiers in the archive: members, splits, contract, bytes, pictures, exchange."""

import csv
import gzip
import json
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn
from torch.nn import functional as F

from flows.cli import main
from flows.overrides import resolve_recipe
from flows.recipes import cifar_binary, mlps
from pipeline.archive.summary import summarize
from pipeline.archive.verify import verify_zoo
from pipeline.archive.write import seal_zoo
from pipeline.archive.zoo import Zoo, column
from pipeline.config import (
    ClassifierConfig,
    ClassifierZooConfig,
    HyperparametersConfig,
    SignalsConfig,
)
from pipeline.errors import ArchiveError, InputError
from pipeline.exchange.exporting import export_zoo
from pipeline.fit.classifiers import StackTraining
from pipeline.progress import no_progress
from pipeline.signals import Signals, load_signals
from pipeline.tasks.classification import Classification
from pipeline.tasks.masked import Masked
from pipeline.tasks.task import Evaluation
from pipeline.training.probe import known_of
from pipeline.zoos import classifiers
from pipeline.zoos.build import fit_shard, plan_zoo
from pipeline.zoos.classifiers import Classifiers
from pipeline.zoos.splits import split_sources
from tests.pipeline.foreign import bring_in
from tests.pipeline.worlds import without_ray

SETTINGS = [
    "zoo.num_runs=24",
    "zoo.signals.limit=300",
    "zoo.hyperparameters.epochs=[1, 3]",
    "zoo.checkpoints=[0, 2]",
]
SETTINGS += ["zoo.shard_size=8", "zoo.network.hidden=[6]"]
DIGITS = load_signals(SignalsConfig(limit=300))


def made(config: ClassifierZooConfig, folder: Path, signals: Signals | None = None) -> Zoo:
    plan = plan_zoo(config, folder, signals)
    for shard in plan.shards:
        fit_shard(config, folder, plan.signals, shard)
    return seal_zoo(folder)


def small(**changes) -> ClassifierZooConfig:
    hyperparameters = mlps().zoo.hyperparameters.model_copy(update={"epochs": (1, 3)})
    config = mlps().zoo.model_copy(
        update={
            "signals": SignalsConfig(limit=300),
            "num_runs": 24,
            "hyperparameters": hyperparameters,
            "checkpoints": (0, 2),
            "shard_size": 8,
            "network": ClassifierConfig(hidden=(6,)),
        }
    )
    return config.model_copy(update=changes)


@pytest.fixture(scope="module")
def mlp_zoo(tmp_path_factory) -> Zoo:
    """24 MLPs of all activations with two or three checkpoints each. Read only."""
    return made(small(), tmp_path_factory.mktemp("mlps") / "zoo")


def coloured() -> Signals:
    rng = np.random.default_rng(0)
    values = (
        (DIGITS.values * rng.random((300, 1, 1, 3), np.float32) + 0.1).clip(0, 1).astype(np.float32)
    )
    values[7] = np.nan
    return Signals("coloured", values, DIGITS.labels, DIGITS.class_names, np.arange(300) >= 240)


@pytest.fixture(scope="module", params=[False, True], ids=["colour", "grey"])
def pair_zoo(request, tmp_path_factory) -> Zoo:
    """Twelve CNNs that tell two digits apart; one coloured image is unreadable. Read only."""
    network = ClassifierConfig(kind="cnn", hidden=(5, 4), grey=request.param)
    signals = SignalsConfig(source="tests.pipeline.test_classifier_zoo:coloured")
    config = cifar_binary().zoo.model_copy(
        update={"num_runs": 12, "network": network, "signals": signals, "batch_size": 8}
    )
    return made(config, tmp_path_factory.mktemp("pairs") / "zoo", coloured())


def check_scores(zoo: Zoo, signals: Signals, index: int):
    """The catalog's losses and accuracies, from the images and `zoo.module` alone."""
    row, module = zoo.catalog.slice(index, 1).to_pylist()[0], zoo.module(index)
    for split, images in split_sources(zoo.record.config, signals).items():
        images = images[np.isfinite(signals.values[images]).all((1, 2, 3))]
        classes = (
            range(len(signals.class_names))
            if row["class_0"] is None
            else (row["class_0"], row["class_1"])
        )
        images = images[np.isin(signals.labels[images], list(classes))]
        labels = torch.tensor([classes.index(label) for label in signals.labels[images].tolist()])
        logits = module(torch.from_numpy(signals.values[images]).movedim(-1, 1))
        if split != "train" or row["train_fraction"] == 1:
            assert F.cross_entropy(logits, labels).item() == pytest.approx(
                row[f"{split}_loss"], rel=1e-4
            )
            assert (logits.argmax(1) == labels).float().mean().item() == pytest.approx(
                row[f"{split}_accuracy"]
            )


def test_modules_of_all_activations_score_what_the_catalog_says(mlp_zoo):
    activations = column(mlp_zoo.catalog, "activation")
    assert set(activations) == {"relu", "tanh", "sigmoid", "gelu", "sine"}
    for activation in sorted(set(activations)):
        check_scores(mlp_zoo, DIGITS, int(np.flatnonzero(activations == activation)[-1]))
    state = mlp_zoo.module(3).state_dict()
    assert all(torch.equal(tensor, mlp_zoo[3][name]) for name, tensor in state.items())


def test_cnns_of_two_classes_score_what_the_catalog_says(pair_zoo):
    for index in range(0, 12, 3):
        check_scores(pair_zoo, coloured(), index)
    pairs = set(
        zip(*(pair_zoo.catalog[name].to_pylist() for name in ("class_0", "class_1")), strict=True)
    )
    assert len(pairs) > 5
    shapes = {
        name: shape for name, shape in pair_zoo.record.tensors.items() if name.endswith("weight")
    }
    inputs = 1 if pair_zoo.record.config.network.grey else 3
    assert list(shapes.values()) == [(5, inputs, 3, 3), (4, 5, 3, 3), (2, 4)]


def test_a_checkpoint_is_a_member_and_training_shows(mlp_zoo):
    table = mlp_zoo.catalog.to_pandas()
    epochs = {run: rows["epoch"].tolist() for run, rows in table.sort_values("view").groupby("run")}
    assert {tuple(part) for part in epochs.values()} == {(0, 1), (0, 2, 3)}
    assert (
        table["stop_reason"] == np.where(table.epoch == table.epochs, "epochs", "checkpoint")
    ).all()
    assert (table["steps"] == table["epoch"] * (212 // 32)).all()
    best = table.sort_values("test_accuracy").iloc[-1]
    assert best["epoch"] > 1
    assert best["test_accuracy"] > 0.35
    assert abs(table[table.epoch == 0]["test_accuracy"].mean() - 0.1) < 0.05
    assert table["key"].is_unique


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    num_runs=st.integers(10, 80),
    epochs=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    checkpoints=st.lists(st.integers(0, 9), max_size=5),
    shard_size=st.integers(1, 40),
)
def test_all_checkpoints_of_a_run_are_on_one_side_and_in_one_shard(
    seed, num_runs, epochs, checkpoints, shard_size
):
    hyperparameters = HyperparametersConfig(epochs=tuple(epochs))
    config = small(
        seed=seed, num_runs=num_runs, checkpoints=tuple(checkpoints), shard_size=shard_size
    )
    config = config.model_copy(update={"hyperparameters": hyperparameters, "validation_runs": 0.2})
    shards = Classifiers(config, DIGITS).plan_shards()
    place = {}
    for shard in shards:
        assert len(np.unique(shard.source_index)) <= shard_size
        for run in np.unique(shard.source_index).tolist():
            assert place.setdefault(run, shard.name) == shard.name
            views = shard.view[shard.source_index == run].tolist()
            assert views == list(range(len(views)))
            assert len(views) >= 1
    assert sorted(place) == list(range(num_runs))
    assert {shard.split for shard in shards} == {"train", "validation", "test"}


def test_the_split_of_runs_is_not_that_of_images(mlp_zoo):
    assert summarize(mlp_zoo)["splits"].keys() == {"train", "validation", "test"}
    assert (
        mlp_zoo.record.config.validation_runs
        == mlp_zoo.record.config.signals.validation_fraction
        == 0.1
    )
    runs = mlp_zoo.catalog.to_pandas().groupby("split")["run"].nunique().to_dict()
    assert runs == {"train": 17, "validation": 2, "test": 5}
    other = small(signals=SignalsConfig(limit=300, validation_fraction=0.3))
    shards = [Classifiers(config, DIGITS).plan_shards() for config in (small(), other)]
    assert all(
        np.array_equal(one.source_index, two.source_index) for one, two in zip(*shards, strict=True)
    )


def test_the_command_makes_the_same_bytes_and_goes_on(command, mlp_zoo, tmp_path):
    arguments = [
        "zoo",
        "build",
        "mlps",
        "--out",
        tmp_path,
        *(part for setting in SETTINGS for part in ("--set", setting)),
    ]
    with without_ray():
        result = command(*arguments)
    assert result.code == 0, result.err
    assert "classifiers fitted at" in result.out
    assert "mean test accuracy" in result.err
    files = [path.relative_to(mlp_zoo.folder) for path in mlp_zoo.folder.glob("*/*-*")]
    assert len(files) == 2 * len(mlp_zoo.record.shards)
    assert all(
        (mlp_zoo.folder / file).read_bytes() == (tmp_path / file).read_bytes() for file in files
    )
    (tmp_path / "catalog" / "test-000000.parquet").unlink()
    plan = plan_zoo(mlp_zoo.record.config, tmp_path)
    fit_shard(
        plan.record.config,
        tmp_path,
        plan.signals,
        next(shard for shard in plan.shards if shard.split == "test"),
    )
    assert verify_zoo(seal_zoo(tmp_path)) == []
    assert all(
        (mlp_zoo.folder / file).read_bytes() == (tmp_path / file).read_bytes() for file in files
    )


def test_runs_that_diverge_keep_their_rows(tmp_path):
    hyperparameters = HyperparametersConfig(
        activation=("relu",), optimizer=("sgd",), learning_rate=(0.01, 1e30), epochs=(2,)
    )
    zoo = made(small(hyperparameters=hyperparameters, checkpoints=(0,)), tmp_path)
    assert verify_zoo(zoo) == []
    table = zoo.catalog.to_pandas()
    wild = (table["learning_rate"] > 1) & (table["epoch"] > 0)
    assert 0 < wild.sum() < len(table)
    assert (
        table["stop_reason"]
        == np.where(wild, "diverged", np.where(table.epoch == 2, "epochs", "checkpoint"))
    ).all()
    assert table[wild][["test_loss", "train_accuracy", "block"]].isna().all(axis=None)
    with pytest.raises(ArchiveError, match=r"has no weights: its fit failed \(diverged\)"):
        zoo[int(np.flatnonzero(wild)[0])]


def test_info_and_render_show_accuracies(mlp_zoo, tmp_path, capsys):
    assert main(["zoo", "info", str(mlp_zoo.folder)]) == 0
    shown = capsys.readouterr().out
    assert "test accuracy" in shown
    assert "psnr" not in shown
    assert summarize(mlp_zoo)["runs"] == 24
    assert main(["zoo", "render", str(mlp_zoo.folder), "--out", str(tmp_path / "zoo.png")]) == 0
    with Image.open(tmp_path / "zoo.png") as picture:
        assert picture.size[0] > 1500
        assert len(np.unique(np.asarray(picture.convert("L")))) > 50


def test_the_card_of_a_published_zoo_shows_accuracies(mlp_zoo, tmp_path):
    export_zoo(mlp_zoo, "huggingface", tmp_path / "out", no_progress)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "![How accurate the members are, and what accuracy depends on.](members.png)" in card
    assert "| `test_accuracy` | float64 | on the test images |" in card
    assert re.search(r"\| image \| `{.*\"mean\": \[", card)
    assert "class_label" not in card


def test_what_cannot_be_learned_is_said_in_a_sentence(mlp_zoo, tmp_path):
    from flows.run import run_stages

    recipe = resolve_recipe("mlps", ["training.task.kind=classification"])
    with pytest.raises(InputError, match="has no column 'label' to learn from"):
        run_stages(recipe, tmp_path / "run")
    assert not any((tmp_path / "run" / "zoo").rglob("*.tar"))
    with pytest.raises(InputError, match="has no column 'label' to learn from"):
        Classification().check(mlp_zoo)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (
            "zoo.test_runs=0",
            "the test split of the zoo would be empty: 1000 runs with .* test_runs 0.0",
        ),
        (
            "zoo.signals.source=sines",
            r"classifiers take images, signals sines have a grid \(2000,\)",
        ),
        (
            "zoo.classes=pairs;zoo.signals.limit=40",
            "the validation images of digits must have one of '[0-9]' or more, found none",
        ),
        ("zoo.hyperparameters.dropout=1", "at least 0 and below 1, got 1"),
        (
            "zoo.hyperparameters.learning_rate=loguniform(0, 1)",
            r"'uniform\(a, b\)' or 'loguniform\(a, b\)', above 0 and at most 1e\+30, got",
        ),
        ("zoo.hyperparameters.activation=[]", "zoo.hyperparameters.activation: .* at least 1 item"),
    ],
)
def test_a_callers_mistake_is_named(setting, message, tmp_path):
    from flows.overrides import resolve_recipe

    with pytest.raises(InputError, match=message):
        plan_zoo(resolve_recipe("mlps", setting.split(";")).zoo, tmp_path)
    assert not (tmp_path / "zoo.json").exists()


@pytest.mark.parametrize(
    "format", ["unterthiner", "modelzoos", "webdataset", "dwsnets", "fit-a-nef"]
)
def test_classifiers_go_out_and_come_back(pair_zoo, tmp_path, format):
    assert export_zoo(pair_zoo, format, tmp_path / "theirs", lambda number: None) == len(pair_zoo)
    back = bring_in(format, tmp_path / "theirs", tmp_path / "ours")
    before = {row["key"]: (row, i) for i, row in enumerate(pair_zoo.catalog.to_pylist())}
    assert {row["key"] for row in back.catalog.to_pylist()} == before.keys()
    for i, row in enumerate(back.catalog.to_pylist()):
        ours, place = before[row["key"]]
        same = [name for name in ours if name not in ("shard", "block", "row")]
        assert {name: row[name] for name in same} == {name: ours[name] for name in same}
        assert all(torch.equal(tensor, pair_zoo[place][name]) for name, tensor in back[i].items())
        images = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(i))
        theirs, ours = back.module(i)(images), pair_zoo.module(place)(images)
        assert torch.allclose(theirs, ours, rtol=1e-5, atol=1e-5)


def test_small_cnn_zoo_readers_find_their_columns(mlp_zoo, tmp_path):
    export_zoo(mlp_zoo, "unterthiner", tmp_path / "out", lambda number: None)
    with gzip.open(tmp_path / "out" / "metrics.csv.gz", "rt") as file:
        rows = list(csv.DictReader(file))
    theirs = (
        "activation",
        "dropout",
        "epochs",
        "l2reg",
        "learning_rate",
        "optimizer",
        "train_fraction",
        "w_init",
    )
    expected = {"modeldir", "step", *(f"config.{name}" for name in theirs)}
    expected |= {
        f"{split}_{score}" for split in ("train", "test") for score in ("loss", "accuracy")
    }
    assert expected <= rows[0].keys()
    final = {row["modeldir"]: row for row in rows if row["step"] == row["config.epochs"]}
    assert len(final) == 24
    last = mlp_zoo.catalog.filter(pc.field("stop_reason") == "epochs").to_pylist()[4]
    assert float(final[last["run"]]["test_accuracy"]) == pytest.approx(last["test_accuracy"])
    assert float(final[last["run"]]["config.l2reg"]) == pytest.approx(last["weight_decay"])


def test_small_cnn_zoo_readers_find_the_layers_by_their_names(pair_zoo, tmp_path):
    export_zoo(pair_zoo, "unterthiner", tmp_path / "out", lambda number: None)
    layout = {
        row["varname"]: row["shape"]
        for row in csv.DictReader((tmp_path / "out" / "layout.csv").open())
    }
    inputs = 1 if pair_zoo.record.config.network.grey else 3
    assert layout == {
        "sequential/conv2d/kernel:0": f"(3, 3, {inputs}, 5)",
        "sequential/conv2d/bias:0": "(5,)",
        "sequential/conv2d_1/kernel:0": "(3, 3, 5, 4)",
        "sequential/conv2d_1/bias:0": "(4,)",
        "sequential/dense/kernel:0": "(4, 2)",
        "sequential/dense/bias:0": "(2,)",
    }


def test_modelzoos_readers_find_an_epoch_a_line(mlp_zoo, tmp_path):
    export_zoo(mlp_zoo, "modelzoos", tmp_path / "out", lambda number: None)
    last = mlp_zoo.catalog.filter(pc.field("epoch") == 3).to_pylist()[2]
    run = tmp_path / "out" / last["run"]
    params = json.loads((run / "params.json").read_text())
    assert (params["model::nlin"], params["model::init_type"]) == (last["activation"], last["init"])
    assert (params["optim::lr"], params["optim::wd"]) == (
        last["learning_rate"],
        last["weight_decay"],
    )
    assert (params["optim::optimizer"], params["seed"]) == (last["optimizer"], last["seed"])
    lines = [json.loads(line) for line in (run / "result.json").read_text().splitlines()]
    assert [line["training_iteration"] for line in lines] == [0, 1, 2, 3]
    assert lines[3]["test_acc"] == pytest.approx(last["test_accuracy"])
    assert "test_acc" not in lines[1]
    assert sorted(path.name for path in run.glob("checkpoint_*")) == [
        f"checkpoint_{epoch:06d}" for epoch in (0, 2, 3)
    ]


def test_classifiers_are_of_no_class_though_their_images_are(mlp_zoo, tmp_path):
    assert len(mlp_zoo.record.signals.class_names) == 10
    assert mlp_zoo.record.class_names == ()
    count = len(mlp_zoo.members("test"))
    vectors = np.random.default_rng(0).random((3, count))
    table = pa.table({f"embedding_{i}": numbers for i, numbers in enumerate(vectors)})
    evaluation = Evaluation(mlp_zoo, nn.Identity(), {}, table)
    (figure,) = Masked().figures({"split": "test"}, evaluation)
    figure.draw(tmp_path / figure.file)
    assert (tmp_path / figure.file).stat().st_size
    with pytest.raises(InputError, match=r"nothing is known about the signals of zoo .* --target"):
        known_of(mlp_zoo)


@pytest.mark.fast
def test_the_time_of_a_fit_is_forecast_by_its_steps_and_what_is_scored(monkeypatch):
    """Each step of a run takes a second, and each batch that is scored a tenth."""
    config = resolve_recipe("mlps", SETTINGS).zoo
    kind = Classifiers(config, DIGITS)
    (shard, *_), times = kind.plan_shards(), iter([8.0, 0.8])  # of the 8 runs of a shard
    done = dict.fromkeys(("steps", "batches"), 0)

    def count(name, of, counted):
        called = getattr(StackTraining, name)

        def call(training, *arguments):
            done[counted] += of(training, *arguments)
            return called(training, *arguments)

        monkeypatch.setattr(StackTraining, name, call)

    def batches(training, index, split):
        return sum(-(-len(pool) // config.batch_size) for pool in training.scored[split][index])

    monkeypatch.setattr(classifiers, "median_seconds", lambda *_: next(times))
    monkeypatch.setattr(classifiers, "seconds_of", lambda work, _: work() or 0.0)
    found = kind.fit_seconds([shard], "cpu", 1.0)
    count("take_step", lambda training, _: len(training.rows), "steps")
    count("score", batches, "batches")
    kind.fit_members(shard, "cpu", no_progress)
    assert min(done.values()) > 50
    assert found == pytest.approx(done["steps"] + 0.1 * done["batches"])
