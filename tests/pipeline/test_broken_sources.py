"""Files that do not match their format are refused in one sentence."""

import gzip
import io
import json
import os
from pathlib import Path

import h5py
import numpy as np
import pytest
import safetensors.torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import ImportConfig
from pipeline.errors import InputError
from pipeline.exchange.formats import FORMATS
from pipeline.exchange.importing import plan_import
from pipeline.exchange.intake import take_in
from tests.pipeline.foreign import (
    Evil,
    arena_file,
    mnist_tree,
    ray_run,
    sample_tar,
    siren,
    small_cnn_zoo,
)

pytestmark = pytest.mark.fast


def broken_matrix(root: Path, file: str, content: str | bytes):
    small_cnn_zoo(root, [np.ones((3, 3, 1, 2), np.float32)] * 4)
    (root / file).write_bytes(content if isinstance(content, bytes) else content.encode())


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


HUGE = (
    b"\x93NUMPY\x01\x00v\x00"
    + b"{'descr': '<f4', 'fortran_order': False, 'shape': (900000000000, 4970), }".ljust(117)
    + b"\n"
)


CONVOLUTION = '"sequential/conv2d/kernel:0",2,20,18,"(3, 3, 1, 2)"'


COLUMNS = "varname,start_idx,end_idx,size,shape\n"


MATRIX = {
    "objects": (
        "weights.npy",
        npy(np.array([Evil()], object)),
        r"weights.npy must be a matrix \(members, parameters\) of .* \(it holds \(1,\) of object\)",
    ),
    "cube": (
        "weights.npy",
        npy(np.zeros((2, 3, 4))),
        r"must be a matrix \(members, parameters\) of .* \(it holds \(2, 3, 4\) of float64\)",
    ),
    "larger than the file": (
        "weights.npy",
        HUGE,
        r"weights.npy must be a matrix .* \(it holds no complete row\)",
    ),
    "too few rows": (
        "metrics.csv.gz",
        gzip.compress(b"step\n1\n"),
        r"a row for each of the 8 rows of weights.npy, found 1",
    ),
    "not gzip": ("metrics.csv.gz", b"step\n1\n", r"metrics.csv.gz must be a complete gzip file"),
    "cut gzip": (
        "metrics.csv.gz",
        gzip.compress(os.urandom(3000))[:2000],
        r"must be a complete gzip file",
    ),
    "column twice": (
        "metrics.csv.gz",
        gzip.compress(b"a,a\n" + b"1,1\n" * 8),
        r"must have columns of unique names",
    ),
    "code as shape": (
        "layout.csv",
        "varname,start_idx,end_idx,size,shape\na/kernel:0,0,2,2,\"__import__('os').getcwd()\"",
        r"shape of 'a/kernel:0' like",
    ),
    "gap": ("layout.csv", COLUMNS + CONVOLUTION, r"columns 0 to 18, found 2 to 20"),
    "no columns": (
        "layout.csv",
        "hello\n1",
        r"must have columns varname, start_idx, .* found no end_idx",
    ),
    "batch norm": (
        "layout.csv",
        COLUMNS + 'bn/gamma:0,0,50,50,"(50,)"',
        r"'bn/gamma:0' must be the weight, kernel or bias",
    ),
}


@pytest.mark.parametrize("name", MATRIX)
def test_a_broken_matrix_zoo_is_refused_in_a_sentence(tmp_path, name):
    file, content, message = MATRIX[name]
    broken_matrix(tmp_path / "in", file, content)
    with pytest.raises(InputError, match=message):
        FORMATS["unterthiner"].read(tmp_path / "in")


def other_file(file: Path):
    arena_file(file.with_name("elsewhere.hdf5"), 3)
    with h5py.File(file, "w") as content:
        content["params"] = h5py.ExternalLink("elsewhere.hdf5", "params")
        content["param_config"] = h5py.ExternalLink("elsewhere.hdf5", "param_config")


def claims_more(file: Path):
    arena_file(file, 3, layers=1)
    with h5py.File(file, "a") as content:
        width = content["params"].shape[1]
        del content["params"]
        content.create_dataset(
            "params", (10**9, width), dtype="f8", chunks=(1000, width), compression="gzip"
        )


