"""The decode contract: how to run the members of an archive."""

from pipeline.config import Frozen

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
    """One per layer: 'sine' is sin(omega z), 'linear' is z, with z = W h + b."""
    omega: float | tuple[float, ...] | None
    """One for all layers, or one per hidden layer."""
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
