"""Corruptions of images: they turn the domain a classifier was trained on into the target domain.

Each maps images `(images, channels, height, width)` float32 in [0, 1] to images of the same kind.
The random numbers of an image derive from its key alone, so a corruption does not depend on the
batch, the rank or the device.
"""

from collections.abc import Callable, Sequence
from math import radians

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from pipeline.fit import seeds

Images = Float[Tensor, "images channels height width"]
LARGEST_ANGLE = 75.0
"""Degrees of a rotation, in either direction."""
BRIGHTNESS, HUE = 0.4, 0.25
"""Brightness is multiplied by 1 +- 0.4 at most, hue turned by +- 0.25 of a circle at most."""
SIGMA = 0.1, 2.0
"""Smallest and largest standard deviation of the Gaussian blur, pixels."""
NOISE_STD = 0.3


def corrupt(images: Images, keys: np.ndarray, names: Sequence[str]) -> Images:
    """Apply the corruptions of these names in order; `keys` is `(images,)` uint64."""
    numbers = {name: number for number, name in enumerate(CORRUPTIONS)}
    for name in names:
        images = CORRUPTIONS[name](images, seeds.derive(keys, numbers[name]))
    return images


def rotation(images: Images, keys: np.ndarray) -> Images:
    """Rotate by up to 75 degrees about the centre: nearest pixels, and black from outside."""
    angle = _drawn(images, keys, -radians(LARGEST_ANGLE), radians(LARGEST_ANGLE))[0].flatten()
    cosine, sine, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    height, width = images.shape[2:]
    rows = [cosine, -sine * height / width, zero], [sine * width / height, cosine, zero]
    maps = torch.stack([torch.stack(row, 1) for row in rows], 1)  # (images, 2, 3)
    grid = F.affine_grid(maps, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="nearest", align_corners=False)


def inversion(images: Images, keys: np.ndarray) -> Images:
    """Swap black and white."""
    return 1 - images


def noise(images: Images, keys: np.ndarray) -> Images:
    """Add Gaussian noise of standard deviation 0.3 to every value."""
    values = torch.from_numpy(seeds.normal(keys, images[0].numel())).to(images.device)
    return (images + NOISE_STD * values.view(images.shape)).clamp(0, 1)


def blur(images: Images, keys: np.ndarray) -> Images:
    """Blur with a 3x3 Gaussian kernel whose standard deviation is between 0.1 and 2 pixels."""
    beside = (-0.5 / _drawn(images, keys, *SIGMA)[0].square()).exp()  # weight of a neighbour
    for dim in (2, 3):
        padded = F.pad(images, [1, 1, 0, 0] if dim == 3 else [0, 0, 1, 1], mode="reflect")
        before, after = (padded.narrow(dim, start, images.shape[dim]) for start in (0, 2))
        images = (images + beside * (before + after)) / (1 + 2 * beside)
    return images


def jitter(images: Images, keys: np.ndarray) -> Images:
    """Change the brightness by up to 40 %, and the hue of colour images by up to 90 degrees."""
    brightness, hue = _drawn(images, keys, -1, 1, 2)
    images = (images * (1 + BRIGHTNESS * brightness)).clamp(0, 1)
    return turned_hue(images, HUE * hue) if images.shape[1] == 3 else images


def flips(images: Images, keys: np.ndarray) -> Images:
    """Flip one half of the images vertically and, independently, one half horizontally."""
    for dim, drawn in zip((2, 3), _drawn(images, keys, -1, 1, 2), strict=True):
        images = torch.where(drawn < 0, images.flip(dim), images)
    return images


CORRUPTIONS: dict[str, Callable[[Images, np.ndarray], Images]] = {
    corruption.__name__: corruption
    for corruption in (rotation, inversion, noise, blur, jitter, flips)
}
"""Corruptions by name; their order decides the random numbers of each."""


def turned_hue(images: Images, turn: Float[Tensor, "images 1 1 1"]) -> Images:
    """Turn the hue by a share `turn` of the circle, keeping value and saturation (HSV)."""
    value, chroma = images.amax(1), images.amax(1) - images.amin(1)
    red, green, blue = images.unbind(1)
    over = chroma.clamp(min=1e-12)
    sixths = torch.where(
        red == value,
        (green - blue) / over,
        torch.where(green == value, 2 + (blue - red) / over, 4 + (red - green) / over),
    )
    sixths = sixths + 6 * turn.squeeze(1)
    places = [(start + sixths) % 6 for start in (5, 3, 1)]
    return torch.stack([value - chroma * torch.minimum(k, 4 - k).clamp(0, 1) for k in places], 1)


def _drawn(
    images: Images, keys: np.ndarray, low: float, high: float, count: int = 1
) -> Float[Tensor, "{count} images 1 1 1"]:
    """`count` numbers for each image, uniform on [low, high)."""
    unit = torch.from_numpy(seeds.uniform(keys, count)).to(images.device) / 2 + 0.5
    return (low + (high - low) * unit).T[..., None, None, None]
