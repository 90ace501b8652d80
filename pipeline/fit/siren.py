"""SIREN networks (Sitzmann et al. 2020), many at once: weight space, initialization, PSNR."""

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
    return WeightSpace.mlp((num_dims, *config.hidden, num_channels))


def decode_contract(config: InrConfig) -> DecodeContract:
    return DecodeContract(
        activations=(*("sine" for _ in config.hidden), "linear"),
        omega=config.omega,
        output_offset=config.output_offset,
        output_scale=config.output_scale,
        coordinate_range=config.coordinate_range,
        coordinate_order="row-major: (y, x) for images",
        value_range=(0.0, 1.0),
    )


def init_rows(space: WeightSpace, config: InrConfig, keys: np.ndarray) -> Tensor:
    """`(members, parameters)` initial values, each member's from its key alone.

    'dws' is that of the released DWSNets dataset: hidden weights U(+-sqrt(6 / inputs) / omega),
    including the first layer, and hidden biases zero. 'siren' has U(+-1 / inputs) in the first
    layer and torch's default biases. The last layer has torch's default in both.
    """
    weights, biases = [*space.tensors[::2]], [*space.tensors[1::2]]
    bounds = []
    for layer, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        inputs = weight.shape[1]
        hidden = layer < len(weights) - 1
        if not hidden:
            bound = bias_bound = 1 / sqrt(inputs)
        else:
            bound = (
                1 / inputs
                if config.init == "siren" and layer == 0
                else sqrt(6 / inputs) / config.omega
            )
            bias_bound = 1 / sqrt(inputs) if config.init == "siren" else 0.0
        bounds += [np.full(prod(weight.shape), bound), np.full(prod(bias.shape), bias_bound)]
    scale = np.concatenate(bounds).astype(np.float32)
    return torch.from_numpy(uniform(keys, len(scale)) * scale)


def psnr(rendered: Tensor, targets: Tensor) -> Tensor:
    """`(members,)` peak signal-to-noise ratio in dB for values in [0, 1]; at most 120, or NaN."""
    mse = (rendered - targets).square().mean((1, 2))
    return -10 * torch.log10(mse.clamp_min(1e-12))
