"""Foreign zoos with damage of every kind: the rest is imported, the damage listed, exit code 3."""

import gzip
import io
import json
import math
import os
import tarfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import safetensors.torch
import torch

from flows.cli import main
from pipeline.archive.zoo import Zoo
from pipeline.config import ImportConfig
from pipeline.errors import InputError
from pipeline.exchange.exporting import export_zoo
from pipeline.exchange.formats import FORMATS
from pipeline.exchange.importing import plan_import
from pipeline.exchange.pickled import load_file
from pipeline.figures import accuracies
from pipeline.tasks.classification import Classification
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


def ray_tree(root: Path) -> Path:
    for number in range(6):
        ray_run(root, number, [1, 5, 10])
    return root / "NN_tune_trainable_00002"


def tar_of_models(root: Path, num: int = 8, number: int = 0) -> Path:
    file = root / f"train-{number:06d}.tar"
    entries = {}
    for i in range(num):
        entries[f"model-{i}.safetensors"] = safetensors.torch.save(siren(i))
        entries[f"model-{i}.json"] = json.dumps({"label": i % 3, "accuracy": i / 10}).encode()
    sample_tar(file, entries)
    return file


def arena(root: Path):
    root.mkdir()
    for start in (0, 10, 20):
        arena_file(root / f"nefs_{start}-{start + 10}.hdf5", 10, layers=2, score=np.arange(10.0))


def kernels(num: int) -> list[np.ndarray]:
    return [np.full((3, 3, 1, 2), i, np.float32) for i in range(num)]


def edit_metrics(root: Path, change):
    file = root / "metrics.csv.gz"
    lines = gzip.decompress(file.read_bytes()).decode().splitlines()
    file.write_bytes(gzip.compress("\n".join(change(lines)).encode()))


def cut(file: Path, size: int):
    file.write_bytes(file.read_bytes()[:size])


def no_json(root: Path):
    (ray_tree(root) / "params.json").write_text('{"model::nlin": ')


def no_params(root: Path):
    (ray_tree(root) / "params.json").unlink()


def no_object(root: Path):
    (ray_tree(root) / "params.json").write_text("[1, 2]")


def half_a_line(root: Path):
    file = ray_tree(root) / "result.json"
    cut(file, file.stat().st_size - 30)


def no_text(root: Path):
    (ray_tree(root) / "result.json").write_bytes(b"\xff\xfe\x00")


def no_checkpoint(root: Path):
    (ray_tree(root) / "checkpoint_000005" / "checkpoints").unlink()


def half_a_checkpoint(root: Path):
    cut(ray_tree(root) / "checkpoint_000005" / "checkpoints", 700)


def odd_first_run(root: Path):
    """The first run differs from all others, which must not be compared with it."""
    ray_tree(root)
    for epoch in (1, 5, 10):
        first = root / "NN_tune_trainable_00000" / f"checkpoint_{epoch:06d}" / "checkpoints"
        save(torch.nn.Sequential(torch.nn.BatchNorm1d(3)).state_dict(), first)


def tar_cut_in_a_tensor(root: Path):
    file = tar_of_models(root)
    with tarfile.open(file) as tar:
        cut(file, tar.getmembers()[8].offset_data + 100)


def tar_cut_in_a_row(root: Path):
    file = tar_of_models(root)
    with tarfile.open(file) as tar:
        cut(file, tar.getmembers()[9].offset_data + 3)


def tar_cut_between_entries(root: Path):
    file = tar_of_models(root)
    with tarfile.open(file) as tar:
        cut(file, tar.getmembers()[8].offset)


def tar_with_a_broken_header(root: Path):
    file = tar_of_models(root)
    with tarfile.open(file) as tar:
        place = tar.getmembers()[8].offset
    data = bytearray(file.read_bytes())
    data[place : place + 100] = b"x" * 100
    file.write_bytes(data)


def a_tar_that_is_none(root: Path):
    tar_of_models(root)
    (root / "train-000001.tar").write_bytes(b"no tar" * 1000)


