"""A zoo in a PyTorch DataLoader: every member once, for any number of processes."""

import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Dataset, Subset

from pipeline.archive import IterableZoo, Zoo
from pipeline.archive.dataset import collatable
from pipeline.archive.write import seal_zoo
from pipeline.config import FitConfig, SignalsConfig, SirenConfig, ZooConfig
from pipeline.errors import ArchiveError, InputError
from pipeline.zoos.build import fit_shard, plan_zoo

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "archive.md"


@pytest.fixture(scope="module")
def with_failures(tmp_path_factory) -> Zoo:
    """Five shards of up to 16 members in blocks of 4; two have members without weights."""
    folder = tmp_path_factory.mktemp("failures")
    config = ZooConfig(
        signals=SignalsConfig(limit=60),
        inr=SirenConfig(hidden=(3, 2)),
        fit=FitConfig(max_steps=1),
        shard_size=16,
        block_size=4,
    )
    plan = plan_zoo(config, folder)
    first, second, *_ = [shard for shard in plan.shards if shard.split == "train"]
    for source in (*first.source_index[2:7], *second.source_index):
        plan.signals.values[source] = np.nan
    for shard in plan.shards:
        fit_shard(config, folder, plan.signals, shard)
    return seal_zoo(folder)


def keys_of(zoo: Zoo, split: str) -> list[str]:
    return zoo.members(split)["key"].to_pylist()


def keys_read(zoo: Zoo, workers: int, ranks: int, context: str | None = None) -> list[str]:
    """Keys of the train split read by all workers of all ranks, in the order of the ranks."""
    keys = []
    for rank in range(ranks):
        dataset = IterableZoo(zoo, "train", ["key"], rank=rank, world_size=ranks)
        loader = DataLoader(
            dataset, batch_size=5, num_workers=workers, multiprocessing_context=context
        )
        for state, part in loader:
            assert {len(tensor) for tensor in state.values()} == {len(part)}
            keys += part
    return keys


@pytest.mark.parametrize(("workers", "ranks"), [(0, 1), (0, 7), (2, 1), (2, 3)])
def test_workers_and_ranks_share_out_the_members_that_have_weights(with_failures, workers, ranks):
    keys = keys_read(with_failures, workers, ranks, "fork" if workers else None)
    assert sorted(keys) == sorted(keys_of(with_failures, "train"))
    assert len(keys) == 21


def test_a_spawned_worker_reads_the_zoo_for_itself(zoo):
    keys = keys_read(zoo, 2, 1, "spawn")
    assert sorted(keys) == sorted(keys_of(zoo, "train"))


