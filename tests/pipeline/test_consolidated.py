"""The catalog that sealing writes as one file, with the positions of blocks."""

import json
import shutil
from dataclasses import astuple, fields
from itertools import pairwise

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from pipeline.archive import extents as reading
from pipeline.archive import write
from pipeline.archive.catalog import BLOCKS, BlockMark, part_path, shard_path
from pipeline.archive.consolidated import PARTS, ROWS, SHARDS
from pipeline.archive.extents import extents_of, read_extent
from pipeline.archive.seal import SEAL
from pipeline.archive.verify import verify_zoo
from pipeline.archive.write import pending_shards, seal_zoo, unseal_zoo
from pipeline.archive.zoo import Zoo
from pipeline.errors import ArchiveError
from pipeline.training import sources
from pipeline.training.loader import Feed
from tests.conftest import contents
from tests.s3 import CLIENT, Handler, s3_server

pytestmark = pytest.mark.fast


def rewrite(path, change, metadata=None):
    """Replace the rows of a Parquet file, and keep or replace its metadata."""
    table = pq.read_table(path)
    kept = table.schema.metadata if metadata is None else metadata
    pq.write_table(change(table).replace_schema_metadata(kept), path, write_page_checksum=True)


def make_old(folder):
    """The zoo of an older version: no consolidated catalog, no positions of blocks in parts."""
    for file in (ROWS, SHARDS, SEAL):
        (folder / file).unlink()
    for part in (folder / "catalog").iterdir():
        metadata = dict(pq.read_schema(part).metadata)
        metadata.pop(BLOCKS)
        rewrite(part, lambda table: table, metadata)


def test_a_finished_zoo_is_opened_without_its_parts(zoo, zoo_copy):
    shutil.rmtree(zoo_copy / "catalog")
    found = Zoo.open(zoo_copy)
    assert found.catalog.equals(zoo.catalog)
    assert found.marks == {name: part.mark for name, part in zoo.parts.items()} == zoo.marks
    assert found.parts.keys() == zoo.parts.keys()
    for name, part in found.parts.items():
        assert part == Zoo.open(zoo.folder).parts[name]
    assert found.columns(["label", "key"]).equals(zoo.catalog.select(["label", "key"]))
    with pytest.raises(KeyError):
        Zoo.open(zoo_copy).columns(["label", "nothing"])
    assert "is not committed" in verify_zoo(found)[0]


@pytest.mark.parametrize("missing", [(ROWS,), (SHARDS,), (ROWS, SHARDS)])
def test_a_zoo_without_it_is_opened_by_its_parts(zoo, zoo_copy, missing):
    for file in missing:
        (zoo_copy / file).unlink()
    found = Zoo.open(zoo_copy)
    assert found.catalog.equals(zoo.catalog)
    assert found.marks == zoo.marks
    assert verify_zoo(found) == []


def test_one_of_other_parts_is_not_used_and_verify_says_so(zoo, zoo_copy):
    rewrite(zoo_copy / ROWS, lambda table: table.slice(0, 3), {PARTS: b"others"})
    assert Zoo.open(zoo_copy).catalog.equals(zoo.catalog)
    assert verify_zoo(Zoo.open(zoo_copy)) == [
        f"{zoo_copy / ROWS} is not what the catalog parts say: delete it"
    ]


def test_rows_and_marks_that_parts_do_not_have_are_found(zoo_copy):
    def relabel(table: pa.Table) -> pa.Table:
        labels = pa.array([0] * len(table), pa.int64())
        return table.set_column(
            table.column_names.index("label"), table.schema.field("label"), labels
        )

    rewrite(zoo_copy / ROWS, relabel)
    rewrite(
        zoo_copy / SHARDS,
        lambda table: table.set_column(
            2, table.schema.field(2), pa.array([1] * len(table), pa.int64())
        ),
    )
    assert verify_zoo(Zoo.open(zoo_copy)) == [
        f"{zoo_copy / file} is not what the catalog parts say: delete it" for file in (ROWS, SHARDS)
    ]


