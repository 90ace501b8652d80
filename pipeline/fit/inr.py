"""INRs of one kind, many at once: weight space, decode contract, initialization, PSNR."""

from math import prod, sqrt

import numpy as np
import torch
from torch import Tensor

from dwsnet.weight_space import WeightSpace
from pipeline.config import InrConfig
from pipeline.decode import DecodeContract
from pipeline.fit.seeds import uniform


def inr_space(config: InrConfig, num_dims: int, num_channels: int) -> WeightSpace:
    """The weight space of an INR from `num_dims` coordinates to `num_channels` values."""
    inputs = num_dims + 2 * len(config.frequencies(num_dims))
    return WeightSpace.mlp((inputs, *config.hidden, num_channels))


def decode_contract(config: InrConfig, num_dims: int) -> DecodeContract:
    """How to run an INR that takes `num_dims` coordinates."""
    return DecodeContract(
        activations=(*(config.activation for _ in config.hidden), "linear"),
        omega=getattr(config, "omega", None),
        sigma=getattr(config, "sigma", None),
        frequencies=config.frequencies(num_dims) or None,
        output_offset=config.output_offset,
        output_scale=config.output_scale,
        coordinate_range=config.coordinate_range,
        coordinate_order="row-major: (y, x) for images",
        value_range=(0.0, 1.0),
    )


def init_rows(space: WeightSpace, config: InrConfig, keys: np.ndarray) -> Tensor:
    """`(members, parameters)` initial values, each member's from its key alone.

    Hidden layers are uniform within the bounds of their kind, the last one within torch's.
    """
    weights, biases = [*space.tensors[::2]], [*space.tensors[1::2]]
    scales = []
    for layer, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        inputs = weight.shape[1]
        is_last = layer == len(weights) - 1
        bounds = (1 / sqrt(inputs),) * 2 if is_last else config.bounds(inputs, layer == 0)
        scales += [
            np.full(prod(spec.shape), bound)
            for spec, bound in zip((weight, bias), bounds, strict=True)
        ]
    scale = np.concatenate(scales).astype(np.float32)
    return torch.from_numpy(uniform(keys, len(scale)) * scale)


def psnr(rendered: Tensor, targets: Tensor) -> Tensor:
    """`(members,)` peak signal-to-noise ratio in dB for values in [0, 1]; at most 120, or NaN."""
    mse = (rendered - targets).square().mean((1, 2))
    return -10 * torch.log10(mse.clamp_min(1e-12))
