"""Configurations of zoos: how one is built, imported, merged or edited."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, NonNegativeInt, PositiveFloat, PositiveInt

from pipeline.config.base import ADDED, KIND, LOCATION, Config
from pipeline.config.inrs import AnyInrConfig, SirenConfig
from pipeline.config.signals import SignalsConfig
from pipeline.distributions import distribution
from pipeline.unions import BY_KIND

ExchangeFormat = Literal[
    "dwsnets", "unterthiner", "modelzoos", "fit-a-nef", "webdataset", "huggingface"
]
"""Layouts of other projects that zoos are exported to and imported from: `pipeline.exchange`."""


class FitConfig(Config):
    learning_rate: PositiveFloat = 1e-3
    """Adam's learning rate."""
    schedule: Literal["constant", "cosine"] = "constant"
    """'cosine' decays the learning rate to zero over max_steps."""
    max_steps: PositiveInt = 1500
    """A member stops after this many full-grid Adam steps, whatever its PSNR."""
    target_psnr: PositiveFloat | None = None
    """A member stops as soon as it reaches this PSNR in dB; null: never early."""


class ZooConfig(Config):
    kind: Annotated[Literal["inrs"], KIND] = "inrs"
    """A zoo of INRs."""
    seed: int = Field(0, ge=0)
    """Seed of splits and initialisations: a member's own seed derives from (seed, source index,
    view), or from (seed, view) with inr.shared_init."""
    signals: SignalsConfig = SignalsConfig()
    views: PositiveInt = 1
    """Independently initialised INRs of each signal."""
    inr: AnyInrConfig = SirenConfig()
    fit: FitConfig = FitConfig()
    shard_size: PositiveInt = 4096
    """Members per shard; one Ray task fits one shard."""
    block_size: int = Field(256, ge=1, le=256)
    """Members per block, which is one sample of the WebDataset archive."""


class ClassifierConfig(Config):
    kind: Literal["mlp", "cnn"] = "mlp"
    """'mlp': linear layers on all pixels; 'cnn': 3x3 convolutions, global average pool and a linear
    head."""
    hidden: tuple[PositiveInt, ...] = Field((32,), min_length=1)
    """Widths of the MLP's hidden layers, or channels of each of the CNN's convolutions."""
    stride: PositiveInt = 2
    """Stride of every convolution; each pads its input by one pixel."""
    grey: bool = False
    """Convert colour images to grey first."""


class HyperparametersConfig(Config):
    """What each run draws: an item of a list, or a number from 'uniform(a, b)', 'loguniform(a,
    b)'.
    """

    activation: tuple[Literal["relu", "tanh", "sigmoid", "gelu", "sine"], ...] = Field(
        ("relu", "tanh"), min_length=1
    )
    """Activation of all hidden layers."""
    init: tuple[
        Literal["he_normal", "he_uniform", "glorot_normal", "glorot_uniform", "normal"], ...
    ] = Field(("glorot_uniform",), min_length=1)
    """Initialisation of the weights; 'normal' has standard deviation 0.05 in every layer. Biases
    start at zero."""
    init_scale: Annotated[Any, distribution(above=0)] = (1.0,)
    """Multiplies the initial weights."""
    optimizer: tuple[Literal["sgd", "momentum", "adam", "rmsprop"], ...] = Field(
        ("adam",), min_length=1
    )
    """'momentum' is SGD with momentum 0.9; Adam and RMSprop use torch's defaults."""
    learning_rate: Annotated[Any, distribution(above=0)] = (1e-3,)
    """Learning rate, constant over the run."""
    weight_decay: Annotated[Any, distribution(least=0)] = (0.0,)
    """L2 penalty, added to the gradient like weight_decay in torch.optim.SGD."""
    dropout: Annotated[Any, distribution(least=0, below=1)] = (0.0,)
    """Share of hidden units (whole channels in a CNN) dropped for each training image."""
    train_fraction: Annotated[Any, distribution(above=0, most=1)] = (1.0,)
    """Share of the training images that the run sees; an epoch is one pass over these."""
    epochs: tuple[PositiveInt, ...] = Field((10,), min_length=1)
    """Number of epochs."""


