"""Equivariant networks for deep weight spaces (Navon et al., ICML 2023), usable without dwszoo."""

from dwsnet.classification import DWSNetClassifier
from dwsnet.downsample import DownsampledLinear
from dwsnet.editing import DWSNetEditor
from dwsnet.incidence import num_free_biases, num_free_parameters
from dwsnet.linear import EquivariantLinear, InvariantLinear
from dwsnet.models import DWSNet
from dwsnet.normalize import BatchNorm, MemberNorm, Standardize
from dwsnet.set_attention import EquivariantAttention
from dwsnet.symmetry import permute, random_permutation
from dwsnet.weight_space import Axis, TensorSpec, WeightSpace

__all__ = [
    "Axis",
    "BatchNorm",
    "DWSNet",
    "DWSNetClassifier",
    "DWSNetEditor",
    "DownsampledLinear",
    "EquivariantAttention",
    "EquivariantLinear",
    "InvariantLinear",
    "MemberNorm",
    "Standardize",
    "TensorSpec",
    "WeightSpace",
    "num_free_biases",
    "num_free_parameters",
    "permute",
    "random_permutation",
]
