"""The original signals of a zoo: found again, or refused if they are not what was fitted."""

import sys
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows.cli import main
from pipeline.archive.zoo import Zoo
from pipeline.config import FitConfig, SignalsConfig, SirenConfig, ZooConfig
from pipeline.errors import InputError
from pipeline.signals import Signals, load_signals
from tests.pipeline.test_function import build

pytestmark = pytest.mark.fast


def config(**signals) -> ZooConfig:
    return ZooConfig(
        signals=SignalsConfig(**signals), inr=SirenConfig(hidden=(4,)), fit=FitConfig(max_steps=3)
    )


def write_table(path, pixels: np.ndarray):
    count = len(pixels)
    table = {"picture": pixels.tolist(), "label": np.arange(count) % 2, "mass": [0.5] * count}
    pq.write_table(pa.table(table), path)


PIXELS = np.random.default_rng(0).integers(0, 256, (40, 6, 6))


@pytest.fixture
def table_zoo(tmp_path) -> Zoo:
    """A zoo of a Parquet file with images, classes and a fact."""
    write_table(tmp_path / "table.parquet", PIXELS)
    columns = {"image_column": "picture", "fact_columns": ("mass",)}
    signals = config(source="parquet", path=tmp_path / "table.parquet", **columns)
    return build(signals, tmp_path / "zoo")


def test_members_are_fitted_to_the_signals_that_their_source_index_says(zoo):
    signals = zoo.signals()
    label = zoo.catalog["label"].to_numpy()
    assert (signals.labels[zoo.catalog["source_index"].to_numpy()] == label).all()
    assert signals.digest() == zoo.record.signals.digest
    assert zoo.signals(signals) is signals


def test_signals_that_lie_elsewhere_now_are_read_from_there(table_zoo, tmp_path):
    signals = table_zoo.signals()
    np.testing.assert_allclose(signals.values[..., 0], PIXELS / 255, atol=1e-6)
    assert signals.facts["mass"].tolist() == [0.5] * 40
    (tmp_path / "table.parquet").rename(tmp_path / "moved.parquet")
    with pytest.raises(InputError, match=r"must be at .*table.parquet, found nothing there: put"):
        table_zoo.signals()
    assert table_zoo.signals(tmp_path / "moved.parquet").digest() == signals.digest()
    assert table_zoo.signals(str(tmp_path / "moved.parquet")).digest() == signals.digest()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda pixels: pixels[:39], r"\(num_signals: was 40, is 39\): put the originals back"),
        (lambda pixels: pixels[:, :5], r"\(grid: was \[6, 6\], is \[5, 6\]\)"),
        (
            lambda pixels: pixels // 2,
            r"\(values, labels, splits or facts: their digest was \w+, is",
        ),
        (lambda pixels: np.stack([pixels] * 3, -1), r"\(num_channels: was 1, is 3\)"),
    ],
)
def test_other_signals_are_refused_and_what_differs_is_said(table_zoo, tmp_path, change, message):
    write_table(tmp_path / "table.parquet", change(PIXELS))
    with pytest.raises(InputError, match="have changed since it was built " + message):
        table_zoo.signals()


@pytest.mark.parametrize("wrong", [3, PIXELS, [PIXELS]])
def test_what_is_neither_signals_nor_a_path_is_refused(table_zoo, wrong):
    name = type(wrong).__name__
    with pytest.raises(
        InputError, match=f"must be given as Signals or as the path .* found {name}"
    ):
        table_zoo.signals(wrong)


def test_a_fact_that_differs_is_found(table_zoo):
    signals = table_zoo.signals()
    other = replace(signals, facts={"mass": signals.facts["mass"] + 1})
    with pytest.raises(InputError, match=r"\(values, labels, splits or facts"):
        table_zoo.signals(other)


SOURCE = """
import numpy as np
def make(size):
    return np.linspace(0, 1, 240).reshape(40, 6, 1), np.arange(40) % 2, {"step": np.arange(40)}
"""


def test_a_function_is_called_only_if_it_is_trusted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "stepped.py").write_text(SOURCE)
    try:
        zoo = build(config(source="stepped:make"), tmp_path / "zoo")
        made = load_signals(SignalsConfig(source="stepped:make"))
        del sys.modules["stepped"]
        with pytest.raises(
            InputError, match=r"made by stepped:make, code that .* `--trust stepped`"
        ):
            zoo.signals()
        assert "stepped" not in sys.modules
        assert zoo.signals(made).digest() == made.digest()
        as_double = replace(made, values=made.values.astype(np.float64), by_formula=True)
        assert zoo.signals(as_double).digest() == made.digest()
        with pytest.raises(InputError, match="num_signals: was 40, is 39"):
            zoo.signals(made.take(39))
        assert "stepped" not in sys.modules
        assert zoo.signals(trusted={"stepped"}).facts["step"].tolist() == [*range(40)]
    finally:
        sys.modules.pop("stepped", None)


def test_an_operation_is_not_done_twice_to_signals_that_are_given(tmp_path):
    ramps = Signals("ramps", PIXELS[..., None] / 255, np.arange(40) % 2, ("even", "odd"))
    zoo = build(config(source="notebook:ramps", operation="blur"), tmp_path / "zoo", ramps)
    blurred = zoo.signals(ramps)
    np.testing.assert_allclose(blurred.originals, ramps.values, atol=1e-6)
    assert blurred.values.std() < 0.7 * blurred.originals.std()
    assert zoo.signals(blurred).digest() == blurred.digest()


def test_imported_and_merged_zoos_have_no_signals(built_zoo, tmp_path):
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    assert main(["zoo", "export", str(built_zoo), "--format", "dwsnets", "--out", str(theirs)]) == 0
    assert main(["zoo", "import", str(theirs), "--format", "dwsnets", "--out", str(ours)]) == 0
    with pytest.raises(InputError, match="are not known: the zoo was imported"):
        Zoo.open(ours).signals()
    both = tmp_path / "both"
    assert main(["zoo", "merge", str(built_zoo), str(ours), "--out", str(both)]) == 0
    with pytest.raises(InputError, match=r"are not known: the zoo was merged"):
        Zoo.open(both).signals()
