"""A line of the GPU check's table."""

from dataclasses import dataclass

import torch

GPU = torch.device("cuda")


@dataclass(frozen=True)
class Row:
    """What was measured, the value, and the expected value."""

    what: str
    found: str
    wanted: str = ""
    ok: bool = True


def bounded(what: str, error: float, bound: float) -> Row:
    return Row(what, f"{error:.1e}", f"at most {bound:.0e}", bool(error <= bound))
