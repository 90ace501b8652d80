"""Unions of configurations by kind, or by the user's own functions."""

import sys
from typing import Annotated, Literal

import pytest
from pydantic import PositiveInt, ValidationError

from pipeline.config import Config, describe, differences
from pipeline.errors import InputError
from pipeline.functions import Own, find_function, modules_named
from pipeline.unions import BY_KIND, in_words, kinds_of, model_of_kind, models_in

pytestmark = pytest.mark.fast


class Circle(Config):
    kind: Literal["circle", "disc"] = "circle"
    """Round."""
    radius: PositiveInt = 1
    """Of the circle."""


class Square(Config):
    kind: Literal["square"] = "square"
    """Of four equal sides."""
    side: PositiveInt
    """Length of a side."""


AnyShape = Annotated[Circle | Square | Own, BY_KIND]


class Picture(Config):
    shape: AnyShape = Circle()
    frame: AnyShape | None = None
    """Around it."""


MODULE = """
from pathlib import Path
Path(__file__).with_suffix(".imported").touch()

class Star:
    points = 5

def star(points=5):
    return Star()
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """The module `sky` in the working directory, and the file that it writes when imported."""
    (tmp_path / "sky.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path / "sky.imported"
    sys.modules.pop("sky", None)


@pytest.mark.parametrize(
    ("written", "shape"),
    [
        ({}, Circle()),
        ({"radius": 3}, Circle(radius=3)),
        ({"kind": "disc"}, Circle(kind="disc")),
        ({"kind": "square", "side": 2}, Square(side=2)),
        ({"kind": "sky.night:star", "options": {"points": 6}},) * 2,
        (Square(side=2), Square(side=2)),
    ],
)
def test_kind_chooses_the_model(written, shape):
    shape = Own(**shape) if isinstance(shape, dict) else shape
    picture = Picture(shape=written, frame=written)
    assert picture.shape == picture.frame == shape
    assert type(picture.shape) is type(shape)
    assert Picture.model_validate(picture.model_dump(mode="json")) == picture
    assert Picture.model_validate_json(picture.model_dump_json()) == picture


@pytest.mark.parametrize(
    ("written", "place", "message"),
    [
        ({"kind": "sqare"}, ("shape",), "there is no kind 'sqare': expected one of circle, disc, "),
        ({"kind": "sqare"}, ("shape",), "or package.module:function; did you mean 'square'?"),
        ({"kind": 3}, ("shape",), "there is no kind 3"),
        ({"kind": ["circle"]}, ("shape",), "there is no kind ['circle']"),
        ({"kind": "my sky:star"}, ("shape", "kind"), "input should be package.module:function"),
        ({"kind": "sky:star", "options": {"x": {1}}}, ("shape", "options", "x"), "valid JSON"),
        ({"kind": "square"}, ("shape", "side"), "Field required"),
        ({"kind": "square", "side": 0}, ("shape", "side"), "greater than 0"),
        ({"kind": "square", "side": 1, "radius": 1}, ("shape", "radius"), "not permitted"),
        (7, ("shape",), "input should be a group of fields"),
        (None, ("shape",), "input should be a group of fields"),
    ],
)
def test_a_mistake_is_located_as_if_there_were_one_kind(written, place, message):
    with pytest.raises(ValidationError) as error:
        Picture(shape=written)
    (problem,) = error.value.errors()
    assert problem["loc"][: len(place)] == place
    assert message in problem["msg"]


def test_a_union_of_a_single_model_is_that_model():
    class Single(Config):
        shape: Annotated[Square, BY_KIND]

    assert Single(shape={"side": 2}).shape == Square(side=2)
    with pytest.raises(ValidationError, match="Input should be 'square'"):
        Single(shape={"side": 2, "kind": "circle"})


def test_the_models_of_a_field_are_found():
    fields = Picture.model_fields
    models = models_in(fields["frame"].annotation)
    assert models == models_in(fields["shape"].annotation) == (Circle, Square, Own)
    assert models_in(Square.model_fields["side"].annotation) == ()
    assert model_of_kind(models, "disc") is Circle
    assert [kinds_of(model) for model in models] == [("circle", "disc"), ("square",), ()]
    assert in_words(models) == "circle, disc, square or package.module:function"
    assert in_words(models[:2]) == "circle, disc, square"


def test_identity_fingerprint_and_description_are_those_of_the_chosen_kind():
    circle, square = Picture(), Picture(shape={"kind": "square", "side": 2})
    own = Picture(shape={"kind": "sky:star", "options": {"points": 6}})
    assert square.identity() == {"shape": {"kind": "square", "side": 2}, "frame": None}
    assert len({picture.fingerprint() for picture in (circle, square, own)}) == 3
    assert [name for name, _, _ in describe(square)] == ["shape.kind", "shape.side", "frame"]
    assert ("shape.options", {"points": 6}) in [field[:2] for field in describe(own)]


def test_of_two_kinds_only_what_both_have_is_compared():
    circle, square = Picture().identity(), Picture(shape=Square(side=2)).identity()
    assert differences(circle, square) == ['shape.kind: was "circle", is "square"']
    larger = Picture(shape=Circle(radius=2)).identity()
    assert differences(circle, larger) == ["shape.radius: was 1, is 2"]


def test_a_function_is_called_with_its_options_only_where_it_is_trusted(module):
    own = Own(kind="sky:star", options={"points": 6})
    for trusted in ((), {"sk"}, {"sky:star"}):
        with pytest.raises(InputError, match=r"shape is made by sky:star, .*`--trust sky`"):
            own.make("shape", trusted)
    assert not module.exists()
    assert own.make("shape", {"sky"}, "points").points == 5
    assert module.exists()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "gone:star",
            {},
            "shape.kind names gone:star: there is no module 'gone' in .* or installed",
        ),
        ("sky.night:star", {}, r"there is no module 'sky\.night'"),
        ("sky:moon", {}, "shape.kind names sky:moon: module 'sky' has no function 'moon'"),
        (
            "sky:star",
            {"point": 6},
            "shape.options must suit sky:star: got an unexpected keyword argument 'point'",
        ),
        (
            "sky:star",
            {},
            "sky:star must return something with points, colour for shape, found Star without "
            "colour",
        ),
    ],
)
def test_a_function_that_will_not_do_is_said_in_a_sentence(module, name, options, message):
    own = Own(kind=name, options=options)
    with pytest.raises(InputError, match=message):
        own.make("shape", {own.module}, "points", "colour")


def test_what_a_module_raises_is_said_in_a_sentence(module):
    module.with_name("broken.py").write_text("import no_such_package")
    with pytest.raises(
        InputError, match=r"broken:make, whose import failed with Mod.*no_such_pack"
    ):
        find_function("broken:make", "shape")


def test_the_modules_that_a_configuration_names_are_found():
    assert modules_named(Picture()) == set()
    picture = Picture(shape={"kind": "sky.night:star"}, frame={"kind": "sea:wave"})
    assert modules_named(picture) == {"sky.night", "sea"}
