"""Equivariant networks for deep weight spaces (Navon et al., ICML 2023): torch alone, useful on its own."""

from dwsnet.linear import EquivariantLinear, InvariantLinear
from dwsnet.models import DWSNet, DWSNetClassifier
from dwsnet.symmetry import permute, random_permutation
from dwsnet.weight_space import Axis, TensorSpec, WeightSpace

__all__ = [
    "Axis",
    "DWSNet",
    "DWSNetClassifier",
    "EquivariantLinear",
    "InvariantLinear",
    "TensorSpec",
    "WeightSpace",
    "permute",
    "random_permutation",
]
