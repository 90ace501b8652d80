"""Regression from weights: frequencies of waves, accuracies of classifiers."""

from flows.recipe import Recipe
from pipeline.config import (
    ClassifierConfig,
    ClassifierZooConfig,
    FitConfig,
    HyperparametersConfig,
    SignalsConfig,
    SirenConfig,
    ZooConfig,
)
from pipeline.encoders import DWSNetConfig
from pipeline.tasks import Regression
from pipeline.training.config import TrainingConfig


def sines_frequency() -> Recipe:
    """Predict the frequency b of waves sin(bx) from 10 to 400 INRs. Minutes on two cores."""
    return Recipe(
        zoo=ZooConfig(
            signals=SignalsConfig(
                source="sines", size=256, limit=800, validation_fraction=0.25, test_fraction=0.25
            ),
            inr=SirenConfig(hidden=(32, 32)),
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
    """The DWSNets paper's frequency regression (E1), reconstructed, with 10 to 2,000 INRs.

    Waves sin(bx) at 2,000 points, one 1-32-32-1 INR each, 2,000 / 500 / 500; 100 epochs in batches
    of 32, the best epoch chosen on the validation split; five seeds, each with its own INRs. The
    paper does not specify the INRs or their number, so both follow GradMetaNet's description of it.
    Always predicting the mean has a squared error of 7.52.
    """
    return Recipe(
        zoo=ZooConfig(
            signals=SignalsConfig(
                source="sines", limit=3000, validation_fraction=1 / 6, test_fraction=1 / 6
            ),
            inr=SirenConfig(hidden=(32, 32)),
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
"""Ranges of the Small CNN Zoo (Unterthiner et al. 2020), with more activations and initialisations;
they give good runs and bad ones."""


ACCURACY = TrainingConfig(
    task=Regression(targets=("test_accuracy",), inputs=("activation",)),
    encoder=DWSNetConfig(channels=16, num_layers=3, num_frequencies=4, positions=4, width=128),
    epochs=20,
    batch_size=64,
)
"""Predicts the accuracy of a classifier from its weights and its activation."""


def mlps() -> Recipe:
    """Predict the accuracy of 1,000 MLPs on scikit-learn's digits, five checkpoints each. 3 min."""
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
    """Predict the test accuracy of 1,000 CNNs as in the Small CNN Zoo (Unterthiner et al. 2020).

    Needs `--set zoo.signals.path=FOLDER` with MNIST, Fashion-MNIST or CIFAR-10 as Parquet in the
    Hugging Face layout. The CNNs read grey images with three layers of 16 channels (4,970
    parameters). As in that zoo, each run draws its activation, initialisation, optimizer, learning
    rate, weight decay, dropout and fraction of the training images. The model learns from all
    checkpoints, split by run.
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
