"""The 1,797 handwritten digits that ship with scikit-learn: 8x8, grey, no download."""

import numpy as np

from pipeline.errors import InputError
from pipeline.signals.signals import Signals


def load_digits(size: int | None) -> Signals:
    """The digits, scaled from 0..16 to [0, 1]."""
    from sklearn import datasets

    if size not in (None, 8):
        raise InputError(f"signals.size must be null or 8 for source 'digits', got {size}")
    digits = datasets.load_digits()
    return Signals(
        name="digits",
        values=(digits.images / 16)[..., None].astype(np.float32),
        labels=digits.target.astype(np.int64),
        class_names=tuple(str(name) for name in digits.target_names),
    )
