"""Domain adaptation of classifiers by their weights."""

from flows.recipe import Recipe
from pipeline.config import (
    ClassifierConfig,
    ClassifierZooConfig,
    HyperparametersConfig,
    SignalsConfig,
)
from pipeline.encoders import DWSNetConfig
from pipeline.tasks import Adaptation
from pipeline.training.config import TrainingConfig


def cifar_binary() -> Recipe:
    """A zoo of 1,000 CNNs for random pairs of CIFAR-10 classes, for DWSNets' domain adaptation.

    Needs `--set zoo.signals.path=FOLDER` with CIFAR-10 as Parquet in the Hugging Face layout.
    """
    return Recipe(
        training=None,
        zoo=ClassifierZooConfig(
            signals=SignalsConfig(source="parquet"),
            classes="pairs",
            network=ClassifierConfig(kind="cnn", hidden=(16, 16, 16)),
            hyperparameters=HyperparametersConfig(
                activation=("relu",),
                init=("he_uniform",),
                learning_rate="loguniform(1e-3, 1e-2)",
                epochs=(5,),
            ),
        ),
    )


def digits_adapt() -> Recipe:
    """Domain adaptation, no files needed: CNNs for pairs of digits, adapted to rotated digits."""
    return Recipe(
        zoo=ClassifierZooConfig(
            signals=SignalsConfig(source="digits"),
            num_runs=600,
            classes="pairs",
            network=ClassifierConfig(kind="cnn", hidden=(8, 8)),
            hyperparameters=HyperparametersConfig(
                activation=("relu",), init=("he_uniform",), learning_rate=(1e-2,), epochs=(8,)
            ),
            batch_size=32,
        ),
        training=TrainingConfig(
            task=Adaptation(corruptions=("rotation",)),
            encoder=DWSNetConfig(channels=16, num_layers=3),
            epochs=50,
            batch_size=32,
            learning_rate=4e-3,
        ),
    )


def cifar_adapt() -> Recipe:
    """The DWSNets paper's domain adaptation: CNNs for pairs of CIFAR-10 classes, corrupted images.

    Images are rotated, recoloured, blurred and flipped. Needs `--set zoo.signals.path=FOLDER` with
    CIFAR-10 as Parquet in the Hugging Face layout. Each network is trained on a quarter of the
    images, which makes it about as accurate on corrupted images as the paper's networks.
    """
    return Recipe(
        zoo=ClassifierZooConfig(
            signals=SignalsConfig(source="parquet"),
            classes="pairs",
            network=ClassifierConfig(kind="cnn", hidden=(16, 16, 16)),
            hyperparameters=HyperparametersConfig(
                activation=("relu",),
                init=("he_uniform",),
                learning_rate=(3e-3,),
                train_fraction=(0.25,),
                epochs=(5,),
            ),
        ),
        training=TrainingConfig(
            task=Adaptation(),
            encoder=DWSNetConfig(channels=16, num_layers=4),
            epochs=50,
            batch_size=32,
            learning_rate=4e-3,
        ),
    )
