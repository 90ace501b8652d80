"""Zoos as other programs write them, faults included: what is imported and what is reported."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from pipeline.config import ImportConfig
from pipeline.errors import InputError
from pipeline.exchange.importing import plan_import
from tests.pipeline.foreign import (
    Evil,
    arena_file,
    bring_in,
    mnist_tree,
    ray_run,
    rows_by,
    sample_tar,
    save,
    siren,
    small_cnn_zoo,
)

pytestmark = pytest.mark.fast


def test_folder_names_of_the_released_mnist_corpus_give_label_and_half(tmp_path):
    mnist_tree(tmp_path / "in", "training", range(20))
    mnist_tree(tmp_path / "in", "testing", range(10))
    zoo = bring_in(
        "dwsnets", tmp_path / "in", tmp_path / "out", omega=30, output_offset=0.5, activation="sine"
    )
    table = zoo.catalog.to_pandas()
    assert (
        len(table) == table["source_index"].nunique() == 30
    )  # image 7 of either half is another image
    assert set(table[table.half == "testing"]["split"]) == {"test"}
    assert table[table.half == "training"]["split"].value_counts().to_dict() == {
        "train": 17,
        "validation": 3,
    }
    row = rows_by(zoo, "source")["mnist_png_testing_1_7/checkpoints/model_final.pth"]
    assert (row["label"], zoo.record.signals.class_names) == (1, ("0", "1", "2"))
    expected = torch.load(tmp_path / "in" / row["source"], weights_only=True)
    assert torch.equal(row["state"]["layers.1.weight"], expected["seq.1.weight"])
    assert zoo.record.decode.activations == ("sine", "linear")
    assert (zoo.record.decode.omega, zoo.record.decode.coordinate_range) == (30.0, None)
    assert zoo.record.imported.tensors["layers.1.weight"] == ("seq.1.weight", (2, 3))


def test_what_cannot_be_read_is_recorded_and_nothing_is_executed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "in"
    for i in range(6):
        save(siren(i), root / "train" / f"model_{i}.pth")
    save(siren(7, hidden=4), root / "train" / "wide.pth")
    save({**siren(8), "seq.0.bias": torch.full((3,), torch.nan)}, root / "train" / "nan.pth")
    save({"state": Evil()}, root / "train" / "evil.pth")
    (root / "train" / "plain.pth").write_bytes(pickle.dumps(Evil()))
    (root / "train" / "cut.pth").write_bytes((root / "train" / "model_0.pth").read_bytes()[:500])
    save([1, 2], root / "train" / "list.pth")
    save(siren(9), tmp_path / "outside.pth")
    names = ["wide", "nan", "evil", "plain", "cut", "list", "gone", "../../outside"]
    paths = [
        f"/home/someone/dataset/in/train/{name}.pth"
        for name in [*(f"model_{i}" for i in range(5)), *names]
    ]
    splits = {
        "train": {"path": paths, "label": [0] * 13},
        "val": {"path": ["train/model_5.pth"], "label": ["1"]},
    }
    (root / "splits.json").write_text(json.dumps(splits))
    zoo = bring_in("dwsnets", root, tmp_path / "out")
    failed = {
        Path(row["source"]).stem: row["stop_reason"]
        for row in zoo.catalog.to_pylist()
        if row["status"] == "failed"
    }
    assert failed.keys() == {"wide", "nan", "evil", "plain", "cut", "list", "gone", "outside"}
    assert failed["wide"].startswith("must have tensors {'seq.0.weight': (3, 2)")
    assert "(4, 2)" in failed["wide"]
    assert failed["nan"] == "not finite"
    assert failed["gone"] == failed["outside"] == "missing"
    assert "weights_only" in failed["evil"]
    assert "weights_only" in failed["plain"]
    assert "weights_only" in failed["cut"]
    assert failed["list"] == "must be a state dict, found list"
    assert not list(tmp_path.rglob("evil-was-here"))
    assert len(zoo.members("train")) == 5
    assert zoo.catalog["label"].to_pylist()[-1] == 1


def test_labels_inside_the_files_are_found(tmp_path):
    for i in range(4):
        save(
            {**siren(i), "coef": [0.5, float(i)], "x": torch.zeros(5)},
            tmp_path / "in" / f"model_{i}.pth",
        )
    paths = [f"model_{i}.pth" for i in range(4)]
    (tmp_path / "in" / "ssl.json").write_text(
        json.dumps({"train": paths[:2], "val": paths[2:3], "test": paths[3:]})
    )
    zoo = bring_in("dwsnets", tmp_path / "in" / "ssl.json", tmp_path / "out")
    assert zoo.catalog["coef.1"].to_pylist() == [0.0, 1.0, 2.0, 3.0]
    assert zoo.record.signals.class_names == ()


def test_a_ray_tree_comes_in_with_runs_on_one_side_and_layers_in_order(tmp_path):
    for number in range(12):
        ray_run(
            tmp_path / "in",
            number,
            [1, 5, 10],
            dropout=number % 2 == 1,
            form=["checkpoint_{:06d}", "checkpoint_{}"][number % 2],
        )
    crashed = ray_run(tmp_path / "in", 12, [1])
    (crashed / "result.json").unlink()
    (crashed / "checkpoint_000001" / "checkpoints").write_bytes(b"half a checkpoint")
    zoo = bring_in("modelzoos", tmp_path / "in", tmp_path / "out")
    table = zoo.catalog.to_pandas()
    assert len(table) == 37
    assert (table.groupby("run")["split"].nunique() == 1).all()
    assert set(table["split"]) == {"train", "validation", "test"}
    assert table[table.epoch == 5]["test_accuracy"].dropna().unique() == [0.5]
    assert set(table["activation"]) == {"tanh"}
    assert "node_ip" not in table
    assert "config" not in table
    assert table[table.status == "failed"]["run"].tolist() == ["NN_tune_trainable_00012"]
    # Conv, conv, flattened linear (positions of a channel stay together), linear: the numbers of
    # layers shift where there is dropout.
    assert {name: shape for name, shape in zoo.record.tensors.items() if "weight" in name} == {
        "layers.0.weight": (3, 1, 3, 3),
        "layers.1.weight": (2, 3, 2, 2),
        "layers.2.weight": (4, 2, 6),
        "layers.3.weight": (5, 4),
    }
    for number in (4, 5):
        row = rows_by(zoo, "source")[
            f"NN_tune_trainable_{number:05d}/checkpoint_{10 if number % 2 else '000010'}"
        ]
        file = tmp_path / "in" / row["source"] / "checkpoints"
        theirs = [
            tensor
            for name, tensor in torch.load(file, weights_only=True).items()
            if "weight" in name
        ]
        assert torch.equal(row["state"]["layers.2.weight"].reshape(4, 12), theirs[2])
        assert torch.equal(row["state"]["layers.3.weight"], theirs[3])


def test_keras_kernels_become_torch_weights(tmp_path):
    kernels = [
        np.random.default_rng(i).standard_normal((3, 3, 1, 2)).astype(np.float32) for i in range(9)
    ]
    kernels[8][0, 0, 0, 0] = np.inf
    small_cnn_zoo(tmp_path / "in", kernels)
    zoo = bring_in("unterthiner", tmp_path / "in", tmp_path / "out")
    table = zoo.catalog.to_pandas()
    assert (table.groupby("run")["split"].nunique() == 1).all()
    assert table[table.status == "failed"]["run"].tolist() == ["/cns/8", "/cns/8"]
    row = rows_by(zoo, "source")["weights.npy row 5"]
    assert (row["epoch"], row["epochs"], row["activation"], row["test_accuracy"]) == (
        86,
        86,
        "tanh",
        0.286,
    )
    picture = torch.randn(1, 1, 5, 5)
    expected = sum(
        kernels[2][y, x, 0, channel] * picture[0, 0, y : y + 3, x : x + 3]
        for channel in [1]
        for y in range(3)
        for x in range(3)
    )
    found = nn.functional.conv2d(picture, row["state"]["layers.0.weight"])[0, 1]
    torch.testing.assert_close(found, torch.as_tensor(expected))


def test_layers_of_flax_are_counted_not_sorted_as_text(tmp_path):
    """Twelve layers: as text, `kernel_net_10` comes before `kernel_net_2`."""
    (tmp_path / "in").mkdir()
    arena_file(tmp_path / "in" / "nefs_100-105.hdf5", 5)
    config, values = arena_file(tmp_path / "in" / "nefs_0-100.hdf5", 100)
    (tmp_path / "in" / "nef.json").write_text(
        json.dumps({"name": "SIREN", "params": {"omega_0": 8.0}})
    )
    zoo = bring_in("fit-a-nef", tmp_path / "in", tmp_path / "out")
    assert zoo.record.decode.omega == 8.0
    assert zoo.record.decode.activations == (*["sine"] * 12, "linear")
    row = rows_by(zoo, "source")["nefs_0-100.hdf5 row 42"]
    assert row["label"] == 2
    start = sum(
        int(np.prod(shape))
        for name, shape in config[
            : [name for name, _ in config].index("kernel_net_10.linear.kernel")
        ]
    )
    np.testing.assert_array_equal(
        row["state"]["layers.10.weight"], values[42, start : start + 9].reshape(3, 3).T
    )


def test_names_in_a_tar_are_never_paths(tmp_path):
    data = safetensors.torch.save(siren(0))
    names = ["../../escape", "/etc/passwd", "a/b/c", "plain"]
    entries = {
        f"{name}.{kind}": content
        for name in names
        for kind, content in (("safetensors", data), ("json", b'{"label": 3}'))
    }
    sample_tar(tmp_path / "in" / "train-000000.tar", entries)
    zoo = bring_in("webdataset", tmp_path / "in", tmp_path / "out")
    assert zoo.catalog["key"].to_pylist() == [f"{i:08d}" for i in range(4)]
    assert len(zoo.members("train")) == 4
    assert {path.name for path in tmp_path.iterdir()} == {"in", "out"}


def test_a_source_whose_splits_leak_is_refused_unless_others_are_drawn(tmp_path):
    mnist_tree(tmp_path / "in", "training", range(30))
    paths = [
        str(path.relative_to(tmp_path / "in")) for path in sorted((tmp_path / "in").rglob("*.pth"))
    ]
    (tmp_path / "in" / "splits.json").write_text(
        json.dumps({"train": paths, "val": paths[:3], "test": paths[3:4]})
    )
    with pytest.raises(
        InputError, match=r"must be in one split, found 4 in several .* `--set splits=drawn`"
    ):
        plan_import(ImportConfig(format="dwsnets", path=tmp_path / "in"), tmp_path / "out")
    assert not (tmp_path / "out" / "zoo.json").exists()
    zoo = bring_in("dwsnets", tmp_path / "in", tmp_path / "out", splits="drawn")
    table = zoo.catalog.to_pandas()
    assert len(table) == 34
    assert (table.groupby("source_index")["split"].nunique() == 1).all()
    assert table.groupby("split")["source_index"].nunique().to_dict() == {
        "test": 6,
        "train": 21,
        "validation": 3,
    }
