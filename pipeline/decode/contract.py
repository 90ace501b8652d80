"""The decode contract: how to run the members of an archive."""

from pydantic import field_validator

from dwsnet.weight_space import WeightSpace
from pipeline.config import Frequencies, Frozen

CATALOG = "catalog"
"""Stands for each member's own activation, from the catalog column `activation`."""


class ImageContract(Frozen):
    """How an image `(channels, height, width)` goes through a classifier.

    It is converted to grey if `grey`, and standardised with `mean` and `std`. Convolutions have
    this `stride` and pad by half a kernel; their maps are averaged over all positions before the
    first linear layer. Without convolutions the image is flattened in row-major order.
    """

    grey: bool
    """Colours become 0.299 red + 0.587 green + 0.114 blue first."""
    mean: tuple[float, ...] = (0.0,)
    """Per channel."""
    std: tuple[float, ...] = (1.0,)
    stride: int = 1


class DecodeContract(Frozen):
    """How to render a member's signal, or run it on images; null: an import did not say."""

    activations: tuple[str, ...] | None
    """One per layer, of z = W h + b: 'sine' is sin(omega z), 'finer' sin(omega (|z| + 1) z),
    'gaussian' exp(-(z / sigma)^2 / 2), 'wavelet' cos(omega z) times that, 'linear' z."""
    omega: float | tuple[float, ...] | None
    """One for all layers, or one per hidden layer."""
    sigma: float | None = None
    """One for all layers."""
    frequencies: Frequencies | None = None
    """B, one row per frequency: the first layer takes (x, sin(2 pi B x), cos(2 pi B x)) of the
    coordinates x; null: x alone."""
    output_offset: float | None
    """Added to the last layer's output."""
    output_scale: float | None = None
    """Multiplies the last layer's output before the offset is added."""
    coordinate_range: tuple[float, float] | None
    """First and last coordinate of each axis, both on the grid."""
    coordinate_order: str | None
    value_range: tuple[float, float] | None
    """Range of the values that INRs return, or of the images that classifiers take."""
    image: ImageContract | None = None
    """Only for classifiers, which take images and return logits."""

    @field_validator("frequencies")
    @classmethod
    def are_a_matrix(cls, rows: Frequencies | None) -> Frequencies | None:
        if rows is not None and (len({len(row) for row in rows}) != 1 or () in rows):
            raise ValueError("frequencies must be rows of one length")
        return rows

    def num_dims(self, space: WeightSpace) -> int:
        """The number of coordinates that INRs take, before they are encoded."""
        return len(self.frequencies[0]) if self.frequencies else space.tensors[0].shape[1]

    @property
    def activation_in_words(self) -> str:
        """Activations of the hidden layers, and how coordinates are encoded."""
        hidden = dict.fromkeys((self.activations or ("unknown", ""))[:-1])
        names = ", ".join("each member's own" if name == CATALOG else name for name in hidden)
        rows = self.frequencies
        return f"{names}, of coordinates encoded with {len(rows)} frequencies" if rows else names
