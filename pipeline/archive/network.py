"""One member of a zoo as a torch module: the decode contract, executed."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from pipeline.config import Frozen
from pipeline.errors import InputError

ACTIVATIONS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "sine": lambda z, omega: torch.sin(omega * z),
    "relu": lambda z, omega: z.relu(),
    "tanh": lambda z, omega: z.tanh(),
    "linear": lambda z, omega: z,
}


class DecodeContract(Frozen):
    """How to turn a member's tensors back into its signal; null where an imported zoo did not come with it."""

    activations: tuple[str, ...] | None
    """One a layer: 'sine' is sin(omega z), 'linear' is z, with z = W h + b."""
    omega: float | None
    output_offset: float | None
    """Added to the last layer's output."""
    coordinate_range: tuple[float, float] | None
    """First and last coordinate of each axis, both on the grid."""
    coordinate_order: str | None
    value_range: tuple[float, float] | None


class Network(nn.Module):
    """A chain of linear layers: takes coordinates `(..., dims)`, returns values `(..., channels)`.

    Its state dict is the member's. Raises InputError where the contract, or a convolution, leaves open how to run it.
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
            raise InputError(f"cannot run members of {what}: sine activations need omega_0, its record has none")
        self.names, self.activations = names, activations
        self.omega, self.offset = contract.omega or 1.0, contract.output_offset or 0.0
        for name in names:
            if state[f"{name}.weight"].ndim != 2:
                raise InputError(f"cannot run members of {what}: expected linear layers, found {name!r} of another kind")
            size_out, size_in = state[f"{name}.weight"].shape
            self._place(name, nn.Linear(size_in, size_out, bias=f"{name}.bias" in state))
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

    def forward(self, coordinates: Tensor) -> Tensor:
        values = coordinates
        for name, activation in zip(self.names, self.activations, strict=True):
            values = ACTIVATIONS[activation](self.get_submodule(name)(values), self.omega)
        return values + self.offset
