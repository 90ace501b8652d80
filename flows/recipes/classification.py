"""Classification of INRs by their signal's class, and a smoke test of everything."""

from flows.recipe import Recipe
from pipeline.config import FitConfig, SignalsConfig, SirenConfig, ZooConfig
from pipeline.encoders import DWSNetConfig
from pipeline.training.config import TrainingConfig


def digits() -> Recipe:
    """The demo: classify INRs of scikit-learn's 1,797 digits, eight each. Minutes on two cores."""
    return Recipe(
        zoo=ZooConfig(
            signals=SignalsConfig(source="digits"),
            views=8,
            inr=SirenConfig(hidden=(16, 16)),
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
    """Your own images, resized to 28x28: one INR per image, with a subfolder per class or none.

    Needs `--set zoo.signals.path=FOLDER`. INRs are initialised and fitted as in the DWSNets corpus.
    """
    return Recipe(
        zoo=ZooConfig(
            signals=SignalsConfig(source="folder", size=28),
            inr=SirenConfig(hidden=(32, 32)),
            fit=FitConfig(learning_rate=1e-3, max_steps=1500),
        ),
        training=TrainingConfig(encoder=DWSNetConfig(canonical_signs=True), epochs=30),
    )


def dws_mnist() -> Recipe:
    """The DWSNets paper's MNIST corpus, refitted: one INR per image, 55,000 / 5,000 / 10,000.

    Needs `--set zoo.signals.path=FOLDER` with MNIST as Parquet in the Hugging Face layout
    (`zoo.signals.source=idx` takes IDX files). No early stopping: Adam at 1e-3 for 1,500 steps
    gives weights with the same spread as the released ones.
    """
    return Recipe(
        zoo=ZooConfig(
            signals=SignalsConfig(source="parquet", validation_fraction=1 / 14),
            inr=SirenConfig(hidden=(32, 32)),
            fit=FitConfig(learning_rate=1e-3, max_steps=1500),
        ),
        training=TrainingConfig(
            encoder=DWSNetConfig(canonical_signs=True), epochs=30, batch_size=256, weight_decay=5e-2
        ),
    )


def dws_fashion() -> Recipe:
    """The DWSNets paper's Fashion-MNIST corpus, refitted: one INR each, 55,000 / 5,000 / 10,000.

    Needs `--set zoo.signals.path=FOLDER`, like dws-mnist. The original fit is unpublished; these
    settings are inferred from the spread of the released weights: the learning rate sets how far
    biases and the last layer move relative to the first two weights, the number of steps how far
    all of them move.
    """
    return Recipe(
        zoo=ZooConfig(
            signals=SignalsConfig(source="parquet", validation_fraction=1 / 14),
            inr=SirenConfig(hidden=(32, 32)),
            fit=FitConfig(learning_rate=5.5e-4, max_steps=10_000),
        ),
        training=dws_mnist().training,
    )


def waves() -> Recipe:
    """The DWSNets paper's waves a sin(bx), one 1-32-32-1 INR each: classify the frequency band."""
    return Recipe(
        zoo=ZooConfig(
            signals=SignalsConfig(source="waves", test_fraction=0.1),
            inr=SirenConfig(hidden=(32, 32)),
            fit=FitConfig(learning_rate=1e-3, max_steps=1500, target_psnr=40.0),
        ),
        training=TrainingConfig(encoder=DWSNetConfig(canonical_signs=True), epochs=20),
    )


def shapes() -> Recipe:
    """Signed distances to 4,000 solids, 16x16x16, one 3-32-32-1 INR each: classify the shapes."""
    return Recipe(
        zoo=ZooConfig(
            signals=SignalsConfig(source="distances"),
            inr=SirenConfig(hidden=(32, 32)),
            fit=FitConfig(learning_rate=1e-3, max_steps=400, target_psnr=40.0),
            shard_size=1024,
        ),
        training=TrainingConfig(encoder=DWSNetConfig(canonical_signs=True), epochs=30),
    )


def smoke() -> Recipe:
    """Everything once, small: checks an installation in about a minute. Learns next to nothing."""
    return Recipe(
        zoo=ZooConfig(
            signals=SignalsConfig(source="digits", limit=200),
            views=2,
            inr=SirenConfig(hidden=(8, 6)),
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
