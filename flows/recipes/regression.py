"""Numbers that are read from weights: frequencies of waves, accuracies of classifiers."""

from flows.recipe import Recipe
from pipeline.config import (
    ClassifierConfig,
    ClassifierZooConfig,
    FitConfig,
    HyperparametersConfig,
    InrConfig,
    SignalsConfig,
    ZooConfig,
)
from pipeline.encoders import DWSNetConfig
from pipeline.tasks import Regression
from pipeline.training.config import TrainingConfig


def sines_frequency() -> Recipe:
    """Waves sin(bx), one INR each: what is the frequency b, and how many INRs does it take to tell? Minutes on two cores."""
    return Recipe(
        zoo=ZooConfig(
            signals=SignalsConfig(
                source="sines", size=256, limit=800, validation_fraction=0.25, test_fraction=0.25
            ),
            inr=InrConfig(hidden=(32, 32)),
            fit=FitConfig(learning_rate=1e-3, max_steps=1500, target_psnr=40.0),
            shard_size=200,
        ),
        training=TrainingConfig(
            task=Regression(targets=("frequency",)),
            encoder=DWSNetConfig(channels=16, canonical_signs=True, width=64),
            sizes=(10, 40, 160),
            epochs=40,
            batch_size=32,
        ),
    )


def dws_sines() -> Recipe:
    """Frequency regression of the DWSNets paper (E1), reconstructed: test error against the number of INRs, 10 to 2,000.

    Waves sin(bx) at 2,000 points, 2,000 / 500 / 500, one INR each, 1-32-32-1; 100 epochs in batches of 32, the epoch chosen on
    the validation split, five seeds, each with INRs of its own. The paper says neither the INRs nor the counts; those of
    GradMetaNet's account of it are taken. Always answering the mean has a squared error of 7.52.
    """
    return Recipe(
        zoo=ZooConfig(
            signals=SignalsConfig(
                source="sines", limit=3000, validation_fraction=1 / 6, test_fraction=1 / 6
            ),
            inr=InrConfig(hidden=(32, 32)),
            fit=FitConfig(learning_rate=1e-3, max_steps=1500, target_psnr=40.0),
            shard_size=500,
        ),
        training=TrainingConfig(
            task=Regression(targets=("frequency",)),
            encoder=DWSNetConfig(canonical_signs=True),
            baselines=("mlp", "mlp-augmented", "mlp-aligned", "inr2vec", "transformer"),
            sizes=(10, 20, 50, 100, 200, 500, 1000),
            seeds=5,
            epochs=100,
            batch_size=32,
            learning_rate=1e-3,
        ),
    )


WIDE = HyperparametersConfig(
    activation=("relu", "tanh", "sigmoid", "gelu", "sine"),
    init=("he_normal", "he_uniform", "glorot_normal", "glorot_uniform", "normal"),
    init_scale="loguniform(0.3, 3)",
    optimizer=("sgd", "momentum", "adam", "rmsprop"),
    learning_rate="loguniform(5e-4, 5e-2)",
    weight_decay="loguniform(1e-8, 1e-2)",
    dropout="uniform(0, 0.7)",
)
"""Ranges of the Small CNN Zoo (Unterthiner et al. 2020), with more activations and schemes: good runs and bad ones."""


ACCURACY = TrainingConfig(
    task=Regression(targets=("test_accuracy",), inputs=("activation",)),
    encoder=DWSNetConfig(channels=16, num_layers=3, num_frequencies=4, positions=4, width=128),
    epochs=20,
    batch_size=64,
)
"""How accurate is a classifier, by its weights and its activation?"""


def mlps() -> Recipe:
    """1,000 MLPs that read scikit-learn's digits, good and bad, five checkpoints each: how accurate is each? 3 minutes."""
    return Recipe(
        training=ACCURACY,
        zoo=ClassifierZooConfig(
            signals=SignalsConfig(source="digits"),
            network=ClassifierConfig(kind="mlp", hidden=(16, 16)),
            hyperparameters=WIDE.model_copy(update={"epochs": (20,)}),
            checkpoints=(0, 1, 3, 8),
            batch_size=32,
        ),
    )


def mnist_cnns() -> Recipe:
    """1,000 CNNs as in the Small CNN Zoo (Unterthiner et al. 2020), 4,970 parameters: how accurate is each on test images?

    Needs `--set zoo.signals.path=FOLDER` with MNIST, Fashion-MNIST or CIFAR-10 as Parquet in the Hugging Face layout. Grey
    images, 3 x 16 channels. Draws activation, initialisation, optimizer, learning rate, weight decay, dropout and share of the
    training images anew for each run, as that zoo does. Learns from all checkpoints, split by run.
    """
    return Recipe(
        training=ACCURACY,
        zoo=ClassifierZooConfig(
            signals=SignalsConfig(source="parquet", validation_fraction=1 / 14),
            network=ClassifierConfig(kind="cnn", hidden=(16, 16, 16), grey=True),
            hyperparameters=WIDE.model_copy(
                update={"train_fraction": (0.1, 0.25, 0.5, 1.0), "epochs": (4,)}
            ),
            checkpoints=(0, 1, 2),
            batch_size=128,
            evaluation_images=5000,
        ),
    )
