"""Encoders, one file per family: they map networks to vectors or to features of their entries."""

from dwsnet.encoders.dwsnet import DWSNetEncoder
from dwsnet.encoders.encoder import Encoder, features_of
from dwsnet.encoders.flat import AlignedMLPEncoder, AugmentedMLPEncoder, FlatMLPEncoder
from dwsnet.encoders.inr2vec import INR2VecEncoder
from dwsnet.encoders.message_passing import MessagePassingEncoder
from dwsnet.encoders.probing import ProbingEncoder
from dwsnet.encoders.statistics import StatisticsEncoder
from dwsnet.encoders.transformer import TransformerEncoder

__all__ = [
    "AlignedMLPEncoder",
    "AugmentedMLPEncoder",
    "DWSNetEncoder",
    "Encoder",
    "FlatMLPEncoder",
    "INR2VecEncoder",
    "MessagePassingEncoder",
    "ProbingEncoder",
    "StatisticsEncoder",
    "TransformerEncoder",
    "features_of",
]
