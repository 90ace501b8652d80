"""Recipe files: they read back as written, and every mistake gives a message of one sentence."""

import json
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.cli import main
from flows.overrides import resolve_recipe
from flows.recipe import Recipe, default_folder
from flows.recipe_file import line_of, literal, write_toml
from flows.recipes import RECIPES
from pipeline.config import ZooConfig
from pipeline.errors import InputError
from pipeline.functions import Own
from pipeline.training.config import TrainingConfig

CHANGED = [
    "zoo.views=3",
    "zoo.inr.hidden=[5, 4, 3]",
    "zoo.fit.learning_rate=1e-5",
    'zoo.signals.path=a "b" \\ c/ä\t\x7f\N{GRINNING FACE}',
    "training.epochs=2",
    "resources.workers=7",
]


@pytest.fixture
def file(tmp_path, monkeypatch):
    """A function that writes a file, by default TOML, to the working directory."""
    monkeypatch.chdir(tmp_path)

    def write(content: str | bytes, name: str = "mine.toml"):
        data = content if isinstance(content, bytes) else content.encode()
        (tmp_path / name).write_bytes(data)
        return name

    return write


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_reads_back_from_its_file(name, file):
    for recipe in (RECIPES[name](), resolve_recipe("digits", CHANGED)):
        back = resolve_recipe(file(write_toml(recipe, name)), [])
        assert back == recipe
        assert back.fingerprint() == recipe.fingerprint()
        assert resolve_recipe(file(recipe.model_dump_json(), "MINE.JSON"), []) == recipe


