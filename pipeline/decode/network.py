"""One member of a zoo as a torch module: the decode contract, executed."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.decode.contract import DecodeContract, ImageContract
from pipeline.errors import InputError

ACTIVATIONS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "sine": lambda z, omega: torch.sin(omega * z),
    "relu": lambda z, omega: z.relu(),
    "tanh": lambda z, omega: z.tanh(),
    "sigmoid": lambda z, omega: z.sigmoid(),
    "gelu": lambda z, omega: F.gelu(z),
    "linear": lambda z, omega: z,
}
LUMA = (0.299, 0.587, 0.114)
"""Grey of red, green and blue (ITU-R BT.601)."""


def standardized(images: Tensor, contract: ImageContract) -> Tensor:
    """Images `(batch, channels, height, width)` in [0, 1] as the first layer sees them."""
    if contract.grey and images.shape[1] > 1:
        images = torch.einsum("bchw,c->bhw", images, images.new_tensor(LUMA)).unsqueeze(1)
    mean, std = (
        images.new_tensor(statistic).view(-1, 1, 1) for statistic in (contract.mean, contract.std)
    )
    return (images - mean).div_(std)


class Network(nn.Module):
    """A chain of layers: takes coordinates `(..., dims)`, returns values `(..., channels)`.

    A classifier takes images `(batch, channels, height, width)` in [0, 1] and returns logits `(batch, classes)`. Its state
    dict is the member's. Raises InputError where the contract, or a convolution, leaves open how to run it.
    """

    def __init__(self, contract: DecodeContract, state: Mapping[str, Tensor], what: str):
        super().__init__()
        names = [name.removesuffix(".weight") for name in state if name.endswith(".weight")]
        activations = contract.activations or ()
        if len(activations) != len(names) or not set(activations) <= set(ACTIVATIONS):
            raise InputError(
                f"cannot run members of {what}: expected an activation of each of {len(names)} layers out of "
                f"{', '.join(ACTIVATIONS)}, found {contract.activations}"
            )
        if "sine" in activations and contract.omega is None:
            raise InputError(
                f"cannot run members of {what}: sine activations need omega_0, its record has none"
            )
        self.names, self.activations = names, activations
        omega = contract.omega or 1.0
        self.omegas = (*omega, 1.0) if isinstance(omega, tuple) else (omega,) * len(names)
        if len(self.omegas) != len(names):
            raise InputError(
                f"cannot run members of {what}: expected omega_0 of each of {len(names) - 1} hidden layers, found {omega}"
            )
        self.offset = contract.output_offset or 0.0
        self.image = contract.image
        for name in names:
            size_out, size_in, *kernel = state[f"{name}.weight"].shape
            bias = f"{name}.bias" in state
            if not kernel:
                self._place(name, nn.Linear(size_in, size_out, bias))
            elif len(kernel) == 2 and self.image:
                padding = [size // 2 for size in kernel]
                self._place(
                    name,
                    nn.Conv2d(size_in, size_out, kernel, self.image.stride, padding, bias=bias),
                )
            else:
                raise InputError(
                    f"cannot run members of {what}: expected linear layers, found {name!r} of another kind"
                )
        self.load_state_dict(state)

    def _place(self, name: str, layer: nn.Module):
        """Register a layer so that its parameters are called as in the archive: `layers.0.weight`."""
        parent: nn.Module = self
        *path, last = name.split(".")
        for part in path:
            if not hasattr(parent, part):
                parent.add_module(part, nn.Module())
            parent = getattr(parent, part)
        parent.add_module(last, layer)

    def forward(self, inputs: Tensor) -> Tensor:
        values = inputs if self.image is None else standardized(inputs, self.image)
        for i, (name, activation) in enumerate(zip(self.names, self.activations, strict=True)):
            layer = self.get_submodule(name)
            if self.image and values.ndim == 4 and isinstance(layer, nn.Linear):
                values = values.mean((2, 3)) if i else values.flatten(1)
            values = ACTIVATIONS[activation](layer(values), self.omegas[i])
        return values + self.offset
