"""Zoos exported in layouts of other projects, read as those projects do, and imported again."""

import csv
import gzip
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest
import safetensors.torch
import torch
import webdataset
import yaml
from PIL import Image

from flows.cli import main
from flows.recipes import smoke
from flows.stages import convert
from pipeline.archive.verify import verify_zoo
from pipeline.archive.write import seal_zoo
from pipeline.archive.zoo import Zoo
from pipeline.config import ExchangeFormat, FitConfig, ImportConfig, SignalsConfig
from pipeline.errors import InputError
from pipeline.exchange.exporting import export_zoo
from pipeline.exchange.formats import FORMATS
from pipeline.exchange.importing import import_shard, plan_import
from pipeline.tasks.classification import Classification
from pipeline.zoos.build import fit_shard, plan_zoo

NUM_MEMBERS = 120


@pytest.fixture(scope="module")
def small_zoo(tmp_path_factory) -> Zoo:
    """Two INRs each of 60 digits; those of one digit failed."""
    folder = tmp_path_factory.mktemp("small") / "zoo"
    changes = {"signals": SignalsConfig(limit=60), "fit": FitConfig(max_steps=5)}
    config = smoke().zoo.model_copy(update=changes)
    plan = plan_zoo(config, folder)
    broken = int(plan.shards[0].source_index[1])
    plan.signals.values[broken] = np.nan
    names = tuple(f'größe, "{i % 10}"/{i:04d}.png' for i in range(60))
    signals = replace(plan.signals, names=names, failures={broken: "cannot be decoded (empty)"})
    for shard in plan.shards:
        fit_shard(config, folder, signals, shard)
    return seal_zoo(folder)


@pytest.fixture(scope="module")
def exported(small_zoo, tmp_path_factory) -> dict[str, Path]:
    """The zoo in every format. Read only."""
    folders = {name: tmp_path_factory.mktemp("exported") / name for name in FORMATS}
    for name, folder in folders.items():
        assert export_zoo(small_zoo, name, folder, lambda number: None) == NUM_MEMBERS - 2
    return folders


def bring_in(format: ExchangeFormat, path: Path, out: Path, **settings) -> Zoo:
    plan = plan_import(ImportConfig(format=format, path=path, **settings), out)
    for name in plan.intake.shards:
        import_shard(plan, out, name)
    return seal_zoo(out)


def members(zoo: Zoo) -> dict[str, tuple[dict, dict[str, torch.Tensor]]]:
    """Catalog row and state dict of every member, by key; no state where it failed."""
    rows = zoo.catalog.to_pylist()
    return {
        row["key"]: (row, zoo[i] if row["status"] == "ok" else {}) for i, row in enumerate(rows)
    }


def test_every_format_has_a_name():
    assert tuple(FORMATS) == ExchangeFormat.__args__


@pytest.mark.parametrize("name", FORMATS)
def test_a_zoo_comes_back_bit_for_bit(small_zoo, exported, tmp_path, name):
    zoo = bring_in(name, exported[name], tmp_path)
    assert verify_zoo(zoo) == []
    assert zoo.space == small_zoo.space
    assert zoo.record.decode == small_zoo.record.decode
    assert zoo.record.signals.class_names == small_zoo.record.signals.class_names
    before, after = members(small_zoo), members(zoo)
    assert before.keys() == after.keys()
    columns = (
        "split",
        "source_index",
        "view",
        "label",
        "seed",
        "steps",
        "psnr",
        "status",
        "stop_reason",
        "source_name",
        "failure",
    )
    assert before[next(iter(before))][0]["source_name"].startswith("größe")
    for key, (row, state) in before.items():
        assert {column: after[key][0][column] for column in columns} == {
            column: row[column] for column in columns
        }
        assert state.keys() == after[key][1].keys()
        assert all(
            torch.equal(tensor, after[key][1][tensor_name]) for tensor_name, tensor in state.items()
        )
    assert zoo.statistics.keys() == small_zoo.statistics.keys()


