"""The kinds of INR: a class each, with its fields, activation, encoding and initialisation.

A kind needs no more code than its class, unless its activation is new: that is a line in
`pipeline.decode.activations` and a function in `pipeline.fit.activations`.
"""

from math import sqrt
from random import Random
from statistics import NormalDist
from typing import Annotated, ClassVar, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, field_validator
from pydantic_core import PydanticCustomError

from pipeline.config.base import ADDED, Config
from pipeline.unions import BY_KIND

Frequencies = tuple[tuple[float, ...], ...]
"""In cycles per unit of each coordinate, one row per frequency."""


class InrConfig(Config):
    """What INRs of all kinds have."""

    activation: ClassVar[str]
    """Of the hidden layers."""

    hidden: tuple[PositiveInt, ...] = Field((32, 32), min_length=1)
    """Widths of the hidden layers."""
    learning_rate_factor: PositiveFloat = 5.0
    """Multiplies fit.learning_rate, which is meant for SIRENs."""
    shared_init: bool = False
    """All INRs of a view start from the same weights, so that their neurons correspond; otherwise
    each starts from its own."""
    output_offset: float = 0.5
    """Added to the output of the last layer."""
    output_scale: Annotated[PositiveFloat | None, ADDED] = None
    """Multiplies the output of the last layer before the offset is added; null: 1. With 0.05, the
    layer returns -10 to 10 for signals from 0 to 1, so that the weights show an amplitude."""
    coordinate_range: Annotated[tuple[float, float], ADDED] = (-1.0, 1.0)
    """First and last coordinate of each axis of the grid."""

    @field_validator("coordinate_range")
    @classmethod
    def rises(cls, bounds: tuple[float, float]) -> tuple[float, float]:
        if bounds[0] < bounds[1]:
            return bounds
        raise PydanticCustomError("range", "the first should be below the last")

    def bounds(self, inputs: int, is_first: bool) -> tuple[float, float]:
        """A hidden layer starts with weights and biases uniform between plus and minus these.

        By default those of torch.nn.Linear.
        """
        return 1 / sqrt(inputs), 1 / sqrt(inputs)

    def frequencies(self, num_dims: int) -> Frequencies:
        """Frequencies of the encoding of coordinates; none if the first layer takes them as they
        are."""
        return ()


class SirenConfig(InrConfig):
    activation: ClassVar[str] = "sine"

    kind: Annotated[Literal["siren"], ADDED] = "siren"
    """SIREN (Sitzmann et al. 2020)."""
    learning_rate_factor: Annotated[PositiveFloat, ADDED] = 1.0
    """Multiplies fit.learning_rate."""
    omega: PositiveFloat = 30.0
    """SIREN's omega_0: a hidden layer computes sin(omega (W h + b))."""
    init: Literal["dws", "siren"] = "dws"
    """'dws': the initialisation of the DWSNets corpus, which is easier to learn from; 'siren':
    Sitzmann et al. 2020."""

    def bounds(self, inputs: int, is_first: bool) -> tuple[float, float]:
        """'dws' is that of the released DWSNets dataset: sqrt(6 / inputs) / omega, including the
        first layer, and biases zero. 'siren' has 1 / inputs in the first layer and torch's biases.
        """
        is_siren = self.init == "siren"
        weight = 1 / inputs if is_siren and is_first else sqrt(6 / inputs) / self.omega
        return weight, 1 / sqrt(inputs) if is_siren else 0.0


class FinerConfig(InrConfig):
    activation: ClassVar[str] = "finer"

    kind: Literal["finer"] = "finer"
    """FINER (Liu et al. 2024): a SIREN whose frequencies grow with its activations."""
    omega: PositiveFloat = 5.0
    """A hidden layer computes sin(omega (|z| + 1) z), with z = W h + b."""
    bias_range: PositiveFloat = 0.3
    """Biases of the first layer start between plus and minus this: the larger, the higher the
    frequencies (k in the paper)."""

    def bounds(self, inputs: int, is_first: bool) -> tuple[float, float]:
        """Those of a SIREN but for the biases of the first layer (equation 7)."""
        weight = 1 / inputs if is_first else sqrt(6 / inputs) / self.omega
        return weight, self.bias_range if is_first else 1 / sqrt(inputs)


class GaussianConfig(InrConfig):
    activation: ClassVar[str] = "gaussian"

    kind: Literal["gaussian"] = "gaussian"
    """Gaussian activations (Ramasinghe and Lucey 2022)."""
    sigma: PositiveFloat = 0.15
    """A hidden layer computes exp(-(z / sigma)^2 / 2), with z = W h + b: the smaller, the higher
    the frequencies."""


class WireConfig(InrConfig):
    activation: ClassVar[str] = "wavelet"

    kind: Literal["wire"] = "wire"
    """WIRE (Saragadam et al. 2023) with the real part of its Gabor wavelet, so that weights are
    real."""
    omega: PositiveFloat = 5.0
    """A hidden layer computes cos(omega z) exp(-(z / sigma)^2 / 2), with z = W h + b."""
    sigma: PositiveFloat = 0.2
    """Width of the wavelet: 1 / (sqrt(2) s_0) of the paper."""


class PositionalConfig(InrConfig):
    activation: ClassVar[str] = "relu"

    kind: Literal["positional"] = "positional"
    """ReLU with the positional encoding of NeRF (Mildenhall et al. 2020)."""
    num_frequencies: NonNegativeInt = 2
    """The first layer takes the coordinates and, for k below this, sines and cosines of each times
    2^k pi; 0: the coordinates alone."""

    def frequencies(self, num_dims: int) -> Frequencies:
        return tuple(
            tuple(2.0**k / 2 if dim == own else 0.0 for dim in range(num_dims))
            for k in range(self.num_frequencies)
            for own in range(num_dims)
        )


class FourierConfig(InrConfig):
    activation: ClassVar[str] = "relu"

    kind: Literal["fourier"] = "fourier"
    """ReLU with random Fourier features (Tancik et al. 2020)."""
    num_frequencies: PositiveInt = 8
    """The first layer takes the coordinates x and the sines and cosines of 2 pi B x, where B has
    this many rows, the same for all INRs."""
    bandwidth: PositiveFloat = 1.0
    """Standard deviation of the entries of B, in cycles per unit of the coordinates."""
    seed: NonNegativeInt = 0
    """Seed of B. It is not `zoo.seed`, so that zoos of several seeds can be merged, and read by one
    model."""

    def frequencies(self, num_dims: int) -> Frequencies:
        """Rounded, so that they are the same on every machine."""
        draw, normal = Random(self.seed).random, NormalDist(0.0, self.bandwidth).inv_cdf
        return tuple(
            tuple(float(f"{normal(draw()):.6g}") for _ in range(num_dims))
            for _ in range(self.num_frequencies)
        )


AnyInrConfig = Annotated[
    SirenConfig | PositionalConfig | FourierConfig | GaussianConfig | WireConfig | FinerConfig,
    BY_KIND,
]
"""How an INR is built, chosen by `kind`."""
