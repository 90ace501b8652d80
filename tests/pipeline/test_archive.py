"""The archive without our own code, and damaged archives."""

import json
import re
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.torch
import torch
import webdataset
from pydantic import TypeAdapter, ValidationError
from scipy.interpolate import RegularGridInterpolator

from flows.recipes import mlps, smoke
from flows.stages import build
from pipeline.archive import catalog
from pipeline.archive.files import write_json
from pipeline.archive.record import SCHEMA_VERSION
from pipeline.archive.schemas import INRS
from pipeline.archive.summary import summarize
from pipeline.archive.verify import verify_zoo
from pipeline.archive.write import pending_shards, seal_zoo, unseal_zoo
from pipeline.archive.zoo import Zoo, column
from pipeline.config import (
    AnyOrigin,
    FitConfig,
    ImportConfig,
    MergeConfig,
    ResourcesConfig,
    SignalsConfig,
    ZooConfig,
)
from pipeline.errors import ArchiveError, InputError
from pipeline.fit.inr import psnr
from pipeline.signals import cell_centres, coordinates, load_signals
from pipeline.zoos.build import fit_shard, plan_zoo
from pipeline.zoos.inrs import Inrs
from pipeline.zoos.splits import split_sources

pytestmark = pytest.mark.fast

SHARD = "train-000001"


