"""What a recipe is."""

from pathlib import Path
from typing import Annotated

from pipeline.config import LOCATION, AnyZooConfig, Config, ResourcesConfig, ZooConfig
from pipeline.training.config import ProbeConfig, TrainingConfig


class Recipe(Config):
    """A complete configuration of `dwszoo run`, or without training of `dwszoo zoo build`."""

    zoo: AnyZooConfig = ZooConfig()
    training: TrainingConfig | None = None
    """How a model is trained on the zoo; null: the zoo is made for itself."""
    probe: ProbeConfig | None = None
    """What the trained encoder is tried on afterwards; null: nothing."""
    resources: Annotated[ResourcesConfig, LOCATION] = ResourcesConfig()


def default_folder(name: str, recipe: Recipe) -> Path:
    """runs/NAME-FINGERPRINT, with the stem of a file or the function of package.module:function."""
    return Path("runs") / f"{Path(name.rpartition(':')[2]).stem}-{recipe.fingerprint()}"
