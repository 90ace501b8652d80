"""Malformed archives are refused in one sentence.

Nothing in them is run, imported or unpickled, nothing is written, and no size in them is trusted.
"""

import io
import json
import os
import pickle
import sys
import tarfile
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.recipes import smoke
from pipeline.archive import catalog
from pipeline.archive.files import sha256
from pipeline.archive.shard import decode_shard
from pipeline.archive.summary import summarize
from pipeline.archive.verify import verify_zoo
from pipeline.archive.write import seal_zoo
from pipeline.archive.zoo import Zoo
from pipeline.config import FitConfig, SignalsConfig
from pipeline.errors import ArchiveError, InputError
from pipeline.training.loader import Feed
from pipeline.zoos.build import fit_shard, plan_zoo

SHARD = "test-000000"
CHANGES = {
    "signals": SignalsConfig(limit=60),
    "views": 1,
    "fit": FitConfig(max_steps=1),
    "block_size": 8,
}
CONFIG = smoke().zoo.model_copy(update=CHANGES)
OVERHEAD = 2**18
"""Bytes that reading allocates in addition to the file's."""
EVENTS: list[tuple[str, Any]] | None = None
FORBIDDEN = (
    "pickle.",
    "exec",
    "compile",
    "import",
    "os.",
    "subprocess.",
    "socket.",
    "shutil.",
    "ctypes.",
    "marshal.",
)
HARMLESS = ("os.listdir", "os.scandir")


