"""Reading a zoo in Python: rows by condition, members as modules, blocks in order."""

import numpy as np
import pyarrow.compute as pc
import pytest
import torch

from pipeline.archive.zoo import Zoo
from pipeline.errors import ArchiveError, InputError
from pipeline.signals import coordinates, load_signals

pytestmark = pytest.mark.fast


def test_a_module_renders_what_its_psnr_says_and_keeps_the_archives_names(zoo):
    signals = load_signals(zoo.record.config.signals)
    grid = torch.from_numpy(coordinates(signals.grid))
    best = zoo.where(pc.field("status") == "ok")[
        np.argmax(zoo.catalog["psnr"].drop_null().to_numpy())
    ]
    module, row = zoo.module(int(best)), zoo.catalog.slice(int(best), 1).to_pylist()[0]
    original = torch.from_numpy(signals.values[row["source_index"]]).reshape(len(grid), -1)
    mse = (module(grid) - original).square().mean()
    assert -10 * torch.log10(mse).item() == pytest.approx(row["psnr"], abs=0.01)
    state = zoo[int(best)]
    assert list(module.state_dict()) == list(state)
    assert all(torch.equal(module.state_dict()[name], tensor) for name, tensor in state.items())


def test_rows_are_found_by_condition(zoo):
    psnr = zoo.catalog["psnr"].to_numpy()
    found = zoo.where((pc.field("psnr") > float(np.median(psnr))) & (pc.field("split") == "train"))
    assert 0 < len(found) < len(zoo)
    assert (
        found.tolist()
        == np.flatnonzero(
            (psnr > np.median(psnr)) & (zoo.catalog["split"].to_numpy() == "train")
        ).tolist()
    )


@pytest.mark.parametrize("condition", ["psnr > 30", None, pc.field("psnr"), pc.field("pnsr") > 30])
def test_what_is_no_condition_is_refused(zoo, condition):
    with pytest.raises(InputError, match=r"cannot be asked for .*: its columns are key, split"):
        zoo.where(condition)


def test_blocks_come_in_the_order_of_the_plan_with_their_own_rows(zoo):
    keys = []
    for block, rows in zoo.blocks("train"):
        keys += rows["key"].to_pylist()
        assert {len(tensor) for tensor in block.values()} == {len(rows)}
        index = zoo.where(pc.field("key") == rows["key"][-1])[0]
        assert all(torch.equal(tensor[-1], zoo[int(index)][name]) for name, tensor in block.items())
    assert keys == zoo.members("train")["key"].to_pylist()


def test_what_is_read_is_the_readers_own(zoo):
    files = {path: path.read_bytes() for path in (zoo.folder / "shards").iterdir()}
    before = {name: tensor.clone() for name, tensor in zoo[0].items()}
    for tensor in zoo[0].values():
        tensor.fill_(7)
    for block, _ in zoo.blocks("train"):
        for tensor in block.values():
            tensor.fill_(7)
    assert all(torch.equal(zoo[0][name], tensor) for name, tensor in before.items())
    assert next(zoo.blocks("train"))[0]["layers.0.weight"][0].equal(before["layers.0.weight"])
    assert {path: path.read_bytes() for path in files} == files


def test_a_shard_cut_short_in_place_does_no_harm_to_what_was_read(zoo_copy):
    block, rows = next(Zoo.open(zoo_copy).blocks("train"))
    with open(zoo_copy / "shards" / f"{rows['shard'][0]}.tar", "r+b") as file:
        file.truncate(0)
    assert all(tensor.isfinite().all() for tensor in block.values())


def test_damage_is_told_by_the_block_that_would_come_next(zoo_copy):
    zoo = Zoo.open(zoo_copy)
    shards = [shard.name for shard in zoo.record.shards if shard.split == "train"]
    file = zoo_copy / "shards" / f"{shards[-1]}.tar"
    file.write_bytes(file.read_bytes()[:-512])
    seen = []
    blocks = (seen.append(rows["shard"][0].as_py()) for _, rows in zoo.blocks("train"))
    with pytest.raises(ArchiveError, match=f"{shards[-1]}.tar must have"):
        list(blocks)
    assert list(dict.fromkeys(seen)) == shards[:-1]
