"""Encoders as configurations: sized by parameter count; a new family is one file and one line."""

from typing import Annotated, ClassVar, Literal, get_args

import pytest
import torch
from pydantic import PositiveInt, TypeAdapter, ValidationError
from torch import nn

from dwsnet.encoders import Encoder
from dwsnet.heads import ValuesHead, WeightsHead
from dwsnet.models import num_parameters
from dwsnet.weight_space import WeightSpace
from pipeline.encoders import AnyEncoder, DWSNetConfig, EncoderConfig
from pipeline.encoders.flat import FlatMLPConfig
from pipeline.encoders.probing import ProbingConfig
from pipeline.encoders.sizing import sized
from pipeline.encoders.statistics import StatisticsConfig
from pipeline.functions import Own
from pipeline.unions import BY_KIND, models_in

FAMILIES = [family for family in models_in(AnyEncoder) if family is not Own]
SPACE = WeightSpace.mlp((2, 7, 5, 3))


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.__name__)
@pytest.mark.parametrize(
    "widths", [(2, 7, 5, 3), (1, 12, 1), (2, 32, 32, 1), (3, 9, 6, 8, 10)], ids=str
)
@pytest.mark.parametrize("limit", [8_000, 550_000])
def test_a_model_has_as_many_parameters_as_asked_for(family, widths, limit):
    space = WeightSpace.mlp(widths)

    def model(config: EncoderConfig) -> nn.Module:
        return ValuesHead(config.build(space), 10)

    config = sized(family(), model, limit)
    last = config.sizes[-1]
    larger = config.model_copy(update={last: getattr(config, last) + 1})
    with torch.device("meta"):
        found, next_size = (num_parameters(model(each)) for each in (config, larger))
    assert next_size > limit
    assert found <= limit or getattr(config, last) == 1
    if family is not DWSNetConfig:  # whose parameters go with the square of few channels
        assert found >= 0.9 * limit


@pytest.mark.parametrize(
    "family",
    [family for family in FAMILIES if family not in (StatisticsConfig, ProbingConfig)],
    ids=lambda family: family.__name__,
)
def test_sizes_are_solved_for_any_head(family):
    def model(config: EncoderConfig) -> nn.Module:
        return WeightsHead(config.build(SPACE).features())

    with torch.device("meta"):
        found = num_parameters(model(sized(family(), model, 60_000)))
    assert 0.85 * 60_000 <= found <= 60_000


def test_nothing_is_drawn_and_nothing_is_smaller_than_one():
    before = torch.get_rng_state()
    smallest = sized(FlatMLPConfig(), lambda config: ValuesHead(config.build(SPACE), 3), 1)
    assert smallest.width == 1
    assert torch.equal(torch.get_rng_state(), before)


class Mean(Encoder):
    """A third-party encoder: the mean of each tensor, mapped linearly."""

    def __init__(self, space: WeightSpace, width: int):
        super().__init__()
        self.space, self.width = space, width
        self.layer = nn.Linear(len(space.tensors), width)

    def forward(self, state):
        return self.layer(torch.stack([x.flatten(1).mean(1) for x in state.values()], 1))


class MeanConfig(EncoderConfig):
    title: ClassVar[str] = "means"
    sizes: ClassVar[tuple[str, ...]] = ("width",)

    kind: Literal["mean"] = "mean"
    """The mean of each tensor."""
    width: PositiveInt = 4
    """Size of the vector."""

    def build(self, space: WeightSpace) -> Mean:
        return Mean(space, self.width)


def test_a_new_family_is_one_class_and_one_line_of_the_union():
    union = Annotated[get_args(AnyEncoder)[0] | MeanConfig, BY_KIND]
    chosen = TypeAdapter(union).validate_python({"kind": "mean", "width": 9})
    assert chosen == MeanConfig(width=9)
    with pytest.raises(ValidationError, match="no kind 'mean'"):
        TypeAdapter(AnyEncoder).validate_python({"kind": "mean"})
    larger = sized(chosen, lambda config: ValuesHead(config.build(SPACE), 3), 1000)
    model = ValuesHead(larger.build(SPACE), 3)
    assert 990 <= num_parameters(model) <= 1000
    assert model({spec.name: torch.randn(5, *spec.shape) for spec in SPACE.tensors}).shape == (5, 3)


def test_a_size_that_decides_nothing_is_refused():
    class Fixed(MeanConfig):
        def build(self, space: WeightSpace) -> Mean:
            return Mean(space, 4)

    with pytest.raises(ValueError, match="'width' of Fixed must change the number of parameters"):
        sized(Fixed(), lambda config: ValuesHead(config.build(SPACE), 3), 1000)