class ClassifierZooConfig(Config):
    kind: Annotated[Literal["classifiers"], KIND] = "classifiers"
    """A zoo of classifiers."""
    seed: int = Field(0, ge=0)
    """Seed of the split of the runs, of the split of the images and, with a run's number, of what
    the run draws."""
    signals: SignalsConfig = SignalsConfig()
    num_runs: PositiveInt = 1000
    """Classifiers to train; each checkpoint of a run is a member."""
    validation_runs: float = Field(0.1, ge=0, lt=1)
    """Share of the runs that goes to the zoo's validation split; signals.validation_fraction splits
    the images."""
    test_runs: float = Field(0.2, ge=0, lt=1)
    """Share of the runs that goes to the zoo's test split; signals.test_fraction splits the
    images."""
    classes: Literal["all", "pairs"] = "all"
    """'all': every run learns all classes; 'pairs': each learns two, drawn at random."""
    network: ClassifierConfig = ClassifierConfig()
    hyperparameters: HyperparametersConfig = HyperparametersConfig()
    checkpoints: tuple[NonNegativeInt, ...] = ()
    """Epochs after which a run's weights are kept as a member, 0 for the initial weights; the last
    epoch is always kept."""
    batch_size: PositiveInt = 64
    """Images per optimizer step."""
    evaluation_images: PositiveInt | None = None
    """Losses and accuracies are measured on this many images of each split, spread evenly over it;
    null: on all."""
    shard_size: PositiveInt = 64
    """Runs per shard; one Ray task trains one shard."""
    block_size: int = Field(256, ge=1, le=256)
    """Members per block, which is one sample of the WebDataset archive."""


class ImportConfig(Config):
    """Where a zoo was imported from, and what its format leaves open."""

    kind: Annotated[Literal["imported"], KIND] = "imported"
    """An imported zoo."""
    format: ExchangeFormat
    """The layout it was in."""
    path: Annotated[Path, LOCATION]
    """The folder, or the file that lists the splits."""
    splits: Literal["source", "drawn"] = "source"
    """'source': the source's own splits, or drawn if it has none; 'drawn': always drawn, run by
    run."""
    seed: int = Field(0, ge=0)
    """Seed of drawn splits."""
    validation_fraction: float = Field(0.1, ge=0, lt=1)
    """Share of the runs that goes to the validation split, if it is drawn."""
    test_fraction: float = Field(0.2, ge=0, lt=1)
    """Share of the runs that goes to the test split, if it is drawn."""
    activation: str | None = None
    """Activation of all hidden layers; null: as the source says, if it does."""
    omega: PositiveFloat | tuple[PositiveFloat, ...] | None = None
    """SIREN's omega_0, or one per hidden layer; null: as the source says, if it does."""
    sigma: Annotated[PositiveFloat | None, ADDED] = None
    """Width of Gaussians and wavelets; null: as the source says, if it does."""
    output_offset: float | None = None
    """Added to the output of the last layer; null: as the source says, if it does."""
    shard_size: PositiveInt = 4096
    """Members per shard."""
    block_size: int = Field(256, ge=1, le=256)
    """Members per block, which is one sample of the WebDataset archive."""


class MergeConfig(Config):
    """The zoos that were merged."""

    kind: Annotated[Literal["merged"], KIND] = "merged"
    """A merged zoo."""
    zoos: tuple[tuple[str, str], ...]
    """Fingerprint of each, in order, with the sha256 of its statistics.json, which covers all its
    bytes."""
    paths: Annotated[tuple[str, ...], LOCATION]
    """Where each was."""


class EditConfig(Config):
    """The zoo that was edited, and the model that edited it."""

    kind: Annotated[Literal["edited"], KIND] = "edited"
    """An edited zoo."""
    zoo: tuple[str, str]
    """Fingerprint of the original zoo, with the sha256 of its statistics.json, which covers all its
    bytes."""
    model: str
    """sha256 of the model's weights and of what it is built from."""
    paths: Annotated[tuple[str, str], LOCATION]
    """Where the zoo was, and the run that trained the model."""


OWN_FIELDS = {"network": "classifiers", "format": "imported", "zoos": "merged"}
"""Fields that gave the kind away when configurations did not name it."""


def name_kind(content: Any) -> Any:
    """Add the kind to a configuration written before zoos named theirs."""
    if not isinstance(content, dict) or "kind" in content:
        return content
    kinds = [kind for field, kind in OWN_FIELDS.items() if field in content]
    return content | {"kind": kinds[0] if kinds else "inrs"}


AnyZooConfig = Annotated[ZooConfig | ClassifierZooConfig, BY_KIND, BeforeValidator(name_kind)]
"""How a zoo is built, chosen by `kind`: `pipeline.zoos` has a file for each."""
AnyOrigin = Annotated[
    ZooConfig | ClassifierZooConfig | ImportConfig | MergeConfig | EditConfig,
    BY_KIND,
    BeforeValidator(name_kind),
]
"""How a zoo was made: built, imported, merged or edited."""
