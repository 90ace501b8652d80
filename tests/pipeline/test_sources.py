"""Sources beside digits and folders, on scikit-learn's digits written in each layout."""

import gzip
import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_digits

from pipeline.config import SignalsConfig
from pipeline.errors import InputError
from pipeline.signals import load_signals
from pipeline.signals.arrays import read_idx

DIGITS = load_digits()
PIXELS = (DIGITS.images[:40] * 15.9375).astype(np.uint8)
LABELS = DIGITS.target[:40].astype(np.uint8)
TRAIN = slice(0, 30)
TEST = slice(30, 40)


def encoded(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def write_parquet(path, name: str, part: slice, column: str = "image"):
    images = [{"bytes": encoded(image), "path": None} for image in PIXELS[part]]
    features = {"info": {"features": {"label": {"names": [f"digit {i}" for i in range(10)]}}}}
    table = pa.table({column: images, "label": LABELS[part].astype(np.int64)})
    pq.write_table(
        table.replace_schema_metadata({"huggingface": json.dumps(features)}),
        path / f"{name}.parquet",
    )


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()


def write_idx(path, prefix: str, part: slice, pack=bytes, suffix: str = ""):
    (path / f"{prefix}-images-idx3-ubyte{suffix}").write_bytes(pack(idx(PIXELS[part])))
    (path / f"{prefix}-labels-idx1-ubyte{suffix}").write_bytes(pack(idx(LABELS[part])))


def check(signals):
    np.testing.assert_allclose(signals.values[..., 0], PIXELS / np.float32(255))
    np.testing.assert_array_equal(signals.labels, LABELS)
    np.testing.assert_array_equal(signals.held_out, np.arange(40) >= 30)


@pytest.mark.parametrize("column", ["image", "img"])
def test_parquet_in_the_hubs_layout(tmp_path, column):
    write_parquet(tmp_path, "train-00000", TRAIN, column)
    write_parquet(tmp_path, "test", TEST, column)
    signals = load_signals(SignalsConfig(source="parquet", path=tmp_path))
    check(signals)
    assert signals.class_names[3] == "digit 3"
    assert load_signals(SignalsConfig(source="parquet", path=tmp_path, size=6)).grid == (6, 6)


@pytest.mark.parametrize(("pack", "suffix"), [(bytes, ""), (gzip.compress, ".gz")])
def test_idx_files_gzipped_or_not(tmp_path, pack, suffix):
    write_idx(tmp_path, "train", TRAIN, pack, suffix)
    write_idx(tmp_path, "t10k", TEST, pack, suffix)
    check(load_signals(SignalsConfig(source="idx", path=tmp_path)))


def test_npz_with_and_without_a_test_split(tmp_path):
    file = tmp_path / "digits.npz"
    parts = {
        "x_train": PIXELS[TRAIN],
        "y_train": LABELS[TRAIN],
        "x_test": PIXELS[TEST],
        "y_test": LABELS[TEST],
    }
    np.savez(file, **parts)
    check(load_signals(SignalsConfig(source="npz", path=file)))
    np.savez(file, images=PIXELS, labels=LABELS)
    assert load_signals(SignalsConfig(source="npz", path=file)).held_out is None


def test_an_npz_with_a_pickle_in_it_is_not_opened(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "executed"), "w"))

    np.savez(tmp_path / "bomb.npz", images=np.array([Bomb()], object), labels=np.array([0]))
    with pytest.raises(InputError, match="cannot be read as NPZ"):
        load_signals(SignalsConfig(source="npz", path=tmp_path / "bomb.npz"))
    assert not (tmp_path / "executed").exists()


def broken_row(path):
    table = pa.table({"image": [{"bytes": encoded(PIXELS[1])[:50]}], "label": [1]})
    pq.write_table(table, path / "train.parquet")


def no_label(path):
    pq.write_table(pa.table({"image": [{"bytes": b""}]}), path / "train.parquet")


def no_parquet(path):
    (path / "train.parquet").write_bytes(b"PAR1 nothing PAR1")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (broken_row, r"found 1 of which none is; the first: train\.parquet:0 cannot be decoded"),
        (no_label, r"must have columns 'image' \(or 'img'\) and 'label', found \['image'\]"),
        (no_parquet, "cannot be read as Parquet"),
        (lambda path: None, r"must hold \*\.parquet files, found none"),
    ],
)
def test_bad_parquet_is_named(tmp_path, make, message):
    make(tmp_path)
    with pytest.raises(InputError, match=message):
        load_signals(SignalsConfig(source="parquet", path=tmp_path))


def test_images_of_several_sizes_need_a_size(tmp_path):
    table = pa.table(
        {
            "image": [{"bytes": encoded(PIXELS[0])}, {"bytes": encoded(PIXELS[1][:5])}],
            "label": [0, 1],
        }
    )
    pq.write_table(table, tmp_path / "train.parquet")
    with pytest.raises(
        InputError,
        match=r"must be of one size, found 2, such as \(5, 8\) and \(8, 8\): set signals\.size",
    ):
        load_signals(SignalsConfig(source="parquet", path=tmp_path))


def test_an_idx_file_must_be_as_long_as_its_header_says(tmp_path):
    file = tmp_path / "x"
    file.write_bytes(idx(PIXELS)[:-1])
    with pytest.raises(
        InputError, match=r"must hold 2560 bytes as its header \(40, 8, 8\) says, found 2559"
    ):
        read_idx(file)
    huge = bytes([0, 0, 8, 3]) + np.array([2**31, 2**31, 2**31], ">u4").tobytes()
    file.write_bytes(huge)
    with pytest.raises(InputError, match="found 0"):
        read_idx(file)


@given(st.binary(max_size=64))
@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_bytes_are_an_idx_file_or_an_input_error(tmp_path, data):
    file = tmp_path / "x"
    file.write_bytes(data)
    try:
        array = read_idx(file)
    except InputError:
        return
    assert idx(array) == data
