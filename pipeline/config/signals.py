"""The signals that networks are fitted to."""

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PositiveInt, field_validator
from pydantic_core import PydanticCustomError

from pipeline.config.base import ADDED, LOCATION, Config

SOURCES = (
    "digits",
    "folder",
    "parquet",
    "idx",
    "npz",
    "sines",
    "waves",
    "wide-waves",
    "distances",
    "occupancy",
)
Operation = Literal[
    "identity", "dilate", "erode", "gradient", "blur", "contrast", "rotate", "mask", "coarsen"
]
"""Operations on signals: `pipeline.signals.operations`."""
FUNCTION = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


class SignalsConfig(Config):
    source: str = "digits"
    """'digits': scikit-learn's, 8x8; 'folder': images, in one subfolder per class or in none;
    'parquet': a Parquet file, or a folder of them in the Hugging Face layout; 'idx': a folder of
    IDX files; 'npz': an NPZ file; 'sines', 'waves', 'wide-waves': 10,000 waves: sin(bx), or a
    sin(bx) with a and b from 1 to 10, or from 0 to 10; the class is a band of frequencies,
    frequency and amplitude are facts; 'distances', 'occupancy': signed distances to, or occupancy
    of, 4,000 solid shapes; the class is the kind of shape, scale and centre are facts. Or your own
    function as package.module:function: it takes `size` and returns values (signals, *grid,
    channels) in [0, 1] with their labels (signals,) or None, and optionally a dict of facts:
    numbers (signals,) by name."""
    path: Annotated[Path | None, LOCATION] = None
    """Path of the source, if it is read from files."""
    image_column: Annotated[str | None, LOCATION] = None
    """Column of Parquet files with the images; null: 'image', 'img', or the only one that can hold
    images."""
    label_column: Annotated[str | None, LOCATION] = None
    """Column of Parquet files with the classes, '' for none; null: 'label', or the only one named
    or described as a label."""
    fact_columns: Annotated[tuple[str, ...], LOCATION] = ()
    """Numeric columns of Parquet files that become facts of the signals: columns of the catalog,
    like the frequency and amplitude of waves."""
    size: PositiveInt | None = None
    """Points along each side of the grid. Encoded images are resized; null keeps their size, which
    must then be the same for all, and means 2,000 points for waves and 16 for shapes."""
    limit: PositiveInt | None = None
    """Use only this many signals, spread evenly over the source; null: all."""
    max_unreadable: Annotated[float, LOCATION] = Field(0.5, ge=0, le=1)
    """Largest share of the signals, and of the files of a table, that may be unreadable: each of
    these fails alone. If there are more, nothing is fitted."""
    operation: Annotated[Operation, ADDED] = "identity"
    """Applied to each signal before it is fitted. 'identity' does nothing; 'dilate', 'erode' and
    'gradient' are morphology over 3x3, 2x2 and 2x2 points; 'blur', 'contrast', 'rotate'; 'mask'
    hides a box of half of each side; 'coarsen' keeps half the resolution. An editor can be trained
    to undo it."""
    validation_fraction: float = Field(0.1, ge=0, lt=1)
    """Share of each class that goes to the validation split, before any fit; a validation split of
    the source's own takes precedence."""
    test_fraction: float = Field(0.2, ge=0, lt=1)
    """Share of each class that goes to the test split; a test split of the source's own takes
    precedence."""

    @property
    def is_function(self) -> bool:
        """Whether signals come from the user's own function.

        It is never called just because an archive names it.
        """
        return ":" in self.source

    @property
    def module(self) -> str | None:
        """The module of that function; None for a built-in source."""
        return self.source.partition(":")[0] if self.is_function else None

    @field_validator("source")
    @classmethod
    def name_a_source_or_a_function(cls, source: str) -> str:
        if source in SOURCES or FUNCTION.fullmatch(source):
            return source
        raise PydanticCustomError(
            "source", f"input should be one of {', '.join(SOURCES)} or package.module:function"
        )