def samples_that_are_wrong(root: Path):
    tar_of_models(root)
    sample_tar(
        root / "train-000001.tar",
        {
            "no-json.safetensors": safetensors.torch.save(siren(1)),
            "no-json.json": b'{"label": ',
            "a-list.safetensors": safetensors.torch.save(siren(1)),
            "a-list.json": b"[]",
            "no-tensors.json": b'{"label": 1}',
            "garbage.safetensors": b"garbage",
            "garbage.json": b'{"label": 1}',
        },
    )


def entries_of_other_kinds(root: Path):
    tar_of_models(root)
    sample_tar(root / "train-000001.tar", {"a.pth": b"weights", "a.cls": b"3", "b.pth": b"x"})


def a_key_twice(root: Path):
    file = tar_of_models(root)
    with tarfile.open(file, "a") as tar:
        data = safetensors.torch.save(siren(50))
        info = tarfile.TarInfo("model-3.safetensors")
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))


def an_arena_file_cut_short(root: Path):
    arena(root)
    cut(root / "nefs_10-20.hdf5", 3000)


def an_arena_file_of_others(root: Path):
    arena(root)
    (root / "nefs_0-10.hdf5").unlink()
    arena_file(root / "nefs_0-10.hdf5", 10, layers=3)


def an_arena_file_that_is_none(root: Path):
    arena(root)
    (root / "nefs_0-10.hdf5").write_bytes(b"no HDF5")


def an_arena_column_elsewhere(root: Path):
    arena(root)
    with h5py.File(root / "nefs_0-10.hdf5", "a") as content:
        content["secret"] = h5py.ExternalLink("/etc/passwd", "/")


def no_network(root: Path):
    arena(root)
    (root / "nef.json").write_text("{")


def an_omega_that_is_none(root: Path):
    arena(root)
    (root / "nef.json").write_text('{"name": "SIREN", "params": {"omega_0": NaN}}')


def rows_with_other_columns(root: Path):
    small_cnn_zoo(root, kernels(6))
    edit_metrics(root, lambda lines: [*lines[:3], "too,few", *lines[4:-1], lines[-1] + ",1,2"])


def a_matrix_cut_short(root: Path):
    small_cnn_zoo(root, kernels(6))
    file = root / "weights.npy"
    cut(file, file.stat().st_size - 50 * 4 * 2)


def an_unrelated_file(root: Path):
    mnist_tree(root, "training", range(20))
    paths = [str(path.relative_to(root)) for path in sorted(root.rglob("*.pth"))]
    (root / "splits.json").write_text(json.dumps({"train": paths[:15], "val": paths[15:]}))
    (root / "notes.json").write_text("{")


def paths_that_are_none(root: Path):
    an_unrelated_file(root)
    (root / "notes.json").unlink()
    splits = json.loads((root / "splits.json").read_text())
    splits["train"] += [3, None, "x" * 5000, "a\0b", "gone.pth"]
    (root / "splits.json").write_text(json.dumps(splits))


def a_column_called_problem(root: Path):
    run = ray_tree(root)
    params = json.loads((run / "params.json").read_text())
    (run / "params.json").write_text(json.dumps(params | {"problem": "mnist", "file": "a"}))
    (run / "checkpoint_000001" / "checkpoints").unlink()


def a_run_of_an_unknown_split(root: Path):
    run = ray_tree(root)
    params = json.loads((run / "params.json").read_text())
    (run / "params.json").write_text(json.dumps(params | {"split": "holdout"}))


def results_that_are_a_folder(root: Path):
    (ray_tree(root) / "result.json").unlink()
    (root / "NN_tune_trainable_00002" / "result.json").mkdir()
    (root / ".trash" / "checkpoint_000001").mkdir(parents=True)


def a_tar_that_leads_nowhere(root: Path):
    tar_of_models(root)
    (root / "test-000000.tar").symlink_to("gone")
    (root / "test-000001.tar").mkdir()
    (root / "test-000002.tar.gz").write_bytes(gzip.compress(b"a tar"))


