"""Run members of any zoo as functions, as its record describes them."""

from pipeline.decode.contract import CATALOG, DecodeContract, ImageContract
from pipeline.decode.decoder import Decoder, coordinates_of, standardized
from pipeline.decode.network import Network

__all__ = [
    "CATALOG",
    "DecodeContract",
    "Decoder",
    "ImageContract",
    "Network",
    "coordinates_of",
    "standardized",
]