def listen(event: str, arguments: tuple):
    if EVENTS is None:
        return
    writes = event == "open" and (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    if writes or (event.startswith(FORBIDDEN) and event not in HARMLESS):
        EVENTS.append((event, arguments[:1]))


sys.addaudithook(listen)


@contextmanager
def nothing_is_run() -> Iterator[None]:
    global EVENTS
    EVENTS = []
    try:
        yield
        assert EVENTS == []
    finally:
        EVENTS = None


def read_everything(folder: Path):
    zoo = Zoo.open(folder)
    verify_zoo(zoo)
    for split in ("train", "validation", "test"):
        assert all(
            len(rows) == len(next(iter(block.values()))) for block, rows in zoo.blocks(split)
        )
        assert all(len(batch) for batch in Feed(zoo, split, ()).whole())
    summarize(zoo)
    zoo.module(0)


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """A finished zoo and an unfinished one; each test restores what it changes."""
    made = {name: tmp_path_factory.mktemp(name) for name in ("sealed", "open")}
    for folder in made.values():
        plan = plan_zoo(CONFIG, folder)
        for shard in plan.shards:
            fit_shard(CONFIG, folder, plan.signals, shard)
        read_everything(folder)  # what is imported late is imported now
    seal_zoo(made["sealed"])
    return made


@contextmanager
def instead(file: Path, data: bytes) -> Iterator[None]:
    before = file.read_bytes()
    file.write_bytes(data)
    try:
        yield
    finally:
        file.write_bytes(before)


def assert_refused_or_sound(folder: Path):
    with nothing_is_run():
        try:
            read_everything(folder)
        except (ArchiveError, InputError) as error:
            sentence = str(error)
        else:
            sentence = "sound"
    assert len(sentence.splitlines()) == 1


def changed(data: st.DataObject, before: bytes) -> bytes:
    """The bytes truncated, flipped, overwritten or with others inserted, anywhere."""
    place, other = (
        data.draw(st.integers(0, len(before) - 1)),
        data.draw(st.binary(min_size=1, max_size=9)),
    )
    rest = {"cut": b"", "flip": bytes([before[place] ^ other[0]]) + before[place + 1 :]}
    rest |= {"overwrite": other + before[place + len(other) :], "insert": other + before[place:]}
    return before[:place] + rest[data.draw(st.sampled_from([*rest]))]


@pytest.mark.parametrize("name", ["sealed", "open"])
@settings(max_examples=40, deadline=None, derandomize=True)
@given(data=st.data())
def test_no_change_of_any_file_breaks_the_reader(folders, name, data):
    files = sorted(path for path in folders[name].rglob("*") if path.is_file())
    file = data.draw(st.sampled_from(files))
    with instead(file, changed(data, file.read_bytes())):
        assert_refused_or_sound(folders[name])


@settings(max_examples=80, deadline=None, derandomize=True)
@given(data=st.data())
def test_no_change_of_a_catalog_part_without_checksum_breaks_the_reader(folders, data):
    file = catalog.part_path(folders["open"], SHARD)
    with instead(file, changed(data, file.read_bytes())):
        assert_refused_or_sound(folders["open"])


@settings(max_examples=200, deadline=None, derandomize=True)
@given(data=st.data())
def test_no_change_of_a_shard_that_no_checksum_covers_breaks_the_reader(folders, data):
    zoo = Zoo.open(folders["open"])
    read_back(SHARD, changed(data, catalog.shard_path(zoo.folder, SHARD).read_bytes()), zoo.space)


def read_back(name: str, content: bytes, space):
    """Decode it or be refused; no more is allocated than the file holds."""
    array = np.frombuffer(bytearray(content), np.uint8)
    tracemalloc.start()
    try:
        with nothing_is_run():
            blocks = decode_shard(name, array, space)
        assert all(len(tensor) == len(keys) for block, keys in blocks for tensor in block.values())
    except ArchiveError as error:
        sentence = str(error)
    else:
        sentence = "sound"
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert len(sentence.splitlines()) == 1
    assert peak < len(content) + OVERHEAD


LEAVES = [
    None,
    True,
    -1,
    0,
    2**63,
    10**400,
    1e308,
    float("nan"),
    "",
    "../../evil",
    "x" * 10_000,
    [],
    {},
    [[]],
    {"a": {}},
]


def places(value: Any, path: tuple = ()) -> Iterator[tuple]:
    yield path
    children = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for key, child in children:
        yield from places(child, (*path, key))


@pytest.mark.parametrize("file", ["zoo.json", "statistics.json"])
@settings(max_examples=80, deadline=None, derandomize=True)
@given(data=st.data())
def test_no_value_anywhere_in_json_breaks_the_reader(folders, file, data):
    path = folders["sealed"] / file
    content = json.loads(path.read_bytes())
    *way, last = data.draw(
        st.sampled_from([path for path in places(content) if path and path[0] != "config"])
    )
    where = content
    for key in way:
        where = where[key]
    where[last] = data.draw(st.sampled_from(LEAVES))
    with instead(path, json.dumps(content).encode()):
        assert_refused_or_sound(folders["sealed"])


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"3", b"null", b"\xff\xfe", b"[" * 100_000, b'{"a":' * 100_000]
)
@pytest.mark.parametrize("file", ["zoo.json", "statistics.json"])
def test_json_of_another_shape_is_refused(folders, file, content):
    with (
        instead(folders["sealed"] / file, content),
        pytest.raises((ArchiveError, InputError), match=file),
    ):
        Zoo.open(folders["sealed"]).seal  # noqa: B018


