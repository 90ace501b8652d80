"""Encoding of coordinates, before the first layer."""

from math import pi

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.config import Frequencies


def encoded(
    points: Float[Tensor, "... points dims"], frequencies: Frequencies | None
) -> Float[Tensor, "... points inputs"]:
    """Coordinates x as (x, sin(2 pi B x), cos(2 pi B x)), where B has the frequencies as rows.

    The positional encoding of NeRF and random Fourier features are both of this form (Tancik et al.
    2020, section 4.1), here with the coordinates themselves in front, as in NeRF's code. Without
    frequencies, the coordinates as they are.
    """
    if not frequencies:
        return points
    phases = 2 * pi * points @ points.new_tensor(frequencies).t()  # (..., points, frequencies)
    return torch.cat([points, phases.sin(), phases.cos()], -1)