def rows_that_no_other_has(root: Path):
    """A strange row does not affect the others."""
    file, entries = tar_of_models(root), {}
    rows = [{"source_index": 2**63 - 1}, {"\ud800": 1}, {"problem": 2}, {"split": "holdout"}]
    for i, row in enumerate(rows):
        entries[f"odd-{i}.safetensors"] = safetensors.torch.save(siren(i))
        entries[f"odd-{i}.json"] = json.dumps(row).encode()
    sample_tar(file.with_name("train-000001.tar"), entries)


def an_arena_column_of_another_shape(root: Path):
    arena(root)
    with h5py.File(root / "nefs_0-10.hdf5", "a") as content:
        del content["labels"], content["score"]
        content["labels"] = np.arange(10)[:, None]
        content["score"] = np.eye(10)
        content[b"\xff"] = np.arange(10)


def an_omega_for_other_layers(root: Path):
    arena(root)
    (root / "nef.json").write_text('{"name": "SIREN", "params": {"omega_0": [1, 2, 3, 4]}}')


def an_omega_of_no_layer(root: Path):
    arena(root)
    (root / "nef.json").write_text('{"name": "SIREN", "params": {"omega_0": []}}')


def a_network_that_is_a_folder(root: Path):
    arena(root)
    (root / "nef.json").mkdir()


def bytes_that_are_no_text(root: Path):
    """Bytes that are not UTF-8 in one value, in a file of several gzip members."""
    small_cnn_zoo(root, kernels(6))
    cut(root / "weights.npy", (root / "weights.npy").stat().st_size - 50 * 4)
    file = root / "metrics.csv.gz"
    data = gzip.decompress(file.read_bytes()).replace(b"/cns/3", b"/cns/\xff")
    file.write_bytes(gzip.compress(data[:200]) + gzip.compress(data[200:]))


def a_split_of_another_name(root: Path):
    mnist_tree(root, "training", range(20))
    paths = [str(path.relative_to(root)) for path in sorted(root.rglob("*.pth"))]
    splits = {"train": paths[:10], "validation": paths[10:15], "holdout": paths[15:]}
    (root / "splits.json").write_text("\ufeff" + json.dumps(splits))


def tensors_that_are_sparse(root: Path):
    an_unrelated_file(root)
    os.mkfifo(root / "pipe.json")
    file = next(root.rglob("*.pth"))
    save({name: tensor.to_sparse() for name, tensor in torch.load(file).items()}, file)


