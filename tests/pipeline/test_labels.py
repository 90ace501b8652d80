"""Labels of every type in a source become named classes, or an error of one sentence."""

import datetime
import decimal
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import SignalsConfig
from pipeline.errors import InputError
from pipeline.signals import NO_LABEL, Signals, load_signals
from pipeline.signals.labels import MAX_CLASSES, array_labels, class_labels

pytestmark = pytest.mark.fast

CLASSES = {
    "texts": (["b", "a", None, "b"], [1, 0, -1, 1], ("a", "b")),
    "texts of two Unicode forms": (["e\u0301", "\xe9"], [0, 0], ("\xe9",)),
    "no label at all": ([None, None], [-1, -1], ()),
    "integers with gaps": ([5, 1, 9, 5], [1, 0, 2, 1], ("1", "5", "9")),
    "numbers, not texts": ([10, 9], [1, 0], ("9", "10")),
    "negative numbers": ([1, -1], [1, 0], ("-1", "1")),
    "booleans": ([True, False], [1, 0], ("false", "true")),
    "whole floats with NaN": ([2.0, float("nan"), 1.0], [1, -1, 0], ("1", "2")),
    "whole decimals": ([decimal.Decimal("2.0"), decimal.Decimal("1.0")], [1, 0], ("1", "2")),
    "categories": (pa.array(["y", "x", "y"]).dictionary_encode(), [1, 0, 1], ("x", "y")),
    "unsigned bytes": (pa.array([7, 0], pa.uint8()), [1, 0], ("0", "7")),
    "large texts": (pa.array(["b", "a"], pa.large_string()), [1, 0], ("a", "b")),
}
NO_CLASSES = {
    "fractions": ([0.5, 1.0], r"must be integers to be classes, found others \(Float value"),
    "infinity": ([float("inf")], "must be integers to be classes"),
    "decimal fractions": ([decimal.Decimal("1.5")], "must be integers to be classes"),
    "larger than 2^63": (pa.array([2**64 - 1], pa.uint64()), "must be integers"),
    "lists": ([[1], [1, 2]], r"one class per row, found list<item: int64>"),
    "dates": ([datetime.date(2020, 1, 1)], r"one class per row, found date32"),
    "structs": ([{"name": 1}], r"one class per row, found struct"),
    "bytes": ([b"a"], r"one class per row, found binary"),
    "one for each row of a large table": (
        range(MAX_CLASSES + 1),
        "at most 65,536 distinct values to be classes, found 65,537",
    ),
}


def array(values) -> pa.Array:
    return values if isinstance(values, pa.Array) else pa.array(values)


@pytest.mark.parametrize("name", CLASSES)
def test_labels_become_classes_in_sorted_order(name):
    values, expected, names = CLASSES[name]
    labels, found = class_labels("labels", [array(values)])
    assert (labels.tolist(), labels.dtype, found) == (expected, np.int64, names)


@pytest.mark.parametrize("name", NO_CLASSES)
def test_labels_that_are_no_classes_are_one_sentence(name):
    values, message = NO_CLASSES[name]
    with pytest.raises(InputError, match=f"^the labels .*{message}"):
        class_labels("the labels", [array(values)])


def test_numbers_among_given_names_are_their_positions():
    labels, names = class_labels("labels", [pa.array([2, 0, -1, None])], ("z", "y", "x"))
    assert (labels.tolist(), names) == ([2, 0, NO_LABEL, NO_LABEL], ("z", "y", "x"))
    assert class_labels("labels", [pa.array([-1, -1])], ("a",))[1] == ()
    with pytest.raises(InputError, match="labels must be 0 to 2, or -1 for none, found 0 to 3"):
        class_labels("labels", [pa.array([0, 3])], ("z", "y", "x"))


def test_parts_of_one_source_have_the_same_classes():
    parts = [pa.array([3, 1]), pa.array([None]), pa.array([1.0, 2.0])]
    labels, names = class_labels("labels", parts)
    assert (labels.tolist(), names) == ([2, 0, -1, 0, 1], ("1", "2", "3"))
    with pytest.raises(InputError, match="labels must be of one type, found int64 and string"):
        class_labels("labels", [pa.array([1]), pa.array(["a"])])


@given(st.lists(st.one_of(st.none(), st.text(max_size=3)), min_size=1, max_size=12))
def test_a_class_is_called_as_its_label_is(values):
    labels, names = class_labels("labels", [pa.array(values, pa.string())])
    assert list(names) == sorted(set(names))
    for value, label in zip(values, labels.tolist(), strict=True):
        assert (label == NO_LABEL) == (value is None)
        if value is not None and value.isascii():
            assert names[label] == value


@pytest.mark.parametrize(
    ("values", "names"),
    [
        (np.array([[1], [0]]), ("0", "1")),
        (np.array([b"x", b"y"]), ("x", "y")),
        (np.array([3, 2], ">i4"), ("2", "3")),
        (np.array(["a", None], object), ("a",)),
        (np.array([1, 2], np.float16), ("1", "2")),
        (np.array(["a", np.nan], object), ("a",)),
    ],
)
def test_arrays_of_labels(values, names):
    assert class_labels("labels", [array_labels("labels", values, 2)])[1] == names


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.eye(2), r"one class for each of 2 rows, found \(2, 2\)"),
        (np.arange(3), r"one class for each of 2 rows, found \(3,\)"),
        (np.array([1j, 2j]), "found complex128"),
        (np.array([1, "a"], object), "found object"),
        (np.array([1, 10**30], object), "found object"),
        (np.array([b"\xff", b"a"]), r"found \|S1"),
    ],
)
def test_arrays_that_are_no_labels_are_one_sentence(values, message):
    with pytest.raises(InputError, match=message):
        array_labels("labels", values, 2)


