"""Rendering INRs, for tests and benchmarks of fits."""

from collections.abc import Mapping

from torch import Tensor

from dwsnet.weight_space import WeightSpace
from pipeline.config import InrConfig
from pipeline.decode import Decoder
from pipeline.fit.inr import decode_contract


def render(state: Mapping[str, Tensor], config: InrConfig, points: Tensor) -> Tensor:
    """`(members, channels, points)` of stacked state dicts, in the layout of fit targets."""
    space = WeightSpace.from_shapes({name: tensor.shape[1:] for name, tensor in state.items()})
    decode = Decoder(decode_contract(config, points.shape[-1]), space, "a test")
    return decode(state, points).transpose(1, 2)