def test_a_file_says_what_each_field_means(capsys):
    assert main(["recipes", "digits", "--set", "zoo.views=5"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("# digits: The demo: classify INRs of scikit-learn's")
    assert "# Independently initialised INRs of each signal.\nviews = 5\n" in text
    assert "# Use only this many signals, spread evenly over the source; null: all.\n# lim" in text
    assert max(map(len, text.splitlines())) <= 100
    assert tomllib.loads(text)["zoo"]["inr"]["hidden"] == [16, 16]


values = st.recursive(
    st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(values)
def test_a_value_reads_back_from_toml(value):
    back = tomllib.loads(f"value = {literal(value)}")["value"]
    assert json.dumps(back) == json.dumps(value)


def test_kinds_are_chosen_in_a_file(file):
    name = file("[zoo]\nkind = 'classifiers'\nnum_runs = 3\n[training.task]\nkind = 'mine:task'")
    recipe = resolve_recipe(name, ["training.task.options.depth=3", "zoo.network.kind=cnn"])
    assert (recipe.zoo.num_runs, recipe.zoo.network.kind) == (3, "cnn")
    assert recipe.training.task == Own(kind="mine:task", options={"depth": 3})
    assert resolve_recipe(file(write_toml(recipe, "mine")), []) == recipe
    inrs = resolve_recipe(name, ["zoo.views=2", "zoo.kind=inrs"])
    assert (inrs.zoo, inrs.training.epochs) == (ZooConfig(views=2), TrainingConfig().epochs)


def test_a_null_in_a_list_has_no_toml():
    with pytest.raises(InputError, match="TOML has no null"):
        literal([1, None])


def test_what_a_file_leaves_out_has_its_default_and_settings_come_last(file):
    name = file("training.epochs = 2\n[zoo]\nviews = 3\n[zoo.fit]\nmax_steps = 7")
    recipe = resolve_recipe(name, ["zoo.views=4", "training.batch_size=9"])
    assert (recipe.zoo.views, recipe.zoo.fit.max_steps) == (4, 7)
    assert (recipe.training.epochs, recipe.training.batch_size) == (2, 9)
    assert recipe.zoo.inr == Recipe().zoo.inr
    assert resolve_recipe(file(""), []) == Recipe()


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbf[zoo]\nviews = 3\n",
        b"[zoo]\r\nviews = 3\r\n",
        b"zoo = {views = 3}",
        b"zoo.views = 3 # more\n",
    ],
)
def test_a_file_may_have_a_byte_order_mark_windows_lines_and_any_layout(file, content):
    assert resolve_recipe(file(content), []).zoo.views == 3


TOML_MISTAKES = [
    ("[zoo]\n\nview = 3", "mine.toml: line 3: there is no field 'zoo.view': the fields of"),
    ("[zoo]\nview = 3", "; did you mean 'zoo.views'?"),
    ("[zo]\nviews = 3", "mine.toml: line 1: there is no field 'zo.views': the fields are zoo, tr"),
    ("views = 3", "line 1: there is no field 'views'"),
    ("zoo.views = 'x'", "line 1: zoo.views: input should be a valid integer"),
    ("[zoo]\nviews = 0\nseed = -1", "line 2: zoo.views: input should be greater than 0, got 0"),
    ("[zoo]\nseed = -1\nviews = 0", "got -1; line 3: zoo.views: input"),
    ("[zoo]\nfit = 3", "line 2: 'zoo.fit' is a group of fields, set one of them: zoo.fit.l"),
    ("[zoo.views]\nx = 3", "line 1: 'zoo.views' is a single value, not a group of fields"),
    ("[zoo]\nviews = 2026-01-01", "line 2: zoo.views: input should be"),
    ("[zoo.inr]\ninit = 2026-01-01", "line 2: zoo.inr.init: input should be 'dws' or 'siren', got"),
    ("[zoo.fit]\ntarget_psnr = inf", "zoo.fit.target_psnr: input should be a finite number, got"),
    ("[zoo.inr]\nhidden = []", "line 2: zoo.inr.hidden: tuple should have at least 1 item"),
    ("[training.task]\nkind = 'regresion'", "line 2: training.task.kind: there is no kind"),
    ("[training.encoder]\nkind = 'a:b'\nchannels = 3", "line 3: training.encoder.channels is "),
    ("[training.task]\nkind = 'a:b'\noptions = {a = 2026-01-01}", "3: training.task.options: in"),
    ("[zoo]\nnum_runs = 3", "line 2: zoo.num_runs is a field of kind 'classifiers': choose one"),
    ("[zoo]\nkind = 'classifiers'\nviews = 3", "line 3: zoo.views is a field of kind 'inrs': c"),
    ("[[zoo]]\nviews = 3", "line 1: 'zoo' is a group of fields"),
    ("training = {epochs = 0}", "line 1: training.epochs: input should be greater than 0, got 0"),
    ("[training]\nbaselines = 'mlp'", "line 2: training.baselines: input should be a list, got"),
    ("[zoo]\nviews = 3\nviews = 4", "mine.toml is not valid TOML: Cannot overwrite"),
    ("[zoo]\nlimit = null", "(at line 2, column 9); TOML has no null: leave such a field out"),
    ("zoo views", "mine.toml is not valid TOML: "),
    ('{"zoo": {}}', "mine.toml is not valid TOML: "),
    ("x = " + 5000 * "[", "mine.toml is not valid TOML: "),
    (b"\x89PNG\r\n\x1a\n\x00", "must be text in UTF-8 to be a recipe: invalid start byte"),
    ("[zoo]".encode("utf-16"), "mine.toml must be text in UTF-8 to be a recipe"),
    (b"[zoo]\nviews = 3\x00", "mine.toml is not valid TOML: "),
]  # fmt: skip
OTHER_MISTAKES = [
    ('{"zoo": {"views": 3, "views": 3}}', "mine.json", "not valid JSON: 'views' is set twice"),
    ('{"zoo": {"views": 3}', "mine.json", "mine.json is not valid JSON: Expecting ',' delimiter"),
    ("", "mine.json", "mine.json is not valid JSON: Expecting value"),
    (99999 * "[", "mine.json", "mine.json is not valid JSON: "),
    ("[1, 2]", "mine.json", "mine.json must hold groups of fields, found list"),
    ('{"zoo": {"fit": {"max_steps": NaN}}}', "mine.json", "zoo.fit.max_steps: input should be"),
    ("zoo: 3", "mine.yaml", "mine.yaml must be a .toml or .json file to be a recipe"),
    ("zoo = 3", "mine", "mine must be a .toml or .json file to be a recipe"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [(content, "mine.toml", message) for content, message in TOML_MISTAKES] + OTHER_MISTAKES,
)
def test_a_mistake_in_a_file_is_one_sentence(file, content, name, message, capsys):
    assert main(["recipes", file(content, name)]) == 2
    told = capsys.readouterr().err
    assert message in told
    assert len(told.splitlines()) == 1


def test_what_is_no_file_is_said(file, tmp_path):
    (tmp_path / "folder.toml").mkdir()
    (tmp_path / "folder").mkdir()
    for name, message in [
        ("gone.toml", r"gone\.toml cannot be read as a recipe: No such file or directory"),
        ("folder.toml", r"folder\.toml cannot be read as a recipe: Is a directory"),
        ("folder", "folder must be a .toml or .json file"),
        ("gone", r"there is no recipe 'gone': .*, a \.toml or \.json file or package\.module:f"),
        ("n" * 300 + ".toml", "cannot be read as a recipe: File name too long"),
    ]:
        with pytest.raises(InputError, match=message):
            resolve_recipe(name, [])


def test_a_function_of_the_users_makes_a_recipe(file, monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(tmp_path)
    file(
        "from flows.recipes import smoke\n\n\ndef four():\n"
        "    zoo = smoke().zoo.model_copy(update={'views': 4})\n"
        "    return smoke().model_copy(update={'zoo': zoo})\n\n\n"
        "nothing = dict\n\n\ndef none():\n"
        "    return smoke().model_validate({'zoo': {'views': 0}})\n",
        "kitchen.py",
    )
    recipe = resolve_recipe("kitchen:four", ["zoo.fit.max_steps=3"])
    assert (recipe.zoo.views, recipe.zoo.fit.max_steps) == (4, 3)
    with pytest.raises(InputError, match="kitchen:nothing must return a Recipe, found dict"):
        resolve_recipe("kitchen:nothing", [])
    with pytest.raises(InputError, match=r"recipe kitchen:none: zoo\.views: Input should be gr"):
        resolve_recipe("kitchen:none", [])
    with pytest.raises(InputError, match="RECIPE names kitchen:five: module 'kitchen' has no func"):
        resolve_recipe("kitchen:five", [])


@pytest.mark.parametrize(
    ("name", "stem"),
    [("smoke", "smoke"), ("some/where/mine.toml", "mine"), ("kitchen.hot:four", "four")],
)
def test_a_run_has_a_folder_by_the_name_of_its_recipe(name, stem):
    recipe = RECIPES["smoke"]()
    assert str(default_folder(name, recipe)) == f"runs/{stem}-{recipe.fingerprint()}"


def test_lines_are_found_where_they_are_plain():
    text = "# a = 1\na = 1\n[b.c]\n d = 2\n[ e ]\nf.g = 3\n"
    found = {field: line_of(text, field) for field in ("a", "b", "b.c.d", "e", "e.f", "e.f.g", "d")}
    assert found == {"a": 2, "b": 3, "b.c.d": 4, "e": 5, "e.f": 6, "e.f.g": 6, "d": None}


def test_the_line_of_a_field_in_an_array_of_tables_an_inline_table_or_quotes_is_found():
    text = 'a.b = {c = 1}\n[[d.e]]\nf = 2\n[\'g\'."h"]\n"i" = 3\n[g.j]\n'
    fields = ("a.b.c", "d.e", "d.e.f", "g.h.i", "g.j.k", "l.m")
    assert [line_of(text, field) for field in fields] == [1, 2, 3, 5, 6, None]


def test_fields_that_may_be_null_are_null_by_default():
    """Fields that are left out must have null as default, because TOML has no null."""

    def configs(model):
        yield model
        for inner in model.__subclasses__():
            yield from configs(inner)

    from pipeline.config import Config

    for model in configs(Config):
        if model.__module__.startswith(("pipeline.", "flows.")):
            for name, field in model.model_fields.items():
                if type(None) in getattr(field.annotation, "__args__", ()):
                    assert field.default is None, f"{model.__name__}.{name}"
