"""Encoders: networks in, a vector or equivariant features out. One file a family."""

from dwsnet.encoders.dwsnet import DWSNetEncoder
from dwsnet.encoders.encoder import Encoder

__all__ = ["DWSNetEncoder", "Encoder"]