CASES = [  # what is damaged, members, failed ones, what is listed
    (no_json, 18, 3, "00002/params.json must hold JSON"),
    (no_params, 18, 3, "00002/params.json cannot be read"),
    (no_object, 18, 3, "00002/params.json must hold a configuration, found [1, 2]"),
    (half_a_line, 18, 0, "00002/result.json must hold one JSON object per line"),
    (no_text, 18, 0, "00002/result.json cannot be read as text"),
    (no_checkpoint, 18, 1, "00002/checkpoint_000005: missing"),
    (half_a_checkpoint, 18, 1, "00002/checkpoint_000005: checkpoints cannot be read by torch"),
    (odd_first_run, 18, 3, "00000/checkpoint_000001: layer '0' must have"),
    (a_column_called_problem, 18, 1, "00002/checkpoint_000001: missing"),
    (a_run_of_an_unknown_split, 18, 3, "split must be called train, val, valid, validation, test"),
    (results_that_are_a_folder, 18, 0, "result.json cannot be read: expected a file, found none"),
    (tar_cut_in_a_tensor, 4, 0, "is truncated): read"),
    (tar_cut_in_a_row, 5, 1, "must have one entry model-4.json per model-4.safetensors"),
    (tar_cut_between_entries, 4, 0, "train-000000.tar must be an uncompressed tar"),
    (tar_with_a_broken_header, 4, 0, "(neither a header nor the end at byte"),
    (a_tar_that_is_none, 8, 0, "train-000001.tar must be an uncompressed tar"),
    (samples_that_are_wrong, 12, 4, "must have JSON at no-json.json"),
    (entries_of_other_kinds, 8, 0, "train-000001.tar has 2 entries .pth"),
    (a_key_twice, 9, 2, "must have one entry model-3.json per model-3.safetensors"),
    (a_tar_that_leads_nowhere, 8, 0, "test-000002.tar.gz must be an uncompressed tar"),
    (rows_that_no_other_has, 12, 1, "odd-3: split must be called"),
    (an_arena_file_cut_short, 20, 0, "nefs_10-20.hdf5 must be an HDF5 file"),
    (an_arena_file_of_others, 20, 0, "nefs_0-10.hdf5 must have the networks that most files have"),
    (an_arena_file_that_is_none, 20, 0, "nefs_0-10.hdf5 must be an HDF5 file"),
    (an_arena_column_elsewhere, 30, 0, "nefs_0-10.hdf5 has 'secret', which cannot be read"),
    (no_network, 30, 0, "nef.json must hold JSON"),
    (an_omega_that_is_none, 30, 0, "nef.json must have positive numbers as omega_0, found nan"),
    (
        an_arena_column_of_another_shape,
        30,
        0,
        "'score', which cannot be read (its shape is (10, 10)",
    ),
    (an_omega_for_other_layers, 30, 0, "must have one omega_0 or 2, one per sine layer"),
    (an_omega_of_no_layer, 30, 0, "nef.json must have positive numbers as omega_0, found []"),
    (a_network_that_is_a_folder, 30, 0, "nef.json cannot be read: expected a file"),
    (rows_with_other_columns, 12, 2, "metrics.csv.gz must have 7 values per row, found 2"),
    (a_matrix_cut_short, 12, 2, "weights.npy row 11: weights.npy is truncated"),
    (bytes_that_are_no_text, 12, 1, "weights.npy row 11: weights.npy is truncated"),
    (an_unrelated_file, 20, 0, "notes.json must hold JSON"),
    (paths_that_are_none, 25, 5, "missing"),
    (a_split_of_another_name, 15, 0, "has 'holdout', which is not called train, val, valid"),
    (tensors_that_are_sparse, 20, 1, "must be a dense tensor of floating point numbers"),
]
LAYOUTS = {  # of the cases, in their order
    "modelzoos": 11,
    "webdataset": 10,
    "fit-a-nef": 10,
    "unterthiner": 3,
    "dwsnets": 4,
}
FORMAT = [name for name, count in LAYOUTS.items() for _ in range(count)]


@pytest.mark.parametrize(
    ("layout", "damage", "num_members", "num_failed", "listed"),
    [(layout, *case) for layout, case in zip(FORMAT, CASES, strict=True)],
    ids=[case[0].__name__ for case in CASES],
)
def test_what_is_sound_comes_in_and_the_rest_is_listed(
    tmp_path, capsys, layout, damage, num_members, num_failed, listed
):
    damage(tmp_path / "in")
    command = ["zoo", "import", str(tmp_path / "in"), "--format", layout]
    for _ in range(2):  # a second time there is nothing to do, and the same to say
        assert main([*command, "--out", str(tmp_path / "out")]) == 3
        shown = capsys.readouterr().out
        assert f"{num_members:,} members imported, {num_failed:,} without weights" in shown
        assert listed in shown
    zoo = Zoo.open(tmp_path / "out")
    states = [zoo[int(i)] for i in np.flatnonzero(np.array(zoo.catalog["status"]) == "ok")]
    assert len(states) == num_members - num_failed
    assert all(tensor.isfinite().all() for state in states for tensor in state.values())
    assert main(["zoo", "verify", str(tmp_path / "out")]) == 0


def test_a_sound_zoo_comes_in_without_a_word(tmp_path, capsys):
    ray_tree(tmp_path / "in")
    command = ["zoo", "import", str(tmp_path / "in"), "--format", "modelzoos", "--out"]
    assert main([*command, str(tmp_path / "out")]) == 0
    shown = capsys.readouterr().out
    assert shown == f"{tmp_path / 'out'}: 18 members imported, 0 without weights\n"


