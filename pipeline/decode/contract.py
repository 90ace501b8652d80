"""What an archive says about running its members: the decode contract."""

from pipeline.config import Frozen

CATALOG = "catalog"
"""In the place of an activation: the member's own, in the column `activation` of the catalog."""


class ImageContract(Frozen):
    """How an image `(channels, height, width)` goes through a classifier.

    Grey or not, less `mean`, over `std`; convolutions of `stride`, padded by half a kernel; their maps averaged over all
    positions before the first linear layer. Without convolutions the image is flattened as it lies.
    """

    grey: bool
    """Colours are turned into 0.299 red + 0.587 green + 0.114 blue first."""
    mean: tuple[float, ...] = (0.0,)
    """Of each channel."""
    std: tuple[float, ...] = (1.0,)
    stride: int = 1


class DecodeContract(Frozen):
    """How to turn a member's tensors back into its signal, or to run it on images; null where an import came without."""

    activations: tuple[str, ...] | None
    """One a layer: 'sine' is sin(omega z), 'linear' is z, with z = W h + b."""
    omega: float | tuple[float, ...] | None
    """Of all layers, or of each hidden layer."""
    output_offset: float | None
    """Added to the last layer's output."""
    output_scale: float | None = None
    """Multiplies it before that."""
    coordinate_range: tuple[float, float] | None
    """First and last coordinate of each axis, both on the grid."""
    coordinate_order: str | None
    value_range: tuple[float, float] | None
    """Of what INRs return, of the images that classifiers take."""
    image: ImageContract | None = None
    """Of classifiers: they take images and return logits."""
