"""Sources beside digits and folders, on scikit-learn's digits written in each layout."""

import contextlib
import gzip
import io
import json
import shutil
from pathlib import Path

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

pytestmark = pytest.mark.fast

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


HUB = {
    "a configuration": (
        "plain_text/train-00000-of-00001.parquet",
        "plain_text/test-0-of-1.parquet",
    ),
    "converted by the hub": ("mnist/train/0000.parquet", "mnist/test/0000.parquet"),
    "with hashes": (
        "data/train-00000-of-00001-b42f9a.parquet",
        "data/test-00000-of-00001-0c1d.parquet",
    ),
    "names that end in the split": ("mnist_train.parquet", "mnist_test.parquet"),
    "run together": ("mnistTrain.parquet", "mnistTest.parquet"),
    "with endings": ("trainset.parquet", "testset.parquet"),
    "in capitals": ("TRAIN.PARQUET", "Test.parquet"),
    "in part": ("default/partial-train/0000.parquet", "default/partial-test/0000.parquet"),
}


@pytest.mark.parametrize("layout", HUB)
def test_the_names_of_files_and_folders_say_the_split(tmp_path, layout):
    for name, part in zip(HUB[layout], (TRAIN, TEST), strict=True):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        write_parquet(tmp_path, Path(name).with_suffix(""), part)
        (tmp_path / Path(name).with_suffix(".parquet")).rename(tmp_path / name)
    signals = load_signals(SignalsConfig(source="parquet", path=tmp_path))
    check(signals)
    assert signals.taken.endswith(
        "10 classes (digit 0, digit 1, digit 2 and 7 more), train 30, test 10"
    )


def test_a_validation_split_is_kept_and_what_is_of_no_split_left_out(tmp_path):
    for name in ("train-0", "validation-0", "unsupervised-0"):
        write_parquet(tmp_path, name, TEST)
    (tmp_path / "README.md").write_text("x")
    signals = load_signals(SignalsConfig(source="parquet", path=tmp_path))
    np.testing.assert_array_equal(signals.validation, np.arange(20) >= 10)
    assert signals.held_out is None
    assert "README.md (.md is not read)" in signals.taken
    assert "unsupervised-0.parquet (of no split, beside files of splits)" in signals.taken


def test_a_file_by_itself_is_taken_whole(tmp_path):
    write_parquet(tmp_path, "test", TEST)
    with pytest.raises(InputError, match="must hold a train split, found only test"):
        load_signals(SignalsConfig(source="parquet", path=tmp_path))
    signals = load_signals(SignalsConfig(source="parquet", path=tmp_path / "test.parquet"))
    assert (len(signals), signals.held_out, signals.names[0]) == (10, None, "test.parquet:0")


def test_configurations_are_not_mixed(tmp_path):
    for name in ("cropped", "full"):
        (tmp_path / name).mkdir()
        write_parquet(tmp_path / name, "train", TRAIN)
    with pytest.raises(
        InputError, match="one configuration of a data set, found cropped, full: set"
    ):
        load_signals(SignalsConfig(source="parquet", path=tmp_path))
    assert len(load_signals(SignalsConfig(source="parquet", path=tmp_path / "full"))) == 30


def test_train_splits_of_several_data_sets_are_not_mixed(tmp_path):
    write_parquet(tmp_path, "mnist_train-0", TRAIN)
    write_parquet(tmp_path, "mnist_train-1", TRAIN)
    write_parquet(tmp_path, "public_test", TEST)
    assert len(load_signals(SignalsConfig(source="parquet", path=tmp_path))) == 70
    write_parquet(tmp_path, "fashion-mnist_train", TRAIN)
    with pytest.raises(
        InputError, match="one train split, found 'fashion mnist train' and 'mnist train': move"
    ):
        load_signals(SignalsConfig(source="parquet", path=tmp_path))


def test_files_must_mean_the_same_by_a_number(tmp_path):
    for name, names in (("train", ["a", "b"]), ("test", ["b", "a"])):
        features = {"info": {"features": {"label": {"names": names}}}}
        table = pa.table({"image": [{"bytes": encoded(PIXELS[0])}] * 2, "label": [0, 1]})
        metadata = {"huggingface": json.dumps(features)}
        pq.write_table(table.replace_schema_metadata(metadata), tmp_path / f"{name}.parquet")
    with pytest.raises(InputError, match="must have the same classes in the same order"):
        load_signals(SignalsConfig(source="parquet", path=tmp_path))


def test_a_split_without_labels_is_left_out(tmp_path):
    write_parquet(tmp_path, "train", TRAIN)
    table = pa.table({"image": [{"bytes": encoded(PIXELS[0])}], "label": [-1]})
    pq.write_table(table, tmp_path / "test.parquet")
    signals = load_signals(SignalsConfig(source="parquet", path=tmp_path))
    assert (len(signals), signals.held_out) == (30, None)
    assert "test.parquet (no row has a class)" in signals.taken


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


