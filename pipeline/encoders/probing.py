"""Configuration of probing, which runs the networks."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import PositiveFloat, PositiveInt

from pipeline.encoders.encoder import EncoderConfig
from pipeline.errors import InputError

if TYPE_CHECKING:
    from dwsnet.encoders import ProbingEncoder
    from dwsnet.weight_space import WeightSpace
    from pipeline.archive.zoo import Zoo


class ProbingConfig(EncoderConfig):
    title: ClassVar[str] = "probing (runs the networks)"
    sizes: ClassVar[tuple[str, ...]] = ("width",)

    kind: Literal["probing"] = "probing"
    """Runs the networks, MLPs, on learned inputs and reads their outputs, not their weights."""
    num_probes: PositiveInt = 64
    """Number of inputs."""
    learned: bool = True
    """Learn the inputs; false: random ones, the control that shows what learning them gives."""
    activation: Literal["sine", "finer", "relu", "tanh", "sigmoid", "gelu"] = "sine"
    """Activation of the networks' hidden layers."""
    omega: PositiveFloat = 30.0
    """Frequency of sine and finer."""
    width: PositiveInt = 256
    """Width of the vector that a network is encoded as."""

    def check(self, zoo: Zoo):
        """Raise InputError unless the zoo says that its members compute as configured."""
        contract = zoo.record.decode
        wanted = described({self.activation}, {self.omega})
        omegas = contract.omega if isinstance(contract.omega, tuple) else (contract.omega,)
        found = described({*(contract.activations or ("unknown", ""))[:-1]}, {*omegas})
        if found != wanted:
            raise InputError(
                f"training.encoder must run the networks of zoo {zoo.folder} as they compute, "
                f"expected {found}, got {wanted}: set training.encoder.activation and .omega"
            )

    def build(self, space: WeightSpace) -> ProbingEncoder:
        from dwsnet.encoders import ProbingEncoder
        from pipeline.decode.activations import ACTIVATIONS

        value, omega = ACTIVATIONS[self.activation].value, self.omega
        return ProbingEncoder(
            space, self.width, self.num_probes, lambda z: value(z, omega, 1.0), self.learned
        )


def described(activations: set[str], omegas: set[float | None]) -> str:
    """Activations of hidden layers, with their frequencies if they have any."""
    from pipeline.decode import CATALOG

    names = " and ".join(sorted(activations)).replace(CATALOG, "each member's own")
    if not activations & {"sine", "finer"}:
        return names
    return f"{names} of omega {' and '.join(f'{omega:g}' for omega in omegas if omega)}"