def test_an_interrupted_import_goes_on_and_changes_nothing_that_is_committed(exported, tmp_path):
    zoo = bring_in("unterthiner", exported["unterthiner"], tmp_path / "one", shard_size=16)
    config = ImportConfig(format="unterthiner", path=exported["unterthiner"], shard_size=16)
    plan = plan_import(config, tmp_path / "two")
    for name in [*plan.intake.shards][::-1]:
        import_shard(plan, tmp_path / "two", name)
    seal_zoo(tmp_path / "two")
    files = [path.relative_to(zoo.folder) for path in zoo.folder.rglob("*") if path.is_file()]
    assert len(files) > 10
    assert all(
        (zoo.folder / file).read_bytes() == (tmp_path / "two" / file).read_bytes() for file in files
    )
    with pytest.raises(
        InputError, match=r"differs from this one .* in shard_size: was 16, is 4096"
    ):
        plan_import(
            ImportConfig(format="unterthiner", path=exported["unterthiner"]), tmp_path / "one"
        )


def state_of(zoo: Zoo, key: str) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in members(zoo)[key][1].items()}


def test_dwsnets_readers_find_state_dicts_by_their_splits(small_zoo, exported):
    folder = exported["dwsnets"]
    splits = json.loads((folder / "splits.json").read_text())
    assert {name: len(split["path"]) for name, split in splits.items()} == {
        "train": 82,
        "val": 14,
        "test": 22,
    }
    for split in splits.values():
        for path, label, key in zip(split["path"], split["label"], split["key"], strict=True):
            file = folder / path
            state = torch.load(file, weights_only=True)
            assert list(state) == [
                f"seq.{i}.{kind}" for i in range(3) for kind in ("weight", "bias")
            ]
            np.testing.assert_array_equal(
                state["seq.1.weight"], state_of(small_zoo, key)["layers.1.weight"]
            )
            assert file.parent.parent.stem.split("_")[-2] == str(label)
            assert (
                file.stat().st_size < 6000
            )  # the member alone, not the block that it is a view of
            break
    assert {("train" in path) for path in splits["test"]["path"]} == {False}


def test_small_cnn_zoo_readers_find_a_matrix_a_table_and_a_map(small_zoo, exported):
    folder = exported["unterthiner"]
    weights = np.load(folder / "weights.npy", allow_pickle=False)
    with gzip.open(folder / "metrics.csv.gz", "rt") as file:
        rows = list(csv.DictReader(file))
    assert weights.shape == (len(rows), 85) == (118, 85)
    assert weights.dtype == np.float32
    layout = list(csv.DictReader((folder / "layout.csv").open()))
    entry = next(entry for entry in layout if entry["varname"] == "sequential/dense_1/kernel:0")
    assert entry["shape"] == "(8, 6)"
    kernel = weights[40, int(entry["start_idx"]) : int(entry["end_idx"])].reshape(8, 6)
    np.testing.assert_array_equal(kernel.T, state_of(small_zoo, rows[40]["key"])["layers.1.weight"])


def test_modelzoos_readers_find_runs_with_checkpoints(small_zoo, exported):
    run = sorted(exported["modelzoos"].iterdir())[5]
    params = json.loads((run / "params.json").read_text())
    results = [json.loads(line) for line in (run / "result.json").read_text().splitlines()]
    assert results[0]["training_iteration"] == 0
    state = torch.load(run / "checkpoint_000000" / "checkpoints", weights_only=True)
    expected = state_of(small_zoo, run.name)
    np.testing.assert_array_equal(state["module_list.2.bias"], expected["layers.2.bias"])
    assert params["label"] == members(small_zoo)[run.name][0]["label"]


def test_neural_field_arena_readers_find_ranges_of_flax_parameters(small_zoo, exported):
    (file,) = exported["fit-a-nef"].glob("*.hdf5")
    assert file.name == "nefs_0-118.hdf5"
    with h5py.File(file) as content:
        config = json.loads(content["param_config"][0].decode("utf-8"))
        assert config[:2] == [
            ["kernel_net_0.linear.bias", [8]],
            ["kernel_net_0.linear.kernel", [2, 8]],
        ]
        assert config[-1] == ["output_linear.kernel", [6, 1]]
        assert content["params"].shape == (118, 85)
        key = content["key"].asstr()[30]
        kernel = content["params"][30, 8 : 8 + 16].reshape(2, 8)
        np.testing.assert_array_equal(kernel.T, state_of(small_zoo, key)["layers.0.weight"])
        assert content["labels"][30] == members(small_zoo)[key][0]["label"]
    assert json.loads((file.parent / "nef.json").read_text())["params"]["omega_0"] == 30.0


