"""What a recipe is."""

from typing import Annotated

from pipeline.config import LOCATION, AnyZooConfig, Config, ResourcesConfig, ZooConfig
from pipeline.training.config import TrainingConfig


class Recipe(Config):
    """A complete configuration of `dwszoo run`."""

    zoo: AnyZooConfig = ZooConfig()
    training: TrainingConfig | None = TrainingConfig()
    """Null: the zoo is made for itself."""
    resources: Annotated[ResourcesConfig, LOCATION] = ResourcesConfig()