@pytest.mark.parametrize("file", [ROWS, SHARDS])
def test_damage_is_a_sentence_that_says_how_to_go_on(zoo, zoo_copy, file):
    data = (zoo_copy / file).read_bytes()
    (zoo_copy / file).write_bytes(data[: len(data) // 2])
    with pytest.raises(ArchiveError, match=rf"{file} is damaged \(.*\): delete it"):
        len(Zoo.open(zoo_copy).catalog), Zoo.open(zoo_copy).marks
    assert any(f"{file} is damaged" in problem for problem in verify_zoo(Zoo.open(zoo_copy)))
    (zoo_copy / file).unlink()
    assert Zoo.open(zoo_copy).catalog.equals(zoo.catalog)
    (zoo_copy / ROWS).unlink(missing_ok=True)
    shutil.copy(zoo.folder / ROWS, zoo_copy)
    rewrite(zoo_copy / ROWS, lambda table: table.slice(1))
    with pytest.raises(ArchiveError, match="must have 400 rows, found 399: delete it"):
        len(Zoo.open(zoo_copy).catalog)


def test_a_seal_that_is_interrupted_leaves_a_zoo_that_is_not_finished(zoo_copy, monkeypatch):
    whole = contents(zoo_copy)
    record = Zoo.open(zoo_copy).record
    for stage in ("write_consolidated", "write_json"):
        unseal_zoo(zoo_copy, record)
        assert contents(zoo_copy).keys() == whole.keys() - {SEAL, ROWS, SHARDS}
        with monkeypatch.context() as patch:
            patch.setattr(write, stage, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                seal_zoo(zoo_copy)
        found = Zoo.open(zoo_copy)
        assert not found.is_sealed
        part_path(zoo_copy, "test-000000").rename(zoo_copy / "kept")
        with pytest.raises(ArchiveError, match="is not committed"):
            found.catalog  # noqa: B018 the parts are what counts
        (zoo_copy / "kept").rename(part_path(zoo_copy, "test-000000"))
    seal_zoo(zoo_copy)
    assert contents(zoo_copy) == whole


def test_an_object_store_is_asked_a_few_times(zoo, monkeypatch):
    for name, value in CLIENT.items():
        monkeypatch.setenv(name, value)
    seen, parse = [], Handler.parse_request
    monkeypatch.setattr(Handler, "parse_request", lambda self: (parse(self), seen.append(1))[0])
    with s3_server() as (query, objects):
        for file in zoo.folder.rglob("*"):
            if file.is_file():
                objects[f"/bucket/zoo/{file.relative_to(zoo.folder)}"] = file.read_bytes()
        remote = Zoo.open(f"s3://bucket/zoo?{query}")
        assert remote.catalog.equals(zoo.catalog)
        assert remote.marks == zoo.marks
    assert 0 < len(seen) < 10


def test_blocks_are_read_in_any_order(zoo):
    extents = extents_of(zoo, "train")
    blocks = [block for block, _ in zoo.blocks("train")]
    assert len(extents) == len(blocks) > 3
    for extent, block in list(zip(extents, blocks, strict=True))[::-1]:
        found = read_extent(zoo, extent, verify=True)
        assert all(torch.equal(found[name], values) for name, values in block.items())


def test_an_older_zoo_is_read_by_shards_and_gets_a_catalog_when_it_is_sealed(zoo, zoo_copy):
    make_old(zoo_copy)
    found = seal_zoo(zoo_copy)
    assert verify_zoo(found) == []
    assert all(mark.blocks is None for mark in found.marks.values())
    extents = extents_of(found, "train")
    assert [extent.shard for extent in extents] == [shard.name for shard in zoo.shards_of("train")]
    for feed, other in (
        (Feed(found, "train", ("label",)), Feed(zoo, "train", ("label",))),
        (Feed(found, "train", (), members=50), Feed(zoo, "train", (), members=50)),
    ):
        rows = [torch.cat([batch.positions for batch in one.whole()]) for one in (feed, other)]
        assert torch.equal(*rows)
        seen = torch.cat([batch.positions for batch in feed.epoch(1, 1)])
        assert torch.equal(seen.sort().values, rows[0])


def test_a_block_is_compared_with_its_checksum_when_it_is_first_read(zoo_copy, monkeypatch):
    monkeypatch.setattr(sources, "STAGED_SHARE", 0)
    found = Zoo.open(zoo_copy)
    feed, hashed = Feed(found, "train", ()), []
    hash_of = reading.sha256
    monkeypatch.setattr(reading, "sha256", lambda data: (hashed.append(1), hash_of(data))[1])
    for epoch in (1, 2):
        assert len(list(feed.epoch(epoch, 16))) == feed.num_batches(16)
        assert len(hashed) == len(extents_of(found, "train"))
    extent = extents_of(found, "train")[1]
    path = shard_path(zoo_copy, extent.shard)
    data = bytearray(path.read_bytes())
    data[extent.block.start + extent.block.num_bytes - 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(
        ArchiveError, match=rf"{extent.block.sha256} \(from byte {extent.block.start} on it has"
    ):
        list(Feed(found, "train", ()).epoch(1, 16))
    path.unlink()
    with pytest.raises(ArchiveError, match="is missing though the catalog names it"):
        list(Feed(found, "train", ()).epoch(1, 16))


@pytest.mark.parametrize(
    ("change", "problem"),
    [({"start": 1024}, "must have a block"), ({"num_members": 1}, "it must hold float32 tensors")],
)
def test_a_part_that_is_wrong_about_its_blocks_is_found(zoo_copy, change, problem):
    (zoo_copy / SEAL).unlink()
    part, shard = part_path(zoo_copy, "train-000001"), shard_path(zoo_copy, "train-000001")
    metadata = dict(pq.read_schema(part).metadata)
    marks = [list(astuple(block)) for block in Zoo.open(zoo_copy).marks["train-000001"].blocks]
    field, value = next(iter(change.items()))
    marks[1][[field.name for field in fields(BlockMark)].index(field)] = value
    rewrite(part, lambda table: table, metadata | {BLOCKS: json.dumps(marks).encode()})
    assert [name for name in pending_shards(zoo_copy)] == ["train-000001"]
    assert problem in pending_shards(zoo_copy)["train-000001"]
    assert str(shard) in pending_shards(zoo_copy)["train-000001"]


def test_blocks_of_a_shard_lie_one_after_another(zoo):
    for name, mark in zoo.marks.items():
        assert mark.num_bytes == shard_path(zoo.folder, name).stat().st_size
        for one, other in pairwise(mark.blocks):
            assert one.start + one.num_bytes <= other.start
        assert sum(block.num_members for block in mark.blocks) == len(zoo.parts[name].table)