PIXELS = np.arange(4 * 6 * 6, dtype=np.uint8).reshape(4, 6, 6)


ARRAYS = PIXELS.tolist()


def load(path, images=ARRAYS, features: dict | None = None, **fields) -> Signals:
    """Signals of a Parquet file with these images; fields that are no settings are columns."""
    columns = {name: value for name, value in fields.items() if not name.endswith("_column")}
    table = pa.table({"image": images} | columns)
    metadata = {"huggingface": json.dumps({"info": {"features": features or {}}})}
    pq.write_table(table.replace_schema_metadata(metadata), path / "table.parquet")
    settings = {name: value for name, value in fields.items() if name.endswith("_column")}
    return load_signals(SignalsConfig(source="parquet", path=path / "table.parquet", **settings))


def test_a_row_without_a_label_fails_alone(tmp_path):
    signals = load(tmp_path, label=["b", None, "a", "b"])
    assert signals.failures == {1: "has no label"}
    assert np.isfinite(signals.values).all((1, 2, 3)).tolist() == [True, False, True, True]
    assert signals.labels.tolist() == [1, NO_LABEL, 0, 1]


def test_without_a_column_of_classes_signals_have_none(tmp_path):
    signals = load(tmp_path, digit=[1, 2, 3, 4])
    assert (signals.class_names, signals.labels.tolist()) == ((), [NO_LABEL] * 4)
    assert "no column of classes (signals.label_column), no classes" in signals.taken
    assert load(tmp_path, digit=[1, 2, 3, 4], label_column="digit").class_names == tuple("1234")
    assert load(tmp_path, label=[[1], [2], [3], [4]], label_column="").class_names == ()


def test_which_column_has_the_classes(tmp_path):
    described = {name: {"names": ["x", "y"], "_type": "ClassLabel"} for name in ("fine", "coarse")}
    columns = {"fine": [0, 1, 1, 1], "coarse": [0, 0, 1, 1]}
    with pytest.raises(InputError, match=r"one column of classes, found \['fine', 'coarse'\]: set"):
        load(tmp_path, features=described, **columns)
    fine = load(tmp_path, features=described, label_column="fine", **columns)
    assert (fine.labels.tolist(), fine.class_names) == ([0, 1, 1, 1], ("x", "y"))
    assert load(tmp_path, label=[0, 1, 0, 1], **columns).labels.tolist() == [0, 1, 0, 1]
    with pytest.raises(
        InputError, match=r"must have the column 'species' that signals\.label_column"
    ):
        load(tmp_path, label_column="species", **columns)


@pytest.mark.parametrize("content", ["[]", "{", "null", '{"info": 3}', '{"info": {"features": 1}}'])
def test_metadata_that_cannot_be_read_says_nothing(tmp_path, content):
    table = pa.table({"image": PIXELS.tolist(), "label": [0, 1, 0, 1]})
    pq.write_table(table.replace_schema_metadata({"huggingface": content}), tmp_path / "a.parquet")
    signals = load_signals(SignalsConfig(source="parquet", path=tmp_path))
    assert signals.class_names == ("0", "1")


IMAGES = {
    "nested lists": PIXELS.tolist(),
    "nested lists of bytes": pa.array(PIXELS.tolist(), pa.list_(pa.list_(pa.uint8()))),
    "lists of one length": pa.array(PIXELS.tolist(), pa.list_(pa.list_(pa.int16(), 6), 6)),
    "with channels": PIXELS[..., None].tolist(),
    "a tensor": pa.FixedShapeTensorArray.from_numpy_ndarray(PIXELS),
    "fractions": (PIXELS / 255).tolist(),
}


@pytest.mark.parametrize("name", IMAGES)
def test_images_as_arrays(tmp_path, name):
    values = load(tmp_path, images=IMAGES[name], label=[0, 1, 0, 1]).values
    np.testing.assert_allclose(values[..., 0], PIXELS / 255, atol=1e-6)


def test_rows_whose_arrays_are_no_images_fail_alone(tmp_path):
    images = [PIXELS[0].tolist(), [[1, 2], [3]], None, [[300] * 6] * 6]
    table = pa.table({"image": images, "label": [0, 1, 0, 1]})
    pq.write_table(table, tmp_path / "a.parquet")
    config = SignalsConfig(source="parquet", path=tmp_path, max_unreadable=1)
    assert load_signals(config).failures == {
        1: "has rows of several lengths",
        2: "has no image",
        3: "has int64 pixels outside 0 to 255",
    }


def test_which_column_has_the_images(tmp_path):
    pictures = {"left": PIXELS.tolist(), "right": PIXELS[:, ::-1].tolist()}
    pq.write_table(pa.table(pictures), tmp_path / "a.parquet")
    with pytest.raises(
        InputError, match=r"found \['left', 'right'\] in .*: set signals.image_column"
    ):
        load_signals(SignalsConfig(source="parquet", path=tmp_path))
    chosen = load_signals(SignalsConfig(source="parquet", path=tmp_path, image_column="right"))
    np.testing.assert_allclose(chosen.values[..., 0], PIXELS[:, ::-1] / 255, atol=1e-6)
    assert "rows with images in 'right'" in chosen.taken
    pq.write_table(pa.table({"image": ["a.png"], "label": [1]}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match=r"found none in image \(string\), label \(int64\)"):
        load_signals(SignalsConfig(source="parquet", path=tmp_path))
    twice = pa.Table.from_arrays(
        [pa.array(PIXELS.tolist()), *[pa.array([0, 1, 0, 1])] * 2],
        names=["image", "label", "label"],
    )
    pq.write_table(twice, tmp_path / "a.parquet")
    with pytest.raises(InputError, match="must have one column 'label', found several"):
        load_signals(SignalsConfig(source="parquet", path=tmp_path))
