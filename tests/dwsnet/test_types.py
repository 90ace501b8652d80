"""Shapes in annotations are checked while tests run."""

import jaxtyping
import pytest
import torch

from dwsnet import InvariantLinear, WeightSpace

pytestmark = pytest.mark.fast


def test_annotations_are_checked_here():
    space = WeightSpace.mlp((2, 5, 3))
    features = [torch.ones(2, *spec.shape, 1) for spec in space.tensors]
    layer = InvariantLinear(space, 1, 4)
    layer(features)
    layer.linear.out_features = 5
    with pytest.raises(jaxtyping.TypeCheckError, match="return value of dwsnet"):
        layer(features)