def test_webdataset_readers_find_a_member_a_sample(small_zoo, exported):
    url = str(exported["webdataset"] / "train-000000.tar")
    samples = list(webdataset.WebDataset(url, shardshuffle=False))
    assert len(samples) == 82
    row, state = json.loads(samples[7]["json"]), safetensors.torch.load(samples[7]["safetensors"])
    assert row["key"] == samples[7]["__key__"]
    np.testing.assert_array_equal(
        state["layers.1.bias"], state_of(small_zoo, row["key"])["layers.1.bias"]
    )


def test_the_code_of_the_card_loads_a_hugging_face_folder(
    small_zoo, exported, tmp_path, monkeypatch
):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    folder, loaded = exported["huggingface"], []
    card = (folder / "README.md").read_text().replace("FOLDER", str(folder))
    for code in re.findall(r"```python\n(.*?)```", card, re.DOTALL):
        loaded.append({})
        exec(code, loaded[-1])
    by_datasets, by_webdataset = loaded
    keys = small_zoo.members("train")["key"].to_pylist()
    catalog, weights = by_datasets["catalog"], by_datasets["weights"]
    assert catalog["key"] == weights["__key__"] == keys
    assert catalog.features["label"].names == [*map(str, range(10))]
    assert catalog.features["seed"].dtype == "uint64"
    assert by_datasets["row"] == catalog[0]
    assert by_webdataset["row"]["key"] == keys[-1]
    for found, key in ((by_datasets, keys[0]), (by_webdataset, keys[-1])):
        expected = state_of(small_zoo, key)
        assert found["state"].keys() == expected.keys()
        for name, tensor in expected.items():
            np.testing.assert_array_equal(found["state"][name], tensor)


def test_the_card_of_a_hugging_face_folder_says_what_is_in_it(small_zoo, exported):
    folder = exported["huggingface"]
    front, text = (folder / "README.md").read_text().split("---\n")[1:3]
    card = yaml.safe_load(front)
    assert card["license"] == "unknown"
    assert card["size_categories"] == ["n<1K"]
    (config,), (info,) = card["configs"], card["dataset_info"]
    assert [part["split"] for part in config["data_files"]] == ["train", "validation", "test"]
    tables = [pq.read_table(folder / part["path"]) for part in config["data_files"]]
    assert [len(table) for table in tables] == [82, 14, 22]
    assert [column["name"] for column in info["features"]] == tables[0].column_names
    assert "| train | 82 |" in text
    assert "| `layers.1.weight` | 6 x 8 |" in text
    assert "2 networks whose training failed have no weights" in text
    with Image.open(folder / re.search(r"!\[.*\]\((.*)\)", text)[1]) as picture:
        assert min(picture.size) > 200
    texts = [file.read_text() for file in folder.iterdir() if file.suffix in (".md", ".json")]
    assert not any(str(small_zoo.folder) in text for text in texts)


def test_an_export_appears_whole_or_not_at_all(small_zoo, tmp_path):
    def fail(number: int):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_zoo(small_zoo, "dwsnets", tmp_path / "out", fail)
    assert not (tmp_path / "out").exists()
    export_zoo(small_zoo, "unterthiner", tmp_path / "out", lambda number: None)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "dwszoo.json",
        "layout.csv",
        "metrics.csv.gz",
        "weights.npy",
    ]
    with pytest.raises(InputError, match="out must be a new or an empty folder"):
        export_zoo(small_zoo, "unterthiner", tmp_path / "out", lambda number: None)


@pytest.mark.parametrize("name", ["dwsnets", "modelzoos", "webdataset"])
def test_a_members_key_cannot_leave_the_folder(small_zoo, tmp_path, monkeypatch, name):
    blocks = list(small_zoo.blocks("validation"))
    block, rows = blocks[0]
    evil = rows.set_column(0, "key", [["../../evil"] * len(rows)])
    monkeypatch.setattr(
        small_zoo,
        "blocks",
        lambda split: [(block, evil)] if split == "validation" else [],
        raising=False,
    )
    with pytest.raises(InputError, match=re.escape("found '../../evil'")):
        export_zoo(small_zoo, name, tmp_path / "out", lambda number: None)
    assert not list(tmp_path.rglob("*evil*"))


