"""Merging settings and files into configurations with unions by kind."""

from itertools import permutations
from typing import Annotated, Literal

import pytest
from pydantic import JsonValue, PositiveInt, model_validator

from flows.merging import FieldError, field_names, with_changes
from flows.overrides import override
from pipeline.config import Config
from pipeline.errors import InputError
from pipeline.functions import Own
from pipeline.unions import BY_KIND

pytestmark = pytest.mark.fast


class Pen(Config):
    width: PositiveInt = 1
    """The settings of a file, by line."""


class Circle(Config):
    kind: Literal["circle", "disc"] = "circle"
    radius: PositiveInt = 1
    pen: Pen = Pen()


class Square(Config):
    kind: Literal["square"] = "square"
    side: PositiveInt
    corners: tuple[int, ...] | float = ()


class Rectangle(Config):
    kind: Literal["rectangle"] = "rectangle"
    side: PositiveInt = 1
    height: PositiveInt = 1

    @model_validator(mode="after")
    def be_upright(self) -> "Rectangle":
        if self.height < self.side:
            raise ValueError("height must be at least side")
        return self


AnyShape = Annotated[Circle | Square | Rectangle | Own, BY_KIND]


class Frame(Config):
    margin: PositiveInt
    shape: AnyShape = Circle()


class Picture(Config):
    shape: AnyShape = Circle(radius=7, pen=Pen(width=2))
    frame: Frame | None = None
    facts: dict[str, JsonValue] = {"year": 1900}  # noqa: RUF012
    title: str = ""


@pytest.mark.parametrize("order", [*permutations(range(3))])
def test_the_order_of_settings_does_not_matter(order):
    settings = ["shape.side=3", "shape.kind=square", "shape.corners=[1, 2]"]
    picture = override(Picture(), [settings[i] for i in order])
    assert picture.shape == Square(side=3, corners=(1, 2))


def test_another_kind_begins_at_its_defaults_and_the_same_kind_goes_on():
    assert override(Picture(), ["shape.kind=disc"]).shape == Circle(kind="disc")
    same = override(Picture(), ["shape.kind=circle", "shape.pen.width=5"]).shape
    assert same == Circle(radius=7, pen=Pen(width=5))


def test_of_two_settings_for_one_field_the_later_holds():
    assert override(Picture(), ["title=a", "title=b"]).title == "b"
    assert override(Picture(), ["shape.radius=3", 'shape={"radius": 4}']).shape.radius == 4


def test_a_group_that_may_be_null_comes_and_goes():
    framed = override(Picture(), ["frame.margin=3", "frame.shape.radius=2"])
    assert framed.frame == Frame(margin=3, shape=Circle(radius=2))
    assert override(framed, ["frame.margin=4"]).frame == Frame(margin=4, shape=Circle(radius=2))
    assert override(framed, ["frame=null"]) == Picture()


def test_options_of_own_code_are_free():
    own = override(Picture(), ["shape.options.size=3", "shape.kind=sky:star"])
    assert own.shape == Own(kind="sky:star", options={"size": 3})
    more = override(own, ["shape.options.ends.first=[1, null]", 'shape.options.colour="red"'])
    assert more.shape.options == {"size": 3, "ends": {"first": [1, None]}, "colour": "red"}
    assert override(own, ["shape.kind=sky:moon"]).shape == Own(kind="sky:moon")
    assert override(Picture(), ["facts.place=here"]).facts == {"year": 1900, "place": "here"}


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (
            ["shape.side=3"],
            "shape.side is a field of kind 'square' or 'rectangle': choose one with shape.kind, or "
            "leave the field out",
        ),
        (
            ["shape.kind=square", "shape.side=3", "shape.radius=3"],
            "shape.radius is a field of kind 'circle' or 'disc': choose one with shape.kind, or "
            "leave the field out",
        ),
        (
            ["shape.kind=sqare"],
            "shape.kind: there is no kind 'sqare': expected one of circle, disc, square, rectangle "
            "or package.module:function; did you mean 'square'?",
        ),
        (
            ["shape.kind=[1]"],
            "shape.kind: there is no kind [1]: expected one of circle, disc, square, rectangle or "
            "package.module:function",
        ),
        (
            ["shape.kind=sky star:x"],
            'shape.kind: input should be package.module:function, got "sky star:x"',
        ),
        (
            ["shape.radios=3"],
            "there is no field 'shape.radios': the fields of 'shape' are kind, radius, pen; "
            "did you mean 'shape.radius'?",
        ),
        (
            ["shape.kind=sky:star", "shape.size=3"],
            "there is no field 'shape.size': the fields of 'shape' are kind, options",
        ),
        (["shape.kind=square"], "shape.side must be set: it has no default"),
        (["frame.shape.radius=2"], "frame.margin must be set: it has no default"),
        (
            ["shape=null"],
            "'shape' is a group of fields, set one of them: shape.kind, shape.radius, shape.pen",
        ),
        (["frame=3"], "'frame' is a group of fields, set one of them: frame.margin, frame.shape"),
        (["title.size=3"], "'title' is a single value, not a group of fields"),
        (["facts=3"], "facts: input should be a valid dictionary, got 3"),
        (
            ["shape.kind=square", "shape.side=1", "shape.corners=x"],
            'shape.corners: input should be a list, got "x"',
        ),
        (
            ["shape.kind=sky:star", "shape.options.size.a=NaN"],
            "shape.options: input should be a finite number, got NaN",
        ),
        (
            ["shape.kind=rectangle", "shape.side=3"],
            "shape: height must be at least side",
        ),
        (
            ["shape.radius=0", "shape.pen.width=0"],
            "shape.radius: input should be greater than 0, got 0; shape.pen.width: input should be "
            "greater than 0, got 0",
        ),
        (["=3"], "there is no field '': the fields are shape, frame, facts, title"),
        (["shape"], "--set takes key=value, got 'shape'"),
    ],
)
def test_a_mistake_is_a_sentence(settings, sentence):
    for order in (settings, settings[::-1]):
        with pytest.raises(InputError) as error:
            override(Picture(), order)
        assert str(error.value) == sentence


def test_an_error_has_the_names_of_its_fields():
    with pytest.raises(FieldError) as error:
        with_changes(Picture, {}, {"shape": {"radius": 0, "pen": {"width": "x"}}})
    assert [*error.value.problems] == ["shape.radius", "shape.pen.width"]


def test_the_names_of_all_fields_are_those_of_the_kind_that_is_there():
    names = [*field_names(Picture, {"shape": {"kind": "square"}})]
    assert names[:4] == ["shape", "shape.kind", "shape.side", "shape.corners"]
    assert "frame.shape.pen.width" in names
