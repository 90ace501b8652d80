"""Families of encoders as configurations, one file each; `AnyEncoder` is what a recipe chooses from, by `kind`."""

from pipeline.encoders.dwsnet import DWSNetConfig
from pipeline.encoders.encoder import EncoderConfig

AnyEncoder = DWSNetConfig

__all__ = ["AnyEncoder", "DWSNetConfig", "EncoderConfig"]