ARENA = {
    "not HDF5": (
        lambda file: file.write_bytes(b"params"),
        r"nefs_0-3.hdf5 must be an HDF5 file with params",
    ),
    "in another file": (
        other_file,
        r"has no file that can be read: .* must hold 'param_config' as a data set of its own",
    ),
    "larger than the file": (
        claims_more,
        r"has no file that can be read: .* claims 104,000,000,000 bytes of 'params' and stores 0",
    ),
}


@pytest.mark.parametrize("name", ARENA)
def test_a_broken_arena_file_is_refused_in_a_sentence(tmp_path, name):
    breaks, message = ARENA[name]
    breaks(tmp_path / "nefs_0-3.hdf5")
    with pytest.raises(InputError, match=message):
        FORMATS["fit-a-nef"].read(tmp_path)


@pytest.mark.parametrize("name", FORMATS)
def test_an_empty_folder_is_refused_in_a_sentence(tmp_path, name):
    with pytest.raises(InputError, match=rf"^{tmp_path}\S* must have "):
        FORMATS[name].read(tmp_path)
    with pytest.raises(InputError, match="there is nothing to import at"):
        plan_import(ImportConfig(format=name, path=tmp_path / "gone"), tmp_path / "out")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            '{"train": {"path": ["a", "b"], "label": [1]}}',
            r"lists of one length, one of them 'path', found lengths \{'path': 2, 'label': 1\}",
        ),
        ('{"train": {"label": [1]}}', r"one of them 'path'"),
        (
            '{"train": {"path": [3]}}',
            r"found 1 members, of which none can be read; the first missing",
        ),
        ('{"train": 3}', r"must be lists"),
        ('{"train"', r"must hold JSON"),
        ("[" * 100_000, r"must hold JSON"),
    ],
)
def test_broken_splits_are_refused_in_a_sentence(tmp_path, content, message):
    (tmp_path / "splits.json").write_text(content)
    with pytest.raises(InputError, match=message):
        FORMATS["dwsnets"].read(tmp_path)


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> dict[str, Path]:
    """A small zoo in every format."""
    root = tmp_path_factory.mktemp("sources")
    mnist_tree(root / "dwsnets", "training", range(4))
    paths = [
        str(path.relative_to(root / "dwsnets"))
        for path in sorted((root / "dwsnets").rglob("*.pth"))
    ]
    (root / "dwsnets" / "splits.json").write_text(
        json.dumps({"train": {"path": paths, "label": [1, 2, 3, 0]}})
    )
    small_cnn_zoo(root / "unterthiner", [np.ones((3, 3, 1, 2), np.float32)] * 2)
    for number in range(2):
        ray_run(root / "modelzoos", number, [1, 2])
    (root / "fit-a-nef").mkdir()
    arena_file(root / "fit-a-nef" / "nefs_0-3.hdf5", 3, layers=1)
    sample = {"a.json": b'{"label": 1}', "a.safetensors": safetensors.torch.save(siren(0))}
    for folder in ("webdataset", "huggingface/weights"):
        sample_tar(root / folder / "train-000000.tar", sample)
    return {name: root / name for name in FORMATS}


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=40, deadline=None, derandomize=True)
@given(data=st.data())
def test_no_change_of_any_byte_breaks_the_reader(sources, name, data):
    """A changed file is read or refused in one sentence; no other error is raised."""
    files = sorted(path for path in sources[name].rglob("*") if path.is_file())
    file = data.draw(st.sampled_from(files))
    before = file.read_bytes()
    place = data.draw(st.integers(0, len(before) - 1))
    # The HDF5 library hangs on some files with changed bytes; truncated files it refuses.
    change = data.draw(st.sampled_from(["cut"] if name == "fit-a-nef" else ["cut", "flip", "fill"]))
    new = {
        "cut": b"",
        "flip": bytes([before[place] ^ 255]) + before[place + 1 :],
        "fill": bytes(8) + before[place + 8 :],
    }
    file.write_bytes(before[:place] + new[change])
    try:
        source = FORMATS[name].read(sources[name])
        intake = take_in(ImportConfig(format=name, path=sources[name]), source.rows, [])
        loaded = source.read(np.arange(len(source.rows)))
        assert len(loaded.values) == len(intake.rows)
    except InputError:
        pass
    finally:
        file.write_bytes(before)
