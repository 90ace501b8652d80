"""What a recipe is."""

from pathlib import Path
from typing import Annotated

from pydantic import NonNegativeFloat, NonNegativeInt

from pipeline.config import ADDED, LOCATION, AnyZooConfig, Config, ResourcesConfig, ZooConfig
from pipeline.training.config import ProbeConfig, TrainingConfig


class GrowthConfig(Config):
    views: NonNegativeInt = 0
    """So many more INRs of each signal are fitted each time, and those of signals that have come."""
    max_fall: NonNegativeFloat | None = None
    """A run fails where the metric that chooses the best epoch is worse than the time before by more than this, on the test
    split: 0.02 are two percentage points of accuracy; null: it never does."""


class Recipe(Config):
    """A complete configuration of `dwszoo run`, or without training of `dwszoo zoo build`."""

    zoo: AnyZooConfig = ZooConfig()
    training: TrainingConfig | None = None
    """How a model is trained on the zoo; null: the zoo is made for itself."""
    probe: ProbeConfig | None = None
    """What the trained encoder is tried on afterwards; null: nothing."""
    growth: Annotated[GrowthConfig | None, ADDED] = None
    """How the zoo grows each time that the recipe is run in the same folder, where training goes on from the encoder of the
    time before; null: it does not."""
    resources: Annotated[ResourcesConfig, LOCATION] = ResourcesConfig()


def default_folder(name: str, recipe: Recipe) -> Path:
    """runs/NAME-FINGERPRINT, with the stem of a file or the function of package.module:function."""
    return Path("runs") / f"{Path(name.rpartition(':')[2]).stem}-{recipe.fingerprint()}"
