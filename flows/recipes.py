"""Complete configurations, each a function. A variant edits what it is made of: `dwszoo run digits --set zoo.views=4`."""

from collections.abc import Callable
from math import pi

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
from pipeline.tasks import AdaptationConfig, ContrastiveConfig, EditingConfig, RegressionConfig
from pipeline.tasks.augmentation import Augmentation
from pipeline.training.config import FinetuneConfig, ProbeConfig, TrainingConfig

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


def digits() -> Recipe:
    """The demo: eight INRs of each of scikit-learn's 1,797 handwritten digits, classified. Minutes on two cores."""
    return Recipe(
        zoo=ZooConfig(
            signals=SignalsConfig(source="digits"),
            views=8,
            inr=InrConfig(hidden=(16, 16)),
            fit=FitConfig(learning_rate=1e-3, max_steps=300, target_psnr=30.0),
            shard_size=1024,
        ),
        training=TrainingConfig(
            encoder=DWSNetConfig(channels=32, num_layers=4, canonical_signs=True),
            epochs=18,
            learning_rate=1e-2,
            weight_decay=5e-2,
        ),
    )


def images() -> Recipe:
    """Your own images: one INR each of a folder of images, in one subfolder a class or in none, at 28x28.

    Needs `--set zoo.signals.path=FOLDER`. Initialised and fitted as the DWSNets corpus was.
    """
    return Recipe(
        zoo=ZooConfig(
            signals=SignalsConfig(source="folder", size=28),
            inr=InrConfig(hidden=(32, 32)),
            fit=FitConfig(learning_rate=1e-3, max_steps=1500),
        ),
        training=TrainingConfig(encoder=DWSNetConfig(canonical_signs=True), epochs=30),
    )


def dws_mnist() -> Recipe:
    """The MNIST corpus of the DWSNets paper, fitted anew: one INR an image, 55,000 / 5,000 / 10,000, no stop target.

    Needs `--set zoo.signals.path=FOLDER` with MNIST as Parquet in the Hugging Face layout (`zoo.signals.source=idx` takes
    IDX files). Adam 1e-3 for 1,500 steps gives weights that spread as the released ones do.
    """
    return Recipe(
        zoo=ZooConfig(
            signals=SignalsConfig(source="parquet", validation_fraction=1 / 14),
            inr=InrConfig(hidden=(32, 32)),
            fit=FitConfig(learning_rate=1e-3, max_steps=1500),
        ),
        training=TrainingConfig(
            encoder=DWSNetConfig(canonical_signs=True), epochs=30, batch_size=256, weight_decay=5e-2
        ),
    )


def dws_fashion() -> Recipe:
    """The Fashion-MNIST corpus of the DWSNets paper, fitted anew: one INR an image, 55,000 / 5,000 / 10,000.

    Needs `--set zoo.signals.path=FOLDER`, as dws-mnist does. Nobody published this fit. Its spread tells: the step size
    sets how far biases and the last layer travel against the first two weights, the number of steps how far all do.
    """
    return Recipe(
        zoo=ZooConfig(
            signals=SignalsConfig(source="parquet", validation_fraction=1 / 14),
            inr=InrConfig(hidden=(32, 32)),
            fit=FitConfig(learning_rate=5.5e-4, max_steps=10_000),
        ),
        training=dws_mnist().training,
    )


def digits_dilate() -> Recipe:
    """INRs of handwritten digits edited so that they render thicker ones: minutes on two cores."""
    zoo = digits().zoo.model_copy(update={"views": 4})
    return Recipe(
        zoo=zoo,
        training=TrainingConfig(
            task=EditingConfig(operation="dilate"),
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
            task=EditingConfig(operation="dilate"),
            encoder=DWSNetConfig(channels=32, num_layers=4),
            baselines=(),
            epochs=120,
            batch_size=32,
            learning_rate=2e-2,
            warmup_fraction=0.1,
        ),
    )


def waves() -> Recipe:
    """The waves a sin(bx) of the DWSNets paper, one INR each, 1-32-32-1: in which band is the frequency?"""
    return Recipe(
        zoo=ZooConfig(
            signals=SignalsConfig(source="waves", test_fraction=0.1),
            inr=InrConfig(hidden=(32, 32)),
            fit=FitConfig(learning_rate=1e-3, max_steps=1500, target_psnr=40.0),
        ),
        training=TrainingConfig(encoder=DWSNetConfig(canonical_signs=True), epochs=20),
    )


def shapes() -> Recipe:
    """Signed distances to 4,000 solid shapes on a 16x16x16 grid, one INR each, 3-32-32-1: which kind of shape is it?"""
    return Recipe(
        zoo=ZooConfig(
            signals=SignalsConfig(source="distances"),
            inr=InrConfig(hidden=(32, 32)),
            fit=FitConfig(learning_rate=1e-3, max_steps=400, target_psnr=40.0),
            shard_size=1024,
        ),
        training=TrainingConfig(encoder=DWSNetConfig(canonical_signs=True), epochs=30),
    )


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
            task=RegressionConfig(targets=("frequency",)),
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
            task=RegressionConfig(targets=("frequency",)),
            encoder=DWSNetConfig(canonical_signs=True),
            baselines=("mlp", "mlp-augmented", "mlp-aligned", "inr2vec", "transformer"),
            sizes=(10, 20, 50, 100, 200, 500, 1000),
            seeds=5,
            epochs=100,
            batch_size=32,
            learning_rate=1e-3,
        ),
    )


