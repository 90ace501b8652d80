"""Run members of any zoo as functions, as its record describes them."""

from pipeline.decode.activations import ODD
from pipeline.decode.contract import CATALOG, DecodeContract, ImageContract
from pipeline.decode.decoder import Decoder, coordinates_of, standardized
from pipeline.decode.encoding import encoded
from pipeline.decode.network import Network

__all__ = [
    "CATALOG",
    "ODD",
    "DecodeContract",
    "Decoder",
    "ImageContract",
    "Network",
    "coordinates_of",
    "encoded",
    "standardized",
]
