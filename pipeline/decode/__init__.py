"""Running members of any zoo as functions, from what its record says of them."""

from pipeline.decode.contract import CATALOG, DecodeContract, ImageContract
from pipeline.decode.network import Network, standardized

__all__ = ["CATALOG", "DecodeContract", "ImageContract", "Network", "standardized"]