WAVES = ProbeConfig(targets=("amplitude", "frequency"))

ACCURACY = TrainingConfig(
    task=RegressionConfig(targets=("test_accuracy",), inputs=("activation",)),
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


def cifar_binary() -> Recipe:
    """1,000 CNNs that tell two classes of CIFAR-10 apart, drawn for each run: DWSNets' domain adaptation starts from such.

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
    """Domain adaptation without files: CNNs that tell two of scikit-learn's digits apart, adapted to digits that are turned."""
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
            task=AdaptationConfig(corruptions=("rotation",)),
            encoder=DWSNetConfig(channels=16, num_layers=3),
            epochs=50,
            batch_size=32,
            learning_rate=4e-3,
        ),
    )


def cifar_adapt() -> Recipe:
    """Domain adaptation of the DWSNets paper: CNNs that tell two classes of CIFAR-10 apart, adapted to images that are turned,
    flipped, blurred and of other colours.

    Needs `--set zoo.signals.path=FOLDER` with CIFAR-10 as Parquet in the Hugging Face layout. Each network learns from a
    quarter of the images: so trained they are right for about as many corrupted images as the paper's.
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
            task=AdaptationConfig(),
            encoder=DWSNetConfig(channels=16, num_layers=4),
            epochs=50,
            batch_size=32,
            learning_rate=4e-3,
        ),
    )


def digits_pretrain() -> Recipe:
    """Learns from two INRs of each of scikit-learn's digits which belong together, without labels; then probed and fine-tuned.

    At 1, 10 and 100 % of the labels, against the same model from scratch.
    """
    return Recipe(
        zoo=digits().zoo.model_copy(update={"views": 2}),
        training=TrainingConfig(
            task=ContrastiveConfig(positives="views", augmentation=Augmentation(noise=0.05)),
            baselines=(),
            encoder=DWSNetConfig(channels=32, num_layers=4, width=64, canonical_signs=True),
            epochs=18,
            batch_size=256,
            learning_rate=5e-3,
        ),
        probe=ProbeConfig(targets=("label",), finetune=FinetuneConfig(epochs=6)),
    )


def waves_embedding() -> Recipe:
    """Embeds waves a sin(bx) in 16 numbers, without labels: which two INRs, fitted independently, are of one wave?

    Amplitude and frequency are then read from them linearly, as in E4 of the DWSNets paper, on INRs as there. Minutes on two
    cores.
    """
    zoo = dws_waves().zoo
    few = zoo.signals.model_copy(update={"size": 64, "limit": 3000})
    return Recipe(
        zoo=zoo.model_copy(update={"signals": few, "views": 2}),
        training=TrainingConfig(
            task=ContrastiveConfig(positives="views"),
            baselines=(),
            encoder=DWSNetConfig(channels=16, num_layers=4, width=16, canonical_signs=True),
            epochs=34,
            batch_size=256,
            learning_rate=5e-3,
        ),
        probe=WAVES,
    )


def dws_waves() -> Recipe:
    """The self-supervised experiment of the DWSNets paper (E4): 10,000 waves a sin(bx) of a and b from 0 to 10, one INR each.

    8,000 / 1,000 / 1,000, 1-32-32-1, whose outputs are the waves as they are at 2,000 x in [-pi, pi], stopped at a mean squared
    error of 1e-4; 500 epochs on two copies of each with noise of 0.2 and half of the weights 0. Without the weight decay of
    1e-4 that the paper fits with.
    """
    return Recipe(
        zoo=ZooConfig(
            signals=SignalsConfig(source="wide-waves", test_fraction=0.1),
            inr=InrConfig(hidden=(32, 32), output_scale=0.05, coordinate_range=(-pi, pi)),
            fit=FitConfig(learning_rate=1e-3, max_steps=1500, target_psnr=66.0),
        ),
        training=TrainingConfig(
            task=ContrastiveConfig(augmentation=Augmentation(noise=0.2, mask=0.5)),
            baselines=(),
            encoder=DWSNetConfig(channels=16, num_layers=5, num_heads=8, width=16),
            epochs=500,
            batch_size=512,
            learning_rate=5e-3,
            weight_decay=5e-4,
        ),
        probe=WAVES,
    )


def smoke() -> Recipe:
    """Everything once, small: a run of about a minute to see that an installation works. It learns next to nothing."""
    return Recipe(
        zoo=ZooConfig(
            signals=SignalsConfig(source="digits", limit=200),
            views=2,
            inr=InrConfig(hidden=(8, 6)),
            fit=FitConfig(max_steps=60, target_psnr=30.0),
            shard_size=64,
            block_size=32,
        ),
        training=TrainingConfig(
            encoder=DWSNetConfig(channels=8, num_layers=2, width=32),
            epochs=3,
            batch_size=32,
            learning_rate=1e-2,
        ),
    )


RECIPES: dict[str, Callable[[], Recipe]] = {
    recipe.__name__.replace("_", "-"): recipe
    for recipe in (
        digits,
        images,
        dws_mnist,
        dws_fashion,
        digits_dilate,
        mnist_dilate,
        waves,
        shapes,
        sines_frequency,
        dws_sines,
        mlps,
        mnist_cnns,
        cifar_binary,
        digits_adapt,
        cifar_adapt,
        waves_embedding,
        dws_waves,
        digits_pretrain,
        smoke,
    )
}
