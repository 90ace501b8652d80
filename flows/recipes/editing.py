"""Editing of INRs by their weights."""

from flows.recipe import Recipe
from flows.recipes.classification import digits, dws_mnist
from pipeline.encoders import DWSNetConfig
from pipeline.tasks import Editing
from pipeline.training.config import TrainingConfig


def digits_dilate() -> Recipe:
    """Edit INRs of handwritten digits so that they render thicker ones. Minutes on two cores."""
    zoo = digits().zoo.model_copy(update={"views": 4})
    return Recipe(
        zoo=zoo,
        training=TrainingConfig(
            task=Editing(operation="dilate"),
            encoder=DWSNetConfig(channels=32, num_layers=4),
            epochs=20,
            batch_size=64,
            learning_rate=1e-2,
            warmup_fraction=0.1,
        ),
    )


def mnist_dilate() -> Recipe:
    """Dilation of MNIST INRs (Zhou et al. 2023) with an expansion of 1, on the corpus of dws-mnist.

    Needs `--set zoo.signals.path=FOLDER`, like dws-mnist. The target is the dilated image; the
    error is measured over the full grid on the [0, 1] scale, and is 9.3e-2 for unedited INRs. On
    two cores, add `--set zoo.signals.limit=7000`.
    """
    return Recipe(
        zoo=dws_mnist().zoo,
        training=TrainingConfig(
            task=Editing(operation="dilate"),
            encoder=DWSNetConfig(channels=32, num_layers=4),
            baselines=(),
            epochs=120,
            batch_size=32,
            learning_rate=2e-2,
            warmup_fraction=0.1,
        ),
    )