def tar_of(entries: dict[str, bytes], **changes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(
        fileobj=buffer, mode="w", format=changes.pop("format", tarfile.USTAR_FORMAT)
    ) as tar:
        for name, data in entries.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            for field, value in changes.items():
                setattr(info, field, value)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def tensors_of(header: Any, size: int = 85 * 4, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + bytes(size)


def good_header() -> dict[str, Any]:
    """A safetensors file of one member of the zoo, 85 parameters."""
    shapes = {
        "layers.0.weight": (8, 2),
        "layers.0.bias": (8,),
        "layers.1.weight": (6, 8),
        "layers.1.bias": (6,),
    }
    header, place = {}, 0
    for name, shape in (shapes | {"layers.2.weight": (1, 6), "layers.2.bias": (1,)}).items():
        size = 4 * int(np.prod(shape))
        header[name] = {"dtype": "F32", "shape": [1, *shape], "data_offsets": [place, place + size]}
        place += size
    return header


def header_with(name: str = "layers.1.weight", **changes) -> dict[str, Any]:
    header = good_header()
    return header | {name: header[name] | changes}


BAD_TENSORS = {
    "length beyond the file": tensors_of(good_header(), length=2**63),
    "length of nothing": b"\x01",
    "no JSON": tensors_of(b"{"),
    "nested": tensors_of(b"[" * 100_000),
    "pickle": pickle.dumps({"layers.0.weight": 1}),
    "a list": tensors_of([1]),
    "entries that are no objects": tensors_of({name: 3 for name in good_header()}),
    "another dtype": tensors_of(header_with(dtype="F16")),
    "a dtype that is a list": tensors_of(header_with(dtype=["F32"])),
    "another shape": tensors_of(header_with(shape=[1, 8, 6])),
    "a huge shape": tensors_of(header_with(shape=[2**62, 6, 8])),
    "offsets that overlap": tensors_of(header_with(data_offsets=[0, 192])),
    "offsets beyond the file": tensors_of(header_with("layers.2.bias", data_offsets=[336, 2**62])),
    "negative offsets": tensors_of(header_with("layers.0.weight", data_offsets=[-64, 0])),
    "offsets that are texts": tensors_of(header_with(data_offsets=["a", "b"])),
    "a hole": tensors_of(header_with("layers.2.bias", data_offsets=[340, 344]), 344),
    "bytes left over": tensors_of(good_header(), 344),
    "too few bytes": tensors_of(good_header(), 336),
    "one tensor more": tensors_of(good_header() | {"evil": good_header()["layers.2.bias"]}),
    "one tensor less": tensors_of(
        {name: entry for name, entry in good_header().items() if name != "layers.2.bias"}, 336
    ),
}
ONE = {"a-0000.json": b'["k"]', "a-0000.safetensors": tensors_of(good_header())}


def test_what_the_bad_ones_are_made_of_is_read(folders):
    ((block, keys),) = decode_shard(
        "a", np.frombuffer(bytearray(tar_of(ONE)), np.uint8), Zoo.open(folders["open"]).space
    )
    assert keys == ["k"]
    assert block["layers.1.weight"].shape == (1, 6, 8)


@pytest.mark.parametrize("name", BAD_TENSORS)
def test_malformed_tensors_are_refused(folders, name):
    check_refused(tar_of(ONE | {"a-0000.safetensors": BAD_TENSORS[name]}), folders)


def with_size(size: bytes) -> bytes:
    tar = bytearray(tar_of(ONE))
    tar[124:136] = size
    tar[148:156] = b"%06o\0 " % (sum(tar[:148]) + sum(tar[156:512]) + 8 * 32)
    return bytes(tar)


BAD_TARS = {
    "empty": b"",
    "no end": tar_of(ONE)[:1024],
    "a size beyond the file": with_size(b"77777777777\0"),
    "a size of eight bytes": with_size(b"\x80" + b"\xff" * 11),
    "a negative size": with_size(b"-0000000001\0"),
    "no checksum": tar_of(ONE).replace(b"ustar", b"USTAR"),
    "a link": tar_of(ONE, type=tarfile.SYMTYPE, linkname="/etc/passwd"),
    "a hard link": tar_of(ONE, type=tarfile.LNKTYPE, linkname="/etc/passwd"),
    "a device": tar_of(ONE, type=tarfile.CHRTYPE),
    "headers in front": tar_of(ONE, format=tarfile.PAX_FORMAT, pax_headers={"size": "9" * 30}),
    "a name that leaves the folder": tar_of(ONE | {"../../evil": b"x"}),
    "an absolute name": tar_of(ONE | {"/etc/evil": b"x", "/etc/evil2": b"x"}),
    "a pickle beside": tar_of(ONE | {"a-0000.pyd": pickle.dumps(print)}),
    "keys that are no list": tar_of(ONE | {"a-0000.json": b'{"a": 1}'}),
    "keys that are no texts": tar_of(ONE | {"a-0000.json": b"[[]]"}),
    "one key more": tar_of(ONE | {"a-0000.json": b'["k", "l"]'}),
    "only keys": tar_of({"a-0000.json": b"[]", "a-0001.json": b"[]"}),
}


@pytest.mark.parametrize("name", BAD_TARS)
def test_malformed_tars_are_refused(folders, name):
    check_refused(BAD_TARS[name], folders)


def check_refused(content: bytes, folders: dict[str, Path]):
    space = Zoo.open(folders["open"]).space
    read_back("a", content, space)
    with pytest.raises(ArchiveError, match="shard a cannot be read"):
        decode_shard("a", np.frombuffer(bytearray(content), np.uint8), space)


def rewritten(folder: Path, change) -> bytes:
    """The catalog part of a shard with other rows, and its mark."""
    table = pq.read_table(catalog.part_path(folder, SHARD))
    buffer = io.BytesIO()
    pq.write_table(change(table).replace_schema_metadata(table.schema.metadata), buffer)
    return buffer.getvalue()


def with_column(name: str, value: Any):
    def change(table):
        field = table.schema.field(name)
        values = [value, *table[name].to_pylist()[1:]]
        return table.set_column(
            table.schema.get_field_index(name), field, pa.array(values, field.type)
        )

    return change


BAD_PARTS = {
    "a row less": (lambda table: table.slice(1), "must have 11 rows, found 10"),
    "many rows": (lambda table: table.take([0] * 1_000_000), "must have 11 rows, found 1000000"),
    "a column less": (lambda table: table.drop_columns(["steps"]), "must have columns"),
    "another member": (with_column("key", "evil"), "must name the members of its blocks in order"),
    "another block": (with_column("block", 7), "must name the members of its blocks in order"),
    "no block": (with_column("block", None), "must name the members of its blocks in order"),
    "another row": (with_column("row", 2**31 - 1), "must name the members of its blocks in order"),
    "a shard elsewhere": (
        with_column("shard", "../../evil"),
        "must have 'test-000000' as shard in all rows, found '../../evil'",
    ),
    "another split": (
        with_column("split", "train"),
        "must have 'test' as split in all rows, found 'train'",
    ),
    "another status": (
        with_column("status", "failed"),
        "must name the members of its blocks in order",
    ),
}


@pytest.mark.parametrize("name", BAD_PARTS)
def test_rows_that_are_not_the_shards_are_refused(folders, name):
    change, message = BAD_PARTS[name]
    folder = folders["open"]
    with instead(catalog.part_path(folder, SHARD), rewritten(folder, change)):
        (problem,) = verify_zoo(Zoo.open(folder))
        assert message in problem
        assert SHARD in problem
        assert "again" in problem
        assert_refused_or_sound(folder)
        with pytest.raises(ArchiveError):
            list(Zoo.open(folder).blocks("test"))


@pytest.mark.parametrize(
    "name", ["../../evil", "/etc/evil", "test-000000/../x", "evil-000000", "test-0"]
)
def test_a_shards_name_cannot_leave_its_folder(folders, name):
    content = json.loads((folders["open"] / "zoo.json").read_bytes())
    content["shards"][0]["name"] = name
    with (
        instead(folders["open"] / "zoo.json", json.dumps(content).encode()),
        pytest.raises(
            ArchiveError,
            match=r"zoo\.json is damaged \(shards\.0\.name: String should match pattern",
        ),
    ):
        Zoo.open(folders["open"])


def test_the_hook_hears_what_it_should():
    with pytest.raises(AssertionError, match="find_class"), nothing_is_run():
        pickle.loads(pickle.dumps(sha256))
