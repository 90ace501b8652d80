"""Activations with their derivative, for backward passes that are written by hand.

They work in place on z = omega (W h + b), where omega is 1 for those that have none, and write the
derivative to `slope`, if it is given. For INRs they are also given omega and sigma, on which some
depend.
"""

from collections.abc import Callable

import torch
from torch import Tensor


def relu(z: Tensor, slope: Tensor | None, *_: float):
    z.relu_()
    if slope is not None:
        torch.sign(z, out=slope)


def tanh(z: Tensor, slope: Tensor | None, *_: float):
    z.tanh_()
    if slope is not None:
        torch.mul(z, z, out=slope).neg_().add_(1)


def sigmoid(z: Tensor, slope: Tensor | None, *_: float):
    z.sigmoid_()
    if slope is not None:
        torch.mul(z, z, out=slope).neg_().add_(z)


def gelu(z: Tensor, slope: Tensor | None, *_: float):
    below = torch.special.ndtr(z)
    if slope is not None:
        slope.copy_(below + z * (z.square() / -2).exp_() * (2 * torch.pi) ** -0.5)
    z.mul_(below)


def sine(z: Tensor, slope: Tensor | None, *_: float):
    if slope is not None:
        torch.cos(z, out=slope)
    z.sin_()


def finer(z: Tensor, slope: Tensor | None, omega: float, _: float):
    excess = z.abs().div_(omega)
    z.addcmul_(z, excess)
    if slope is not None:
        torch.cos(z, out=slope).addcmul_(slope, excess, value=2)
    z.sin_()


def gaussian(z: Tensor, slope: Tensor | None, _: float, sigma: float):
    value = z.square().mul_(-0.5 / sigma**2).exp_()
    if slope is not None:
        torch.mul(z, value, out=slope).mul_(-1 / sigma**2)
    z.copy_(value)


def wavelet(z: Tensor, slope: Tensor | None, omega: float, sigma: float):
    cosine, envelope = z.cos(), z.clone()
    gaussian(envelope, slope, 1.0, omega * sigma)
    if slope is not None:
        slope.mul_(cosine).addcmul_(z.sin(), envelope, value=-1)
    torch.mul(cosine, envelope, out=z)


ACTIVATIONS: dict[str, Callable[..., None]] = {
    activation.__name__: activation
    for activation in (relu, tanh, sigmoid, gelu, sine, finer, gaussian, wavelet)
}
