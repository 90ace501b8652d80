"""Configurations of encoders, one file per family; a recipe chooses from `AnyEncoder` by `kind`."""

from typing import Annotated

from pipeline.encoders.dwsnet import DWSNetConfig
from pipeline.encoders.encoder import EncoderConfig
from pipeline.encoders.flat import AlignedMLPConfig, AugmentedMLPConfig, FlatMLPConfig
from pipeline.encoders.inr2vec import INR2VecConfig
from pipeline.encoders.message_passing import MessagePassingConfig
from pipeline.encoders.probing import ProbingConfig
from pipeline.encoders.statistics import StatisticsConfig
from pipeline.encoders.transformer import TransformerConfig
from pipeline.functions import Own
from pipeline.unions import BY_KIND

AnyEncoder = Annotated[
    DWSNetConfig
    | MessagePassingConfig
    | FlatMLPConfig
    | AugmentedMLPConfig
    | AlignedMLPConfig
    | INR2VecConfig
    | TransformerConfig
    | StatisticsConfig
    | ProbingConfig
    | Own,
    BY_KIND,
]

__all__ = ["AnyEncoder", "DWSNetConfig", "EncoderConfig"]
