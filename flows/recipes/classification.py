"""Which class was the signal of? Recipes for zoos of INRs, and one that tries everything once."""

from flows.recipe import Recipe
from pipeline.config import FitConfig, InrConfig, SignalsConfig, ZooConfig
from pipeline.encoders import DWSNetConfig
from pipeline.training.config import TrainingConfig


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