@pytest.mark.parametrize("layout", FORMATS)
def test_a_folder_with_nothing_sound_is_one_sentence(tmp_path, layout):
    names = ("train.tar", "splits.json", "nefs_0-1.hdf5", "weights.npy", "metrics.csv.gz")
    (tmp_path / "in" / "run" / "checkpoint_000001").mkdir(parents=True)
    files = [tmp_path / "in" / name for name in (*names, "layout.csv")]
    files += [tmp_path / "in" / "run" / name for name in ("params.json", "result.json")]
    for file in [*files, tmp_path / "in" / "run" / "checkpoint_000001" / "checkpoints"]:
        file.write_bytes(b"\x93NUMPY garbage" * 9)
    with pytest.raises(InputError) as caught:
        plan_import(ImportConfig(format=layout, path=tmp_path / "in"), tmp_path / "out")
    assert str(tmp_path / "in") in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_numpys_numbers_beside_the_weights_are_read_and_nothing_else_of_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    numbers = {
        "label": np.int64(4),
        "coef": np.float32(0.5),
        "flag": np.bool_(True),
        "zero": np.array(7),
    }
    for i in range(5):
        own = {**siren(i), **numbers, "curve": np.arange(3.0), "back": np.arange(2, dtype=">i4")}
        save(own, tmp_path / "in" / f"model_{i}.pth")
    weights = {name: tensor.double().numpy() for name, tensor in siren(5).items()}
    save(weights, tmp_path / "in" / "model_5.pth")
    evil = [np.array([Evil()]), np.array([Evil()], dtype=object), np.array(["a"]), np.void(b"ab")]
    for i, value in enumerate(evil):
        save({**siren(i), "evil": value}, tmp_path / "in" / f"evil_{i}.pth")
    content = load_file(tmp_path / "in" / "model_0.pth")
    assert {name: content[name] for name in numbers} == {
        "label": 4,
        "coef": 0.5,
        "flag": True,
        "zero": 7,
    }
    assert content["back"].tolist() == [0, 1]
    paths = [file.name for file in sorted((tmp_path / "in").iterdir(), reverse=True)]
    (tmp_path / "in" / "splits.json").write_text(json.dumps({"train": paths}))
    zoo = bring_in("dwsnets", tmp_path / "in", tmp_path / "out")
    rows = rows_by(zoo, "source")
    assert rows["model_2.pth"]["coef"] == 0.5
    assert (rows["model_2.pth"]["label"], rows["model_5.pth"]["label"]) == (4, None)
    assert torch.equal(rows["model_5.pth"]["state"]["layers.0.weight"], siren(5)["seq.0.weight"])
    failed = [row["stop_reason"] for row in rows.values() if row["status"] == "failed"]
    assert len(failed) == len(evil)
    assert all("weights_only=True" in reason and "False" not in reason for reason in failed)
    assert not list(tmp_path.rglob("evil-was-here"))


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64, torch.int32])
def test_weights_of_other_types_become_float32(tmp_path, kind):
    """16-bit types convert exactly, float64 is rounded, and integers are refused."""
    state = {name: (100 * tensor).to(kind) for name, tensor in siren(0).items()}
    for i in range(3):
        save(state if i else siren(0), tmp_path / "pth" / f"model_{i}.pth")
    (tmp_path / "pth" / "splits.json").write_text(
        json.dumps({"train": [f"model_{i}.pth" for i in range(3)]})
    )
    data = safetensors.torch.save(state), safetensors.torch.save(siren(0))
    sample_tar(
        tmp_path / "tar" / "train-0.tar",
        {f"{i}.safetensors": data[not i] for i in range(3)},
    )
    for layout, folder in (("dwsnets", "pth"), ("webdataset", "tar")):
        zoo = bring_in(layout, tmp_path / folder, tmp_path / f"{folder} zoo")
        if kind == torch.int32:
            reasons = zoo.catalog["stop_reason"].to_pylist()[1:]
            assert all("must be a dense tensor of floating point numbers" in r for r in reasons)
        else:
            expected = {
                name.replace("seq", "layers"): tensor.float() for name, tensor in state.items()
            }
            assert all(torch.equal(zoo[1][name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize("kind", ["<f2", "<f8", ">f4", ">f8"])
def test_matrices_of_other_types_become_float32(tmp_path, kind):
    small_cnn_zoo(tmp_path / "cnn", kernels(4))
    matrix = np.load(tmp_path / "cnn" / "weights.npy").astype(kind)
    np.save(tmp_path / "cnn" / "weights.npy", np.asfortranarray(matrix))
    zoo = bring_in("unterthiner", tmp_path / "cnn", tmp_path / "cnn zoo")
    assert {float(zoo[i]["layers.0.weight"].mean()) for i in range(len(zoo))} == {0, 1, 2, 3}
    arena(tmp_path / "arena")
    for file in (tmp_path / "arena").iterdir():
        with h5py.File(file, "a") as content:
            values = content["params"][:] / 8
            del content["params"]
            content["params"] = values.astype(kind)
    zoo = bring_in("fit-a-nef", tmp_path / "arena", tmp_path / "arena zoo")
    row = rows_by(zoo, "source")["nefs_10-20.hdf5 row 1"]
    found = torch.cat([tensor.flatten() for tensor in row["state"].values()])
    assert sorted(found.tolist()) == [(25 + i) / 8 for i in range(25)]


def test_a_number_beyond_float32_is_a_failure(tmp_path):
    small_cnn_zoo(tmp_path / "in", kernels(4))
    matrix = np.load(tmp_path / "in" / "weights.npy").astype(np.float64)
    matrix[3, 5] = 1e300
    np.save(tmp_path / "in" / "weights.npy", matrix)
    zoo = bring_in("unterthiner", tmp_path / "in", tmp_path / "out")
    reasons = rows_by(zoo, "source")
    assert {name for name, row in reasons.items() if row["stop_reason"] == "not finite"} == {
        "weights.npy row 3"
    }


def test_keys_with_dots_are_keys(tmp_path):
    names = ["resnet.v1.epoch-10", "resnet.v1.epoch-20", "a.b/c.d", ".hidden", "plain"]
    entries = {}
    for i, name in enumerate(names):
        entries[f"{name}.safetensors"] = safetensors.torch.save(siren(i))
        entries[f"{name}.json"] = json.dumps({"label": i, "key": f"{name}!"}).encode()
    sample_tar(tmp_path / "in" / "train-000000.tar", entries)
    zoo = bring_in("webdataset", tmp_path / "in", tmp_path / "out")
    rows = rows_by(zoo, "source_key")
    assert [*rows] == [f"{name}!" for name in names]
    for i, name in enumerate(names):
        row = rows[f"{name}!"]
        assert (row["label"], row["source"]) == (i, f"train-000000.tar {name}")
        assert torch.equal(row["state"]["layers.0.bias"], siren(i)["seq.0.bias"])


def test_names_that_are_no_unicode_come_in(tmp_path):
    folder = os.fsencode(tmp_path / "in") + b"/m_training_1_\xff7/checkpoints"
    os.makedirs(folder)
    for file in (folder + b"/model_final.pth", os.fsencode(tmp_path / "in") + b"/\xe9.pth"):
        torch.save(siren(0), os.fsdecode(file))
    zoo = bring_in("dwsnets", tmp_path / "in", tmp_path / "out")
    assert zoo.catalog["source"].to_pylist() == [
        "m_training_1_\\udcff7/checkpoints/model_final.pth"
    ]
    sample_tar(
        tmp_path / "tar" / "train-0.tar",
        {"a.safetensors": safetensors.torch.save(siren(0)), "a.json": b'{"n": "\\ud800"}'},
    )
    zoo = bring_in("webdataset", tmp_path / "tar", tmp_path / "tar zoo")
    assert zoo.catalog["n"].to_pylist() == ["\\ud800"]


def test_an_omega_for_each_layer_is_kept_and_computed_with(tmp_path):
    arena(tmp_path / "in")
    params = {"first_omega_0": 30, "hidden_omega_0": 1.0, "hidden_dim": 3}
    (tmp_path / "in" / "nef.json").write_text(json.dumps({"name": "SIREN", "params": params}))
    zoo = bring_in("fit-a-nef", tmp_path / "in", tmp_path / "zoo")
    assert zoo.record.decode.omega == (30.0, 1.0)
    for layout in FORMATS:
        export_zoo(zoo, layout, tmp_path / layout, lambda number: None)
        again = bring_in(layout, tmp_path / layout, tmp_path / f"{layout} zoo")
        assert again.record.decode == zoo.record.decode
    nef = json.loads((tmp_path / "fit-a-nef" / "nef.json").read_text())
    assert (nef["name"], nef["params"]["omega_0"]) == ("SIREN", [30.0, 1.0])
    points = torch.rand(5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    values, state = points, {name: tensor.double() / 100 for name, tensor in zoo[7].items()}
    module = zoo.module(7).double()
    module.load_state_dict(state)
    for i, omega in enumerate((30.0, 1.0)):
        layer = values @ state[f"layers.{i}.weight"].T + state[f"layers.{i}.bias"]
        values = torch.sin(omega * layer)
    expected = values @ state["layers.2.weight"].T + state["layers.2.bias"]
    torch.testing.assert_close(module(points), expected, rtol=1e-12, atol=1e-12)
    given = bring_in("fit-a-nef", tmp_path / "in", tmp_path / "given", omega=(7.0, 5.0))
    assert given.record.decode.omega == (7.0, 5.0)
    with pytest.raises(InputError, match="omega must be one number or one for each of 2 hidden"):
        bring_in("fit-a-nef", tmp_path / "in", tmp_path / "x", omega=(7.0, 5.0, 3.0))


def test_a_row_that_says_nothing_of_its_run_takes_nothing_from_the_others(tmp_path):
    small_cnn_zoo(tmp_path / "in", kernels(8), steps=(86, 0, 43))

    def forget(lines: list[str]) -> list[str]:
        return [line.replace("/cns/5,0", ",0") for line in lines]

    edit_metrics(tmp_path / "in", forget)
    zoo = bring_in("unterthiner", tmp_path / "in", tmp_path / "out")
    table = zoo.catalog.to_pandas()
    assert table["run"].isna().sum() == 1
    assert table["source_index"].nunique() == 9
    runs = table.dropna(subset="run").groupby("run")
    assert (runs["source_index"].nunique() == 1).all()
    assert (runs["split"].nunique() == 1).all()
    assert runs.get_group("/cns/0").sort_values("view")["epoch"].tolist() == [0, 43, 86]


def test_failures_without_a_label_leave_the_others_learnable(tmp_path):
    tar_of_models(tmp_path / "in", 30)
    damaged = {"broken.safetensors": safetensors.torch.save(siren(0)), "broken.json": b"{"}
    sample_tar(tmp_path / "in" / "val-000000.tar", damaged)
    data = {"fine.safetensors": safetensors.torch.save(siren(0)), "fine.json": b'{"label": 2}'}
    sample_tar(tmp_path / "in" / "val-000001.tar", data)
    zoo = bring_in("webdataset", tmp_path / "in", tmp_path / "out")
    Classification().check(zoo)
    assert zoo.catalog["label"].null_count == 1


def test_rows_come_back_whatever_they_hold(tmp_path):
    """Texts like numbers or nulls, numbers of any size, gaps; exported and imported twice."""
    rows = [
        {
            "run": f"/cns/{i // 2}",
            "epoch": i % 2,
            "key": f"k.{i} x",
            "label": None if i == 3 else "abc"[i % 3],
            "note": ["a,b", 'q"uo', "new\nline", "NA", "nan", "null", "é€", "x", None, "007"][i],
            "code": f"{i:03d}",
            "flag": bool(i % 2),
            "gaps": None if i == 5 else i,
            "score": [1.5, None, float("inf"), -1e300][i % 4],
            "nested": {"a": [i]},
            "mixed": i if i % 2 else "t",
            "empty": None,
        }
        for i in range(10)
    ]
    entries = {}
    for i, row in enumerate(rows):
        entries[f"model.v{i}.safetensors"] = safetensors.torch.save(siren(i))
        entries[f"model.v{i}.json"] = json.dumps(row).encode()
    sample_tar(tmp_path / "in" / "train-000000.tar", entries)
    zoo = first = bring_in("webdataset", tmp_path / "in", tmp_path / "zoo")
    expected, types = (
        rows_by(first, "code"),
        {field.name: field.type for field in first.catalog.schema},
    )
    for turn, layout in enumerate([*FORMATS, *FORMATS]):
        export_zoo(zoo, layout, tmp_path / f"out {turn}", lambda number: None)
        zoo = bring_in(layout, tmp_path / f"out {turn}", tmp_path / f"zoo {turn}")
        assert {field.name: field.type for field in zoo.catalog.schema} == types
        for code, row in rows_by(zoo, "code").items():
            state, other = row.pop("state"), dict(expected[code])
            assert all(torch.equal(state[name], x) for name, x in other.pop("state").items())
            for place in ("shard", "block", "row", "source"):
                del row[place], other[place]
            assert row == other, layout


def test_only_what_is_known_of_a_member_is_drawn_and_who_says_so(tmp_path, monkeypatch):
    """Runs without hyperparameters, with accuracy in percent or none, with lines out of order."""
    for number in range(6):
        run = ray_run(tmp_path / "in", number, [5, 10], form="checkpoint_{}")
        rate = math.nan if number == 1 else 10.0**-number
        (run / "params.json").write_text(json.dumps({"optim::lr": rate, "model::nlin": "tanh"}))
    (tmp_path / "in" / "NN_tune_trainable_00002" / "result.json").unlink()
    lines = "".join(f'{{"training_iteration": {e}, "test_acc": {9 * e}}}\n' for e in (5, 10))
    (tmp_path / "in" / "NN_tune_trainable_00003" / "result.json").write_text(lines)
    zoo = bring_in("modelzoos", tmp_path / "in", tmp_path / "out")
    drawn = {}

    def keep(name: str):
        return lambda axes, *values: drawn.setdefault(name, []).append(values)

    for name in ("draw_histogram", "draw_epochs", "draw_dependence"):
        monkeypatch.setattr(accuracies, name, keep(name))
    accuracies.draw_accuracies(zoo, tmp_path / "a.png")
    ((accuracy, majority),) = drawn["draw_histogram"]
    assert accuracy.tolist() == [100.0] * 4  # epoch 10 of four runs, not epoch 5
    assert majority is None  # nobody says how many images each class has
    ((table,),) = drawn["draw_epochs"]
    assert sorted(table["epoch"].to_pylist()) == [5] * 4 + [10] * 4
    ((name, values, accuracy),) = drawn["draw_dependence"]
    assert (name, sorted(values.to_pylist())) == ("learning_rate", [1e-5, 1e-4, 1.0])
    assert len(accuracy) == 3
    assert accuracies.provenance(zoo, 8) == (
        "as stated by in, not measured here; 4 of 12 members have no test_accuracy"
    )


def test_a_zoo_without_epochs_is_drawn_without_them(tmp_path):
    tar_of_models(tmp_path / "in")
    rows = {
        f"{i}.{kind}": data
        for i in range(4)
        for kind, data in (
            ("safetensors", safetensors.torch.save(siren(i))),
            ("json", json.dumps({"test_accuracy": i / 4, "dropout": i / 8}).encode()),
        )
    }
    sample_tar(tmp_path / "in" / "train-000001.tar", rows)
    zoo = bring_in("webdataset", tmp_path / "in", tmp_path / "out")
    accuracies.draw_accuracies(zoo, tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 5000
    rows |= {"x.safetensors": rows["0.safetensors"], "x.json": b'{"test_accuracy": "high"}'}
    sample_tar(tmp_path / "in" / "train-000001.tar", rows)
    zoo = bring_in("webdataset", tmp_path / "in", tmp_path / "texts")
    with pytest.raises(InputError, match="none of its members has a test_accuracy from 0 to 1"):
        accuracies.draw_accuracies(zoo, tmp_path / "b.png")
