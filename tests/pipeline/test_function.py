"""Signals from a user's function: what it may return; opening an archive never calls it."""

import sys
import textwrap
from dataclasses import replace

import numpy as np
import pytest

from pipeline.archive.summary import summarize
from pipeline.archive.verify import verify_zoo
from pipeline.archive.write import seal_zoo
from pipeline.archive.zoo import Zoo
from pipeline.config import FitConfig, SignalsConfig, SirenConfig, ZooConfig
from pipeline.errors import InputError
from pipeline.figures.reconstructions import draw_reconstructions
from pipeline.signals import Signals, load_signals
from pipeline.zoos.build import fit_shard, plan_zoo

pytestmark = pytest.mark.fast

SOURCE = """
from pathlib import Path
import numpy as np
from pipeline.signals import Signals

Path(__file__).with_suffix(".imported").touch()
VALUES, LABELS = np.linspace(0, 1, 40 * 6).reshape(40, 6, 1), np.arange(40) % 3

def arrays(size):
    return np.repeat(VALUES, (size or 6) // 6, axis=1), LABELS

def signals(size):
    return Signals("steps", VALUES, LABELS, ("low", "middle", "high"), LABELS > 1)

texts = lambda size: (VALUES, ["hi", None] * 20)
unlabelled = lambda size: (VALUES, None)
NAMES = ("a", "b", "c")
both = lambda size: Signals("steps", VALUES, LABELS, NAMES, LABELS > 1, validation=LABELS > 0)
validation = lambda size: Signals("steps", VALUES, LABELS - 1, ("a", "b"), validation=LABELS > 1)
a_list = lambda size: [VALUES, LABELS]
flat = lambda size: (VALUES[..., 0], LABELS)
a_point = lambda size: (VALUES[:, :1], LABELS)
ragged = lambda size: ([VALUES[0], VALUES[1, :3]], LABELS[:2])
bright = lambda size: (2 * VALUES, LABELS)
few = lambda size: (VALUES, LABELS[:-1])
floating = lambda size: (VALUES, LABELS / 2)
nameless = lambda size: Signals("steps", VALUES, LABELS, ("low", "middle"))
HEIGHTS = np.where(LABELS == 1, np.nan, LABELS / 2)
NUMBERS = {"size": np.arange(40), "height": HEIGHTS, "of_few": [None, 1] * 20}
facts = lambda size: (VALUES, LABELS, NUMBERS)
more = lambda size: (VALUES, LABELS, NUMBERS, NUMBERS)
listed = lambda size: (VALUES, LABELS, [1, 2])
worded = lambda size: (VALUES, LABELS, {"size": ["large"] * 40})
spaced = lambda size: (VALUES, LABELS, {"a size": np.arange(40)})
short = lambda size: (VALUES, LABELS, {"size": np.arange(39)})
endless = lambda size: (VALUES, LABELS, {"size": np.append(np.zeros(39), np.inf)})
too_large = lambda size: (VALUES, LABELS, {"size": np.full(40, 2**63, np.uint64)})
MASKED = np.ma.array(LABELS, mask=LABELS == 2)
masked = lambda size: (VALUES, MASKED, {"size": np.ma.array(LABELS, mask=LABELS > 0)})
fails = lambda size: VALUES["size"]
half = lambda size: Signals("steps", VALUES, LABELS, NAMES, np.ones(3, bool))
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """The module `made` in the working directory, and the file that it writes when imported."""
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "made.py").write_text(textwrap.dedent(SOURCE))
    (folder / "needs.py").write_text("import no_such_package")
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield folder / "made.imported"
    sys.modules.pop("made", None)


def test_arrays_and_signals_are_taken_as_they_are(module):
    made = load_signals(SignalsConfig(source="made:arrays"))
    assert (made.name, made.values.dtype, made.values.shape, made.class_names) == (
        "made:arrays",
        np.float32,
        (40, 6, 1),
        ("0", "1", "2"),
    )
    np.testing.assert_allclose(made.values.ravel(), np.linspace(0, 1, 240), atol=1e-7)
    assert made.labels.tolist() == [number % 3 for number in range(40)]
    assert load_signals(SignalsConfig(source="made:arrays", size=12)).grid == (12,)
    assert len(load_signals(SignalsConfig(source="made:arrays", limit=7))) == 7
    made = load_signals(SignalsConfig(source="made:signals"))
    assert (made.name, made.class_names, made.held_out.sum()) == (
        "steps",
        ("low", "middle", "high"),
        13,
    )


def test_labels_are_texts_numbers_or_none(module):
    made = load_signals(SignalsConfig(source="made:texts"))
    assert (made.class_names, made.labels.tolist()) == (("hi",), [0, -1] * 20)
    assert (made.failures[1], len(made.failures)) == ("has no label", 20)
    made = load_signals(SignalsConfig(source="made:unlabelled"))
    assert (made.class_names, set(made.labels.tolist()), made.failures) == ((), {-1}, {})
    made = load_signals(SignalsConfig(source="made:validation"))
    assert (made.held_out, made.validation.sum(), len(made.failures)) == (None, 13, 14)


def test_facts_are_whole_numbers_or_fractions_of_which_some_may_be_unknown(module):
    made = load_signals(SignalsConfig(source="made:facts"))
    assert {name: str(numbers.dtype) for name, numbers in made.facts.items()} == {
        "size": "int64",
        "height": "float64",
        "of_few": "float64",
    }
    assert made.facts["size"].tolist() == [*range(40)]
    assert np.isnan(made.facts["height"][1::3]).all()
    np.testing.assert_array_equal(made.facts["of_few"][:4], [np.nan, 1, np.nan, 1])
    assert made.take(10).facts["size"].tolist() == [*range(0, 40, 4)]


def test_facts_are_of_the_digest_where_there_are_any(module):
    made, without = (
        load_signals(SignalsConfig(source=f"made:{name}")) for name in ("facts", "arrays")
    )
    assert replace(without, name=made.name, facts={}).digest() == without.digest()
    assert made.digest() != without.digest()
    other = replace(made, facts=made.facts | {"size": made.facts["size"] + 1})
    assert other.digest() != made.digest()
    assert made.digest() == load_signals(SignalsConfig(source="made:facts")).digest()
    assert replace(made, facts=dict(reversed(made.facts.items()))).digest() == made.digest()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "gone:make",
            "signals.source names gone:make: there is no module 'gone' in .* or installed",
        ),
        ("made.inside:make", "there is no module 'made.inside'"),
        ("made:make", "module 'made' has no function 'make'"),
        ("made:VALUES", "module 'made' has no function 'VALUES'"),
        (
            "made:a_list",
            r"must return Signals or a tuple \(values, labels\) or \(.*, facts\), found list",
        ),
        ("made:more", r"\(values, labels, facts\), found 4 of these"),
        ("made:flat", r"values \(signals, \*grid, channels\) .*, found float64 \(40, 6\)"),
        (
            "made:a_point",
            r"at least two points along each axis of the grid, found float64 \(40, 1, 1\)",
        ),
        ("made:ragged", "made:ragged must return values of one shape for all signals"),
        ("made:bright", r"made:bright must return values in \[0, 1\], found 0 to 2"),
        (
            "made:few",
            r"the labels of made:few must be one class for each of 40 rows, found \(39,\)",
        ),
        (
            "made:floating",
            r"made:floating must be integers to be classes, found others \(Float value 0\.5",
        ),
        ("made:nameless", "must return labels 0 to 1, or -1 for none, found 0 to 2"),
        ("made:both", "held_out and validation that have no signal in common"),
        ("made:listed", "made:listed must return facts as a dict of columns by name, found list"),
        ("made:worded", "fact 'size' of made:worded must be numbers, found string"),
        ("made:spaced", "made:spaced must name facts as variables are named, .* found 'a size'"),
        ("made:short", r"fact 'size' of made:short must be one number for each of 40 .* \(39,\)"),
        ("made:endless", "fact 'size' of made:endless must be finite or null, found inf at 39"),
        ("made:too_large", "fact 'size' of made:too_large must fit int64"),
        (
            "made:fails",
            "signals.source made:fails failed with [A-Z].*; `dwszoo --debug` shows where",
        ),
        ("made:half", r"held_out as 40 booleans, found bool \(3,\)"),
    ],
)
def test_what_a_function_must_not_return_is_named(module, source, message):
    with pytest.raises(InputError, match=message):
        load_signals(SignalsConfig(source=source))


def test_what_is_masked_is_not_known(module):
    signals = load_signals(SignalsConfig(source="made:masked"))
    assert [*signals.labels[:4]] == [0, 1, -1, 0]
    np.testing.assert_array_equal(signals.facts["size"][:4], [0, np.nan, np.nan, 0])


def test_a_module_that_lacks_what_it_needs_says_so_itself(module):
    with pytest.raises(
        InputError, match=r"import failed with ModuleNotFoundError: .*no_such_package"
    ):
        load_signals(SignalsConfig(source="needs:make"))


def config(source: str) -> ZooConfig:
    return ZooConfig(
        signals=SignalsConfig(source=source),
        inr=SirenConfig(hidden=(4,)),
        fit=FitConfig(max_steps=3),
    )


def build(config: ZooConfig, folder, signals: Signals | None = None) -> Zoo:
    plan = plan_zoo(config, folder, signals)
    for shard in plan.shards:
        fit_shard(config, folder, plan.signals, shard)
    return seal_zoo(folder)


def test_an_archive_that_names_a_function_never_has_it_imported(module, tmp_path):
    build(config("made:signals"), tmp_path / "zoo")
    made = load_signals(SignalsConfig(source="made:signals"))
    del sys.modules["made"]
    module.unlink()
    zoo = Zoo.open(tmp_path / "zoo")
    assert verify_zoo(zoo) == []
    assert summarize(zoo)["signals"] == "40 of steps, 6"
    draw_reconstructions(zoo, tmp_path / "zoo.svg")
    drawn = (tmp_path / "zoo.svg").read_text()
    assert "made by made:signals" in drawn
    assert "`--trust made`" in drawn
    assert "original<" not in drawn
    draw_reconstructions(zoo, tmp_path / "zoo.svg", made)
    assert "original<" in (tmp_path / "zoo.svg").read_text()
    assert "made" not in sys.modules
    assert not module.exists()


def test_signals_made_in_python_are_fitted_under_the_name_of_their_function(tmp_path):
    signals = Signals(
        "ramps", np.linspace(0, 1, 240).reshape(40, 6, 1), np.arange(40) % 2, ("even", "odd")
    )
    zoo = build(config("notebook:ramps"), tmp_path / "zoo", signals)
    assert verify_zoo(zoo) == []
    assert zoo.record.config.signals.source == "notebook:ramps"
    with pytest.raises(
        InputError,
        match="must name the function that made these signals, as module:function, got 'digits'",
    ):
        plan_zoo(config("digits"), tmp_path / "other", signals)
    with pytest.raises(InputError, match=r"differs from this one .* in signals digest"):
        plan_zoo(config("notebook:ramps"), tmp_path / "zoo", signals.take(39))
