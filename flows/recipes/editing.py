"""INRs that are edited by their weights."""

from flows.recipe import Recipe
from flows.recipes.classification import digits, dws_mnist
from pipeline.encoders import DWSNetConfig
from pipeline.tasks import Editing
from pipeline.training.config import TrainingConfig


def digits_dilate() -> Recipe:
    """INRs of handwritten digits edited so that they render thicker ones: minutes on two cores."""
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
    """The dilation of MNIST INRs (Zhou et al. 2023) at an expansion of 1, on the corpus of dws-mnist.

    Needs `--set zoo.signals.path=FOLDER`, as dws-mnist does. The target is made from the image, the error is on the [0, 1]
    scale over the full grid; as they are, the INRs are at 9.3e-2. For two cores: `--set zoo.signals.limit=7000`.
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