def test_npz_by_the_words_in_the_names_of_its_arrays(tmp_path):
    file = tmp_path / "many.npz"
    parts = {
        f"{split}_{role}": values[part]
        for split, part in (("train", TRAIN), ("val", TEST), ("test", TEST))
        for role, values in (("images", PIXELS), ("labels", LABELS[:, None]))
    }
    np.savez(file, names=np.array(["x"]), **parts)
    signals = load_signals(SignalsConfig(source="npz", path=file))
    assert (signals.validation.sum(), signals.held_out.sum()) == (10, 10)
    assert signals.taken.endswith("left out: names (its name says neither images nor labels)")
    np.savez(file, images=PIXELS)
    assert load_signals(SignalsConfig(source="npz", path=file)).class_names == ()
    np.savez(file, images=PIXELS, labels=np.where(LABELS == 3, np.nan, LABELS))
    signals = load_signals(SignalsConfig(source="npz", path=file))
    assert signals.class_names == tuple("012456789")
    assert [*signals.failures] == np.flatnonzero(LABELS == 3).tolist()
    for arrays, message in (
        ({"x_test": PIXELS, "y_test": LABELS}, "must hold a train split, found only test"),
        ({"images": PIXELS, "x": PIXELS}, "one set of images for each split, found images and x"),
        ({"images": np.stack([PIXELS] * 3, 1)}, r"width, 1 or 3\), found uint8 \(40, 3, 8, 8\)"),
        ({"images": np.stack([PIXELS] * 4, -1)}, r"width, 1 or 3\), found uint8 \(40, 8, 8, 4\)"),
        ({"labels": LABELS}, r"must hold arrays 'images' and 'labels' .*, found \['labels'\]"),
        ({"images": PIXELS, "labels": LABELS[1:]}, r"for each of 40 rows, found \(39,\)"),
    ):
        np.savez(file, **arrays)
        with pytest.raises(InputError, match=message):
            load_signals(SignalsConfig(source="npz", path=file))


def test_idx_files_are_taken_once_and_only_with_labels(tmp_path):
    inner = tmp_path / "train-images-idx3-ubyte"
    inner.mkdir()
    write_idx(tmp_path, "train", slice(0, 0), bytes, ".txt")
    write_idx(inner, "train", TRAIN)
    write_idx(tmp_path, "train", TRAIN, gzip.compress, ".gz")
    write_idx(tmp_path, "t10k", TEST)
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    signals = load_signals(SignalsConfig(source="idx", path=tmp_path))
    assert (len(signals), signals.held_out) == (30, None)
    assert "a copy of a file that is taken" in signals.taken
    assert "t10k-images-idx3-ubyte (images alone)" in signals.taken
    write_idx(inner, "train", TEST)
    with pytest.raises(
        InputError, match=r"one file called train-images-idx3-ubyte, found .* differ"
    ):
        load_signals(SignalsConfig(source="idx", path=tmp_path))
    shutil.rmtree(inner)
    write_idx(tmp_path, "other-train", TRAIN)
    with pytest.raises(InputError, match="one set of images for each split, found other-train"):
        load_signals(SignalsConfig(source="idx", path=tmp_path))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data())
def test_no_change_of_any_byte_breaks_the_reader_of_npz(tmp_path_factory, save, data):
    file = tmp_path_factory.mktemp("npz") / "x.npz"
    save(file, images=PIXELS[:4], labels=LABELS[:4])
    whole = file.read_bytes()
    place = data.draw(st.integers(0, len(whole) - 1))
    change = data.draw(st.sampled_from([b"", bytes([whole[place] ^ 255]), bytes(8)]))
    file.write_bytes(whole[:place] + change + (whole[place + len(change) :] if change else b""))
    with contextlib.suppress(InputError):
        load_signals(SignalsConfig(source="npz", path=file))


def test_a_single_array_is_no_npz(tmp_path):
    np.save(tmp_path / "x.npy", PIXELS)
    with pytest.raises(InputError, match="cannot be read as NPZ \\(File is not a zip file"):
        load_signals(SignalsConfig(source="npz", path=tmp_path / "x.npy"))


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


def no_parquet(path):
    (path / "train.parquet").write_bytes(b"PAR1 nothing PAR1")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (broken_row, r"found 1 and none of them is; the first: train\.parquet:0 cannot be decoded"),
        (no_parquet, "cannot be read as Parquet"),
        (lambda path: None, r"must hold \*\.parquet files with rows, found none"),
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


@given(place=st.floats(0, 1, exclude_max=True), byte=st.integers(0, 255))
@settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_no_change_of_any_byte_breaks_the_reader_of_parquet(tmp_path, place, byte):
    """A changed file is read or refused in one sentence; no other error is raised."""
    write_parquet(tmp_path, "train", slice(0, 2))
    file = tmp_path / "train.parquet"
    content = bytearray(file.read_bytes())
    content[int(place * len(content))] = byte
    file.write_bytes(content)
    message = ""
    try:
        load_signals(SignalsConfig(source="parquet", path=file, max_unreadable=1))
    except InputError as error:
        message = str(error)
    assert "\n" not in message