@given(world_size=st.integers(1, 30))
@settings(max_examples=15, deadline=None)
def test_ranks_read_stretches_of_the_plan_that_differ_by_one_member(with_failures, world_size):
    parts = [
        [
            key
            for _, key in IterableZoo(
                with_failures, "train", ["key"], rank=rank, world_size=world_size
            )
        ]
        for rank in range(world_size)
    ]
    assert [key for part in parts for key in part] == keys_of(with_failures, "train")
    assert {len(part) for part in parts} <= {21 // world_size, -(-21 // world_size)}


def test_without_being_told_a_rank_is_that_of_torch_distributed(zoo, monkeypatch):
    """A worker without a process group uses the rank of the process that pickled the dataset."""
    dataset = IterableZoo(zoo, "train", ["key"])
    with monkeypatch.context() as patch:
        patch.setattr(dist, "is_initialized", lambda: True)
        patch.setattr(dist, "get_rank", lambda: 1)
        patch.setattr(dist, "get_world_size", lambda: 3)
        here = [key for _, key in dataset]
        spawned = pickle.loads(pickle.dumps(dataset))
    assert [key for _, key in spawned] == here == keys_of(zoo, "train")[94:188]
    assert len(list(dataset)) == 282


def test_a_pickled_zoo_has_neither_catalog_nor_tensors(zoo):
    before = len(pickle.dumps(zoo))
    state, table = zoo[7], zoo.catalog
    data = pickle.dumps(zoo)
    assert len(data) == before < 10_000 < table.nbytes
    again = pickle.loads(data)
    assert again.catalog.equals(table)
    assert all(torch.equal(again[7][name], tensor) for name, tensor in state.items())


def test_members_and_columns_are_those_of_the_catalog(with_failures):
    for state, label, key in IterableZoo(with_failures, "train", ["label", "key"]):
        (row,) = with_failures.where(pc.field("key") == key)
        assert with_failures.catalog["label"][int(row)].as_py() == label
        assert all(torch.equal(with_failures[row][name], tensor) for name, tensor in state.items())


@pytest.mark.parametrize("workers", [0, 2])
def test_a_split_is_read_in_any_order(with_failures, workers):
    dataset = with_failures.dataset("train", ["label", "key"])
    generator = torch.Generator().manual_seed(0)
    loader = DataLoader(
        dataset, batch_size=5, shuffle=True, num_workers=workers, generator=generator
    )
    read = {}
    for state, labels, keys in loader:
        assert {len(tensor) for tensor in state.values()} == {len(keys)} == {len(labels)}
        for i, key in enumerate(keys):
            read[key] = {name: tensor[i] for name, tensor in state.items()}, labels[i].item()
    keys = keys_of(with_failures, "train")
    assert list(read) != keys
    assert sorted(read) == sorted(keys)
    for key, (state, label) in read.items():
        (row,) = with_failures.where(pc.field("key") == key)
        assert same(state, with_failures[row])
        assert label == with_failures.catalog["label"][int(row)].as_py()
    assert same(dataset[2][0], read[dataset[2][2]][0])


@pytest.mark.parametrize("make", [Zoo.dataset, IterableZoo])
def test_columns_of_every_type_are_stacked(zoo, make):
    dataset = make(zoo, "train", ["label", "psnr", "view", "source_name", "stop_reason"])
    state, label, psnr, view, name, reason = next(iter(DataLoader(dataset, batch_size=5)))
    table = zoo.members("train").slice(0, 5)
    assert label.tolist() == table["label"].to_pylist()
    assert psnr.tolist() == table["psnr"].to_pylist()
    assert (label.dtype, psnr.dtype, view.dtype) == (torch.int64, torch.float32, torch.int64)
    assert list(name) == [""] * 5
    assert list(reason) == table["stop_reason"].to_pylist()
    assert state["layers.0.weight"].shape == (5, 8, 2)
    with pytest.raises(InputError, match="'seed' must have integers that fit int64"):
        next(iter(make(zoo, "train", ["seed"])))


@pytest.mark.parametrize("make", [Zoo.dataset, IterableZoo])
def test_columns_are_a_list_that_may_name_one_twice(zoo, make):
    with pytest.raises(InputError, match=r"a list of names, got 'label': pass \['label'\]"):
        make(zoo, "train", "label")
    _, first, second = next(iter(make(zoo, "train", ["label", "label"])))
    assert first == second == zoo.members("train")["label"][0].as_py()


def test_null_in_a_column_is_a_value_of_its_type():
    table = pa.table({"a": [None, 3], "b": [None, 0.1], "c": [None, "x"], "d": [None, True]})
    assert collatable(table, "a").tolist() == [-1, 3]
    assert collatable(table, "b").dtype == torch.float32
    assert collatable(table, "b").isnan().tolist() == [True, False]
    assert collatable(table, "c") == ["", "x"]
    assert collatable(table, "d").tolist() == [-1, 1]


def test_a_split_or_column_that_is_not_there_is_named(zoo):
    with pytest.raises(InputError, match="dreams"):
        zoo.dataset("train", ["dreams"])
    with pytest.raises(InputError, match="holdout"):
        zoo.dataset("holdout")


def test_the_example_of_the_documentation_runs(zoo):
    (source,) = [
        part.split("```")[0]
        for part in PAGE.read_text().split("```python\n")
        if "IterableZoo" in part.split("```")[0]
    ]
    assert 'Zoo.open("runs/demo/zoo")' in source
    names: dict = {}
    exec(source.replace("runs/demo/zoo", str(zoo.folder)), names)
    assert set(names["label"].shape) == {len(next(iter(names["state"].values())))}


def same(one: dict, other: dict) -> bool:
    return all(torch.equal(tensor, other[name]) for name, tensor in one.items())


@pytest.mark.parametrize(
    ("index", "rows"),
    [
        (slice(2, 300, 7), range(2, 300, 7)),
        (slice(None, None, -50), range(399, -1, -50)),
        ([3, -1, 3], [3, 399, 3]),
        (np.array([5, 4], np.uint8), [5, 4]),
        (torch.tensor([398, 0]), [398, 0]),
        (np.arange(400) % 150 == 1, [1, 151, 301]),
        ([], []),
        (slice(7, 7), []),
    ],
)
def test_several_members_are_stacked_in_the_order_asked_for(zoo, index, rows):
    found = zoo[index]
    assert {len(tensor) for tensor in found.values()} == {len(rows)}
    for place, row in enumerate(rows):
        assert same(zoo[row], {name: tensor[place] for name, tensor in found.items()})


@pytest.mark.parametrize("index", [-1, np.int64(-1), torch.tensor(399), np.uint16(399)])
def test_one_member_is_counted_from_either_end(zoo, index):
    assert same(zoo[index], zoo[399])
    assert same(zoo.module(index).state_dict(), zoo[399])


def test_a_zoo_is_a_sequence_of_its_members(zoo):
    assert isinstance(zoo, Dataset)
    assert len(list(zoo)) == len(zoo) == 400
    assert all(map(same, zoo, (zoo[i] for i in range(400))))
    assert sum(len(state["layers.0.bias"]) for state in DataLoader(zoo, batch_size=64)) == 400


@pytest.mark.parametrize(
    ("index", "error", "message"),
    [
        (400, IndexError, "has 400 members, got index 400"),
        (-401, IndexError, "has 400 members, got index -401"),
        ([0, 400], IndexError, "got index 400"),
        (np.ones(399, bool), IndexError, "an entry for each of the 400 members .*, got 399"),
        ("test", TypeError, "chosen by an integer, a slice, a list of integers or a mask"),
        (1.0, TypeError, "got 1.0"),
        (True, TypeError, "got True"),
        ([[1]], TypeError, "got \\[\\[1\\]\\]"),
        ([[1], [2, 3]], TypeError, "got \\[\\[1\\], \\[2, 3\\]\\]"),
    ],
)
def test_what_is_no_index_is_refused(zoo, index, error, message):
    with pytest.raises(error, match=message):
        zoo[index]


def test_several_members_are_no_module(zoo):
    with pytest.raises(TypeError, match=r"one member is a module, got \[1, 2\]"):
        zoo.module([1, 2])


def test_a_shard_of_another_name_is_an_error_with_the_nearest(zoo):
    with pytest.raises(InputError, match="no shard 'tain-000000'; did you mean 'train-000000'"):
        zoo.shard("tain-000000")


@pytest.mark.parametrize("index", [2, slice(0, 10), [2, 3, 4, 5, 6]])
def test_a_member_without_weights_says_so(with_failures, index):
    others = "" if index == 2 else ", nor have 4 others that were asked for"
    message = rf"member \S+ has no weights: its fit failed \(unreadable\){others}; zoo\.where"
    with pytest.raises(ArchiveError, match=message):
        with_failures[index]
    with_weights = with_failures.where(pc.field("status") == "ok")
    assert len(Subset(with_failures, with_weights)[0]) == 6


@pytest.mark.parametrize("split", ["tset", "valid", "Train", "", None])
@pytest.mark.parametrize("ask", ["blocks", "members", "shards_of"])
def test_an_unknown_split_is_refused_at_once(zoo, ask, split):
    with pytest.raises(InputError, match=f"no split {split!r}: expected one of train, validation"):
        getattr(zoo, ask)(split)
    with pytest.raises(InputError, match="no split"):
        IterableZoo(zoo, split)


def test_the_nearest_name_is_said(zoo):
    with pytest.raises(InputError, match="did you mean 'test'"):
        zoo.blocks("tset")
    with pytest.raises(InputError, match=r"no column 'labl': .*did you mean 'label'"):
        IterableZoo(zoo, "train", ["labl"])
    with pytest.raises(InputError, match=r"cannot be asked .*did you mean 'psnr'"):
        zoo.where(pc.field("psrn") > 30)
    with pytest.raises(InputError, match=r"cannot be asked for \(key > 30\)"):
        zoo.where(pc.field("key") > 30)


@pytest.mark.parametrize("ranks", [(2, 2), (-1, 2), (0, None), (None, 2), (0, 0)])
def test_a_rank_that_is_none_is_refused(zoo, ranks):
    with pytest.raises(InputError, match="rank must be one of world_size ranks"):
        IterableZoo(zoo, "train", rank=ranks[0], world_size=ranks[1])


def test_a_zoo_shows_what_it_holds(zoo):
    assert repr(zoo) == (
        f"<Zoo {zoo.folder}: 400 members (train 282, validation 38, test 80), 2-8-6-1, 85 "
        "parameters, finished>"
    )