@pytest.mark.parametrize("name", FORMATS)
def test_an_imported_zoo_goes_out_again(exported, tmp_path, name):
    zoo = bring_in(name, exported[name], tmp_path / "zoo")
    export_zoo(zoo, name, tmp_path / "again", lambda number: None)
    again = bring_in(name, tmp_path / "again", tmp_path / "zoo again")
    assert again.catalog.equals(zoo.catalog)
    assert again.record.imported.columns == zoo.record.imported.columns


def test_a_zoo_without_labels_has_no_classes_to_learn(exported, tmp_path):
    rows = exported["unterthiner"]
    with gzip.open(rows / "metrics.csv.gz", "rt") as file:
        table = list(csv.reader(file))
    place = table[0].index("label")
    (tmp_path / "in").mkdir()
    for name in ("weights.npy", "layout.csv"):
        (tmp_path / "in" / name).write_bytes((rows / name).read_bytes())
    with gzip.open(tmp_path / "in" / "metrics.csv.gz", "wt", newline="") as file:
        csv.writer(file).writerows([*line[:place], *line[place + 1 :]] for line in table)
    zoo = bring_in("unterthiner", tmp_path / "in", tmp_path / "zoo")
    assert zoo.catalog["label"].null_count == len(zoo)
    with pytest.raises(InputError, match="has no classes to learn: its members must have labels"):
        Classification().check(zoo)


def test_the_command_exports_and_imports(built_zoo, tmp_path, capsys):
    out = ["--format", "unterthiner", "--out"]
    assert main(["zoo", "export", str(built_zoo), *out, str(tmp_path / "theirs")]) == 0
    assert main(["zoo", "import", str(tmp_path / "theirs"), *out, str(tmp_path / "ours")]) == 0
    shown = capsys.readouterr()
    assert "400 members as unterthiner" in shown.out
    assert "400 members imported, 0 without weights" in shown.out
    assert "400/400 members (100 %)" in shown.err
    assert main(["zoo", "verify", str(tmp_path / "ours")]) == 0
    assert main(["zoo", "info", str(tmp_path / "ours")]) == 0
    assert "200 of digits, 8x8" in capsys.readouterr().out
    assert (
        main(
            [
                "zoo",
                "import",
                str(tmp_path / "theirs"),
                *out,
                str(tmp_path / "x"),
                "--set",
                "omgea=3",
            ]
        )
        == 2
    )
    assert "did you mean 'omega'?" in capsys.readouterr().err
    assert main(["zoo", "render", str(tmp_path / "ours"), "--out", str(tmp_path / "x.svg")]) == 0
    assert "without originals: the zoo was imported<" in (tmp_path / "x.svg").read_text()


def test_importing_again_mends_a_damaged_shard(exported, tmp_path):
    config = ImportConfig(format="webdataset", path=exported["webdataset"])
    assert len(convert.import_zoo(config, tmp_path)[0]) == NUM_MEMBERS
    shard = tmp_path / "shards" / "test-000000.tar"
    whole, others = (
        shard.read_bytes(),
        (tmp_path / "shards" / "train-000000.tar").stat().st_mtime_ns,
    )
    shard.write_bytes(whole[:-1000])
    (problem,) = verify_zoo(Zoo.open(tmp_path))
    assert "(or `import`, `merge`) makes it again" in problem
    convert.import_zoo(config, tmp_path)
    assert shard.read_bytes() == whole
    assert (tmp_path / "shards" / "train-000000.tar").stat().st_mtime_ns == others
    assert verify_zoo(Zoo.open(tmp_path)) == []


@pytest.mark.parametrize("name", FORMATS)
def test_a_shard_of_members_that_all_failed_before_comes_in(exported, tmp_path, name):
    """Such a shard is known only to dwszoo.json, as none of its members is in the source."""
    folder = shutil.copytree(exported[name], tmp_path / "in")
    beside = json.loads((folder / "dwszoo.json").read_text())
    row = beside["failed"][0]
    beside["failed"] = [row | {"key": f"9-{i}", "view": 2 + i} for i in range(5)]
    (folder / "dwszoo.json").write_text(json.dumps(beside))
    zoo = bring_in(name, folder, tmp_path / "zoo", shard_size=3)
    assert verify_zoo(zoo) == []
    statuses = zoo.catalog.to_pandas().groupby("shard")["status"].agg(list)
    assert ["failed"] * 3 in statuses.to_list()
    assert statuses.sum().count("failed") == 5
