"""The configuration of a recipe."""

from pathlib import Path
from typing import Annotated

from pydantic import NonNegativeFloat, NonNegativeInt

from pipeline.config import ADDED, LOCATION, AnyZooConfig, Config, ResourcesConfig, ZooConfig
from pipeline.training.config import ProbeConfig, TrainingConfig


class GrowthConfig(Config):
    views: NonNegativeInt = 0
    """Number of further INRs of each signal to fit in each run, in addition to those of new
    signals."""
    max_fall: NonNegativeFloat | None = None
    """A run fails if the metric that chooses the best epoch is worse on the test split than in the
    previous run by more than this (0.02 is two percentage points of accuracy); null: never."""


class Recipe(Config):
    """A complete configuration of `dwszoo run` or, without training, of `dwszoo zoo build`."""

    zoo: AnyZooConfig = ZooConfig()
    training: TrainingConfig | None = None
    """How to train a model on the zoo; null: only make the zoo."""
    probe: ProbeConfig | None = None
    """How to probe the trained encoder; null: do not."""
    growth: Annotated[GrowthConfig | None, ADDED] = None
    """How the zoo grows each time that the recipe is run in the same folder; training then starts
    from the previous run's encoder; null: it does not grow."""
    resources: Annotated[ResourcesConfig, LOCATION] = ResourcesConfig()

    @property
    def required_training(self) -> TrainingConfig:
        """`training` of a recipe that has it; `flows.overrides` refuses others."""
        assert self.training is not None
        return self.training


def default_folder(name: str, recipe: Recipe) -> Path:
    """runs/NAME-FINGERPRINT, where NAME is a recipe's name, a file's stem or a function's name."""
    return Path("runs") / f"{Path(name.rpartition(':')[2]).stem}-{recipe.fingerprint()}"