def test_any_webdataset_reader_opens_a_shard(built_zoo):
    shard = str(catalog.shard_path(built_zoo, SHARD))
    samples = list(webdataset.WebDataset(shard, shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == [f"{SHARD}-0000", f"{SHARD}-0001"]
    state = safetensors.torch.load(samples[0]["safetensors"])
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == {
        "layers.0.weight": (32, 8, 2),
        "layers.0.bias": (32, 8),
        "layers.1.weight": (32, 6, 8),
        "layers.1.bias": (32, 6),
        "layers.2.weight": (32, 1, 6),
        "layers.2.bias": (32, 1),
    }
    rows = pq.read_table(catalog.part_path(built_zoo, SHARD)).to_pylist()
    assert json.loads(samples[1]["json"]) == [row["key"] for row in rows if row["block"] == 1]


def test_the_decode_contract_is_enough_to_draw_a_member(zoo):
    contract = json.loads((zoo.folder / "zoo.json").read_text())["decode"]
    row = zoo.catalog.slice(3, 1).to_pylist()[0]
    state, size = zoo[3], zoo.record.signals.grid[0]
    axis = torch.linspace(*contract["coordinate_range"], size)
    values = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    for layer, activation in enumerate(contract["activations"]):
        values = values @ state[f"layers.{layer}.weight"].t() + state[f"layers.{layer}.bias"]
        values = torch.sin(contract["omega"] * values) if activation == "sine" else values
    signals = load_signals(zoo.record.config.signals)
    wanted = torch.from_numpy(signals.values[row["source_index"]]).reshape(-1, 1)
    mse = (values + contract["output_offset"] - wanted).square().mean()
    assert -10 * torch.log10(mse) == pytest.approx(row["psnr"], abs=1e-3)


def test_the_catalog_tells_the_psnr_of_every_stored_member(zoo):
    signals, seen = load_signals(zoo.record.config.signals), 0
    for split in ("train", "validation", "test"):
        for block, rows in zoo.blocks(split):
            values = torch.from_numpy(signals.values[column(rows, "source_index")]).flatten(1, -2)
            found = psnr(zoo.decoder(block, zoo.record.coordinates()), values)
            np.testing.assert_allclose(found, column(rows, "psnr"), atol=1e-3)
            np.testing.assert_array_equal(
                signals.labels[column(rows, "source_index")], column(rows, "label")
            )
            seen += len(rows)
    assert seen == len(zoo) == 400


@pytest.mark.parametrize("grid", [(7,), (4, 6), (3, 5, 4)], ids=len)
def test_between_the_points_of_a_grid_a_signal_is_its_multilinear_interpolation(grid):
    values = np.random.default_rng(0).random((3, *grid, 2), np.float32)
    axes = [np.linspace(-1, 1, size) for size in grid]
    centres = np.stack(
        np.meshgrid(*[(axis[1:] + axis[:-1]) / 2 for axis in axes], indexing="ij"), -1
    )
    wanted = RegularGridInterpolator(axes, np.moveaxis(values, 0, -1))(centres)
    np.testing.assert_allclose(
        np.moveaxis(cell_centres(values, len(grid)), 0, -1), wanted, atol=1e-6
    )
    drawn = cell_centres(coordinates(grid).reshape(1, *grid, len(grid)), len(grid))
    np.testing.assert_allclose(drawn[0], centres, atol=1e-6)


def test_the_catalog_tells_the_psnr_off_the_grid_of_every_stored_member(zoo):
    signals, axis = load_signals(zoo.record.config.signals), np.linspace(-1, 1, 8)
    middle = (axis[1:] + axis[:-1]) / 2
    points = np.stack(np.meshgrid(middle, middle, indexing="ij"), -1).reshape(-1, 2)
    for index in (0, 150, 399):
        row = zoo.catalog.slice(index, 1).to_pylist()[0]
        wanted = RegularGridInterpolator((axis, axis), signals.values[row["source_index"], ..., 0])(
            points
        )
        drawn = zoo.module(index)(torch.from_numpy(points).float())[:, 0].detach().numpy()
        assert -10 * np.log10(np.square(drawn - wanted).mean()) == pytest.approx(
            row["psnr_off_grid"], abs=1e-3
        )
        assert row["psnr_off_grid"] != pytest.approx(row["psnr"], abs=0.1)


def test_all_views_of_a_signal_are_on_one_side(zoo):
    table = zoo.catalog.to_pandas()
    assert (table.groupby("source_index")["split"].nunique() == 1).all()
    assert (table.groupby("source_index")["view"].count() == 2).all()
    assert table["key"].is_unique
    assert table["seed"].is_unique
    shares = table.groupby("split")["source_index"].nunique()
    assert shares.to_dict() == {"train": 141, "validation": 19, "test": 40}


def test_fitting_a_shard_again_gives_the_same_bytes(zoo_copy):
    config = smoke().zoo
    plan = plan_zoo(config, zoo_copy)
    shard = next(shard for shard in plan.shards if shard.name == SHARD)
    paths = [catalog.shard_path(zoo_copy, SHARD), catalog.part_path(zoo_copy, SHARD)]
    before = [path.read_bytes() for path in paths]
    fit_shard(config, zoo_copy, plan.signals, shard)
    assert [path.read_bytes() for path in paths] == before


def test_members_that_diverge_keep_their_row_without_weights(tmp_path):
    config = smoke().zoo.model_copy(update={"signals": SignalsConfig(limit=60), "views": 1})
    plan = plan_zoo(config, tmp_path)
    plan.signals.values[plan.shards[0].source_index[1]] = 1e30  # its error overflows
    summary = fit_shard(config, tmp_path, plan.signals, plan.shards[0])
    assert summary.num_failed == 1
    rows = catalog.read_part(tmp_path, plan.shards[0].name, INRS).table.to_pylist()
    failed = rows.pop(1)
    assert [
        failed[name] for name in ("status", "stop_reason", "block", "psnr", "psnr_off_grid")
    ] == [
        "failed",
        "diverged",
        *[None] * 3,
    ]
    assert {row["status"] for row in rows} == {"ok"}
    for shard in plan.shards[1:]:
        fit_shard(config, tmp_path, plan.signals, shard)
    zoo = seal_zoo(tmp_path)
    assert verify_zoo(zoo) == []
    assert sum(len(block["layers.0.bias"]) for block, _ in zoo.blocks("train")) == len(
        zoo.members("train")
    )
    with pytest.raises(
        ArchiveError, match=r"member .* has no weights: its fit failed \(diverged\)"
    ):
        zoo[1]


def flip_a_bit(path: Path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut_short(path: Path):
    path.write_bytes(path.read_bytes()[: 512 * 4])


def cut_between_blocks(path: Path):
    """Leave the whole first block, without the end of the tar."""
    with tarfile.open(path) as tar:
        place = tar.getmembers()[2].offset
    path.write_bytes(path.read_bytes()[:place])


def shard(folder):
    return catalog.shard_path(folder, SHARD)


def part(folder):
    return catalog.part_path(folder, SHARD)


DAMAGE = {
    "flipped bit": (
        lambda folder: flip_a_bit(shard(folder)),
        "must have sha256 [0-9a-f]{64}, found [0-9a-f]{64}",
    ),
    "cut short": (lambda folder: cut_short(shard(folder)), "must have [0-9]+ bytes, found 2048"),
    "cut between blocks": (
        lambda folder: cut_between_blocks(shard(folder)),
        "must have [0-9]+ bytes, found [0-9]+",
    ),
    "missing shard": (
        lambda folder: shard(folder).unlink(),
        "is missing though the catalog names it",
    ),
    "missing part": (
        lambda folder: part(folder).unlink(),
        "is not committed: expected its catalog part",
    ),
    "flipped catalog": (
        lambda folder: flip_a_bit(part(folder)),
        "catalog part .* must have sha256",
    ),
    "empty catalog": (
        lambda folder: part(folder).write_bytes(b""),
        "catalog part .* must have sha256",
    ),
    "other shard": (
        lambda folder: shutil.copy(part(folder), catalog.part_path(folder, "train-000000")),
        "train-000000",
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_verify_finds_the_damage_and_build_fits_just_that_shard_again(zoo_copy, built_zoo, name):
    damage, message = DAMAGE[name]
    damage(zoo_copy)
    (problem,) = verify_zoo(Zoo.open(zoo_copy))
    assert re.search(message, problem), problem
    assert re.search(rf"(?:{SHARD}|train-000000)\b.*`dwszoo zoo build`.*makes", problem), problem
    plan = plan_zoo(smoke().zoo, zoo_copy)
    (pending,) = pending_shards(zoo_copy)
    fit_shard(
        plan.record.config,
        zoo_copy,
        plan.signals,
        next(s for s in plan.shards if s.name == pending),
    )
    assert verify_zoo(Zoo.open(zoo_copy)) == []
    for folder in ("shards", "catalog"):
        for path in (built_zoo / folder).iterdir():
            assert (zoo_copy / folder / path.name).read_bytes() == path.read_bytes()


def test_the_stages_of_a_build_fit_just_the_damaged_shards_again(zoo_copy, built_zoo, monkeypatch):
    fitted = []

    def one_after_another(function, shards, shared, *_, **__):
        for one in shards:
            fitted.append(one.name)
            yield one, function(*shared, one)

    monkeypatch.setattr("flows.stages.build.run_tasks", one_after_another)
    flip_a_bit(shard(zoo_copy))
    catalog.part_path(zoo_copy, "test-000000").unlink()
    before = {path: path.stat().st_mtime_ns for path in zoo_copy.rglob("*-*.*")}
    plan = build.plan(smoke().zoo, zoo_copy)
    build.archive(zoo_copy, fitted=build.fit_zoo(plan, zoo_copy, ResourcesConfig()) is not None)
    assert build.verify(zoo_copy).statistics == Zoo.open(built_zoo).statistics
    assert fitted == [SHARD, "test-000000"]
    touched = {
        path.stem for path in zoo_copy.rglob("*-*.*") if path.stat().st_mtime_ns != before.get(path)
    }
    assert touched == set(fitted)


def test_a_catalog_damaged_before_the_zoo_is_sealed_is_found_too(zoo_copy):
    (zoo_copy / "statistics.json").unlink()
    data = part(zoo_copy).read_bytes()
    part(zoo_copy).write_bytes(data[:40] + bytes([data[40] ^ 1]) + data[41:])
    assert "is damaged" in pending_shards(zoo_copy)[SHARD]


def test_a_damaged_seal_is_named(zoo_copy):
    (zoo_copy / "statistics.json").write_text("[]")
    (problem,) = verify_zoo(Zoo.open(zoo_copy))
    assert "statistics.json is damaged" in problem


def test_reading_a_damaged_shard_says_so(zoo_copy):
    flip_a_bit(shard(zoo_copy))
    with pytest.raises(ArchiveError, match=f"shard .*{SHARD}.tar must have sha256"):
        list(Zoo.open(zoo_copy).blocks("train"))


def test_verify_finds_files_and_figures_that_do_not_belong(zoo_copy):
    (zoo_copy / "shards" / "train-000099.tar").write_bytes(b"")
    (problem,) = verify_zoo(Zoo.open(zoo_copy))
    assert "train-000099.tar is not in the plan" in problem
    (zoo_copy / "shards" / "train-000099.tar").unlink()
    content = json.loads((zoo_copy / "statistics.json").read_text())
    content["tensors"]["layers.1.weight"]["std"] *= 1.01
    write_json(zoo_copy / "statistics.json", content)
    (problem,) = verify_zoo(Zoo.open(zoo_copy))
    assert "statistics.json is wrong for layers.1.weight" in problem


def test_a_folder_that_is_no_zoo_says_how_to_make_one(tmp_path):
    with pytest.raises(
        InputError, match=r"is not a zoo: expected a folder with zoo\.json, found none"
    ):
        Zoo.open(tmp_path)


def edit(folder: Path, **changes):
    content = json.loads((folder / "zoo.json").read_text())
    write_json(folder / "zoo.json", content | changes)


def test_a_newer_schema_is_refused_by_name(zoo_copy):
    edit(zoo_copy, schema_version=SCHEMA_VERSION + 1)
    message = f"version {SCHEMA_VERSION + 1}, this dwszoo reads up to {SCHEMA_VERSION}: install a"
    with pytest.raises(InputError, match=message):
        Zoo.open(zoo_copy)


LATER = [field.name for field in INRS if b"since" in (field.metadata or {})]


@pytest.fixture
def first_version(zoo_copy) -> Path:
    """The zoo in schema version 1: without later columns, and with a label that cannot be null.

    Its configuration has no kind.
    """
    config = json.loads((zoo_copy / "zoo.json").read_text())["config"]
    assert config.pop("kind") == "inrs"
    edit(zoo_copy, schema_version=1, config=config)
    (zoo_copy / "statistics.json").unlink()
    for file in zoo_copy.glob("catalog/*.parquet"):
        table = pq.read_table(file).drop_columns(LATER)
        place = table.schema.get_field_index("label")
        schema = table.schema.set(place, table.schema.field(place).with_nullable(False))
        pq.write_table(table.cast(schema), file, write_page_checksum=True)
    seal_zoo(zoo_copy)
    return zoo_copy


ORIGINS = {
    "inrs": smoke().zoo,
    "classifiers": mlps().zoo,
    "imported": ImportConfig(format="dwsnets", path=Path("zoo")),
    "merged": MergeConfig(zoos=(("12345678", "0"), ("87654321", "1")), paths=("one", "other")),
}


@pytest.mark.parametrize("kind", ORIGINS)
def test_the_kind_of_a_zoo_is_in_its_configuration_and_not_in_its_fingerprint(kind):
    config, kinds = ORIGINS[kind], TypeAdapter(AnyOrigin)
    content = config.model_dump(mode="json")
    assert content["kind"] == kind
    assert kinds.validate_python(content) == config
    older = {name: value for name, value in content.items() if name != "kind"}
    assert kinds.validate_python(older) == config
    assert "kind" not in config.identity()
    with pytest.raises(
        ValidationError, match="no kind 'sculpture': expected one of inrs, classifiers"
    ):
        kinds.validate_python(content | {"kind": "sculpture"})


def test_a_damaged_configuration_is_named_by_its_field(zoo_copy):
    config = json.loads((zoo_copy / "zoo.json").read_text())["config"]
    edit(zoo_copy, config=config | {"views": "many"})
    with pytest.raises(
        ArchiveError, match=r"zoo\.json is damaged \(config\.views: Input should be"
    ):
        Zoo.open(zoo_copy)


def test_a_zoo_of_the_first_schema_version_is_read_and_goes_on_as_the_newest(
    first_version, built_zoo
):
    zoo, new = Zoo.open(first_version), Zoo.open(built_zoo)
    assert verify_zoo(zoo) == []
    assert LATER == ["source_name", "failure", "psnr_off_grid"]
    assert all(zoo.catalog[name].null_count == len(zoo) for name in LATER)
    assert zoo.catalog.drop_columns(LATER).equals(new.catalog.drop_columns(LATER))
    assert summarize(zoo)["psnr off grid"] == {}
    shard(first_version).unlink()
    plan = plan_zoo(smoke().zoo, first_version)
    (pending,) = pending_shards(first_version)
    unseal_zoo(first_version, plan.record)
    fit_shard(
        smoke().zoo, first_version, plan.signals, next(s for s in plan.shards if s.name == pending)
    )
    zoo = seal_zoo(first_version)
    assert verify_zoo(zoo) == []
    assert zoo.record.schema_version == SCHEMA_VERSION
    assert zoo.catalog["psnr_off_grid"].null_count == len(zoo) - len(zoo.parts[SHARD].table)
    assert zoo.parts[SHARD].table.equals(new.parts[SHARD].table)


def test_a_zoo_json_that_was_tampered_with_is_refused(zoo_copy):
    content = json.loads((zoo_copy / "zoo.json").read_text())
    content["config"]["inr"]["omega"] = 31.0
    write_json(zoo_copy / "zoo.json", content)
    with pytest.raises(ArchiveError, match=r"zoo\.json is damaged: its fingerprint is"):
        Zoo.open(zoo_copy)
    (zoo_copy / "zoo.json").write_text("{")
    with pytest.raises(ArchiveError, match=r"zoo\.json is damaged"):
        Zoo.open(zoo_copy)


def test_a_changed_decode_contract_is_found(zoo_copy):
    content = json.loads((zoo_copy / "zoo.json").read_text())
    content["decode"]["output_offset"] = 0.4
    write_json(zoo_copy / "zoo.json", content)
    (problem,) = verify_zoo(Zoo.open(zoo_copy))
    assert problem == "zoo.json is not as it was when the zoo was finished: put back a copy"


def test_another_configuration_is_refused_and_the_field_is_named(zoo_copy):
    config = smoke().zoo
    changed = config.model_copy(update={"fit": config.fit.model_copy(update={"max_steps": 61})})
    with pytest.raises(
        InputError, match=r"differs from this one .* in fit\.max_steps: was 60, is 61"
    ):
        plan_zoo(changed, zoo_copy)
    assert verify_zoo(Zoo.open(zoo_copy)) == []


def test_an_empty_validation_split_is_refused_before_any_fit(tmp_path):
    config = smoke().zoo
    signals = config.signals.model_copy(update={"validation_fraction": 0.0})
    with pytest.raises(
        InputError, match="the validation split would be empty: 200 signals in 10 classes"
    ):
        plan_zoo(config.model_copy(update={"signals": signals}), tmp_path)
    assert not (tmp_path / "zoo.json").exists()


def test_the_plan_depends_on_the_seed_alone():
    config = smoke().zoo
    signals = load_signals(config.signals)
    one, same = Inrs(config, signals).plan_shards(), Inrs(config, signals).plan_shards()
    assert all(
        np.array_equal(a.source_index, b.source_index) for a, b in zip(one, same, strict=True)
    )
    other = split_sources(config.model_copy(update={"seed": 1}), signals)
    assert not np.array_equal(other["test"], split_sources(config, signals)["test"])


def test_every_class_is_split_in_the_same_shares_and_every_signal_planned_once_a_view():
    config = ZooConfig(signals=SignalsConfig(source="digits"), views=2)
    signals = load_signals(config.signals)
    digits = np.array(
        [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    )  # of each class, 1,797 in all
    kind = Inrs(config, signals)
    shards = kind.plan_shards()
    planned = {split: np.array(counts) for split, counts in kind.class_counts(shards).items()}
    assert planned["test"].tolist() == [2 * round(number * 0.2) for number in digits]
    assert planned["validation"].tolist() == [2 * round(number * 0.1) for number in digits]
    assert sum(planned.values()).tolist() == (2 * digits).tolist()
    members = [
        pair for shard in shards for pair in zip(shard.source_index, shard.view, strict=True)
    ]
    assert sorted(members) == [(source, view) for source in range(1797) for view in range(2)]


def relabelled(table: pa.Table) -> pa.Table:
    return table.set_column(
        table.column_names.index("label"), table.schema.field("label"), [np.full(len(table), 3)]
    )


def moved(table: pa.Table) -> pa.Table:
    return table.set_column(
        table.column_names.index("source_index"),
        table.schema.field("source_index"),
        [np.arange(len(table))],
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            relabelled,
            r"the validation split must have 4 members of class 0, found 0: build the zoo anew",
        ),
        (
            moved,
            r"all members of source \d+ must be in one split, found them in several: "
            r"build the zoo anew",
        ),
    ],
)
def test_members_other_than_the_planned_ones_are_found_though_every_checksum_is_right(
    zoo_copy, change, message
):
    (zoo_copy / "statistics.json").unlink()
    file = catalog.part_path(zoo_copy, "validation-000000")
    pq.write_table(change(pq.read_table(file)), file, write_page_checksum=True)
    assert any(re.fullmatch(message, problem) for problem in verify_zoo(seal_zoo(zoo_copy)))


def test_a_sources_own_test_split_is_kept():
    config = smoke().zoo
    signals = load_signals(config.signals)
    held_out = np.arange(len(signals)) >= 170
    splits = split_sources(config, replace(signals, held_out=held_out))
    np.testing.assert_array_equal(splits["test"], np.arange(170, 200))
    assert sorted(np.concatenate(list(splits.values()))) == list(range(200))
    assert len(splits["validation"]) == 19


@pytest.mark.parametrize("shared", [False, True])
def test_inrs_of_a_view_begin_at_the_same_weights_where_asked(tmp_path, shared):
    inr = smoke().zoo.inr.model_copy(update={"shared_init": shared})
    fit = FitConfig(max_steps=1, learning_rate=1e-9)
    config = smoke().zoo.model_copy(
        update={"signals": SignalsConfig(limit=60), "views": 2, "inr": inr, "fit": fit}
    )
    plan = plan_zoo(config, tmp_path)
    for shard in plan.shards:
        fit_shard(config, tmp_path, plan.signals, shard)
    zoo = seal_zoo(tmp_path)
    weights = np.stack([zoo[i]["layers.0.weight"].numpy() for i in range(len(zoo))]).round(5)
    view = column(zoo.catalog, "view")
    counts = [
        len(np.unique(part, axis=0)) for part in (weights[view == 0], weights[view == 1], weights)
    ]
    assert counts == ([1, 1, 2] if shared else [60, 60, 120])
