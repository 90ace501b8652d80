"""Facts on their way from a source to the catalog, and from there to other archives."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config import SignalsConfig
from pipeline.errors import InputError
from pipeline.signals import load_signals

IMAGES = np.arange(4 * 6 * 6, dtype=np.uint8).reshape(4, 6, 6).tolist()


def load_tables(folder, *tables: dict, **settings):
    """The signals of Parquet files with such columns beside images."""
    for number, columns in enumerate(tables):
        pq.write_table(pa.table({"image": IMAGES} | columns), folder / f"{number}.parquet")
    return load_signals(SignalsConfig(source="parquet", path=folder, **settings))


def test_columns_of_parquet_files_are_facts_where_they_are_named(tmp_path):
    columns = {"age": [1, 2, 3, 4], "mass": [0.5, None, 2, 3], "label": [5, 5, 6, 6]}
    others = {"age": pa.array([5, 6, 7, 8], pa.uint8()), "mass": [1, 2, 3, 4], "label": [5] * 4}
    signals = load_tables(tmp_path, columns, others, fact_columns=("age", "mass", "label"))
    assert [(name, str(column.dtype)) for name, column in signals.facts.items()] == [
        ("age", "int64"),
        ("mass", "float64"),
        ("label", "int64"),
    ]
    assert signals.facts["age"].tolist() == [*range(1, 9)]
    np.testing.assert_array_equal(signals.facts["mass"], [0.5, np.nan, 2, 3, 1, 2, 3, 4])
    assert signals.class_names == ("5", "6")
    plain = load_tables(tmp_path, columns, others)
    assert plain.facts == {}
    assert plain.digest() != signals.digest()


def test_a_file_that_cannot_be_read_has_no_facts(tmp_path):
    (tmp_path / "1.parquet").write_bytes(b"cut")
    (tmp_path / "2.parquet").write_bytes(b"cut")
    signals = load_tables(
        tmp_path, {"age": [1, 2, 3, 4]}, fact_columns=("age",), max_unreadable=0.7
    )
    np.testing.assert_array_equal(signals.facts["age"], [1, 2, 3, 4, np.nan, np.nan])


@pytest.mark.parametrize(
    ("names", "columns", "message"),
    [
        (("age",), {}, r"must have the column 'age' that signals.fact_columns names, found \['im"),
        (("an age",), {}, "signals.fact_columns must name facts as variables are named"),
        (
            ("age",),
            {"age": [*"abcd"]},
            r"the column 'age' \(signals.fact_columns\) must be numbers",
        ),
        (("age",), {"age": [1, np.inf, 2, 3]}, "must be finite or null, found inf at 1"),
    ],
)
def test_columns_that_are_no_facts_are_named(tmp_path, names, columns, message):
    with pytest.raises(InputError, match=message):
        load_tables(tmp_path, columns, fact_columns=names)


def test_other_sources_have_no_columns_of_facts():
    with pytest.raises(InputError, match="which source 'digits' does not have"):
        load_signals(SignalsConfig(fact_columns=("age",)))
