"""What a zoo is built by, and how else one is made."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
)
from pydantic_core import PydanticCustomError

from pipeline.config.base import ADDED, KIND, LOCATION, Config
from pipeline.config.signals import SignalsConfig
from pipeline.distributions import distribution
from pipeline.unions import BY_KIND

ExchangeFormat = Literal["dwsnets", "unterthiner", "modelzoos", "fit-a-nef", "webdataset"]
"""Layouts of other projects that zoos are written in and read from: `pipeline.exchange`."""


class InrConfig(Config):
    hidden: tuple[PositiveInt, ...] = Field((32, 32), min_length=1)
    """Widths of the hidden layers."""
    omega: PositiveFloat = 30.0
    """SIREN's omega_0: a hidden layer computes sin(omega (W h + b))."""
    init: Literal["dws", "siren"] = "dws"
    """'dws': the initialisation of the DWSNets corpus, which is easier to learn from; 'siren': Sitzmann et al. 2020."""
    shared_init: bool = False
    """All INRs of a view begin at the same weights, so that their neurons correspond; else each begins at its own."""
    output_offset: float = 0.5
    """Added to the output of the last layer."""
    output_scale: Annotated[PositiveFloat | None, ADDED] = None
    """Multiplies the output of the last layer before the offset is added; null: nothing does. With
    0.05 the layer returns -10 to 10 for signals from 0 to 1, and weights tell how large these are."""
    coordinate_range: Annotated[tuple[float, float], ADDED] = (-1.0, 1.0)
    """First and last coordinate of each axis of the grid."""

    @field_validator("coordinate_range")
    @classmethod
    def rises(cls, bounds: tuple[float, float]) -> tuple[float, float]:
        if bounds[0] < bounds[1]:
            return bounds
        raise PydanticCustomError("range", "the first should be below the last")


class FitConfig(Config):
    learning_rate: PositiveFloat = 1e-3
    """Adam's learning rate."""
    schedule: Literal["constant", "cosine"] = "constant"
    """'cosine' lets the learning rate fall to zero over max_steps."""
    max_steps: PositiveInt = 1500
    """A member stops after so many full-grid Adam steps, whatever its PSNR."""
    target_psnr: PositiveFloat | None = None
    """A member stops as soon as it reaches this PSNR in dB; never early where it is null."""


class ZooConfig(Config):
    kind: Annotated[Literal["inrs"], KIND] = "inrs"
    """A zoo of INRs."""
    seed: int = Field(0, ge=0)
    """Decides splits and initialisations: a member's seed derives from (seed, source index, view), or with
    inr.shared_init from (seed, view)."""
    signals: SignalsConfig = SignalsConfig()
    views: PositiveInt = 1
    """Independently initialised INRs of each signal."""
    inr: InrConfig = InrConfig()
    fit: FitConfig = FitConfig()
    shard_size: PositiveInt = 4096
    """Members in a shard: one Ray task fits one shard."""
    block_size: int = Field(256, ge=1, le=256)
    """Members in a block: one sample of the WebDataset archive."""


class ClassifierConfig(Config):
    kind: Literal["mlp", "cnn"] = "mlp"
    """'mlp': linear layers on all pixels; 'cnn': 3x3 convolutions, global average pool and a linear head."""
    hidden: tuple[PositiveInt, ...] = Field((32,), min_length=1)
    """Widths of the MLP's hidden layers, or channels of each of the CNN's convolutions."""
    stride: PositiveInt = 2
    """Stride of every convolution; each pads its input by one pixel."""
    grey: bool = False
    """Turn colour images grey before anything else."""


class HyperparametersConfig(Config):
    """What each run draws for itself: one of a list, evenly, or a number from 'uniform(a, b)' or 'loguniform(a, b)'."""

    activation: tuple[Literal["relu", "tanh", "sigmoid", "gelu", "sine"], ...] = Field(
        ("relu", "tanh"), min_length=1
    )
    """Of all hidden layers."""
    init: tuple[
        Literal["he_normal", "he_uniform", "glorot_normal", "glorot_uniform", "normal"], ...
    ] = Field(("glorot_uniform",), min_length=1)
    """Scheme of the initial weights; 'normal' has standard deviation 0.05 in every layer. Biases begin at zero."""
    init_scale: Annotated[Any, distribution(above=0)] = (1.0,)
    """Multiplies what the scheme gives."""
    optimizer: tuple[Literal["sgd", "momentum", "adam", "rmsprop"], ...] = Field(
        ("adam",), min_length=1
    )
    """'momentum' is SGD with momentum 0.9; Adam and RMSprop have torch's defaults."""
    learning_rate: Annotated[Any, distribution(above=0)] = (1e-3,)
    """Constant over the run."""
    weight_decay: Annotated[Any, distribution(least=0)] = (0.0,)
    """Added to the gradient as so many times the parameters, as torch.optim's weight_decay."""
    dropout: Annotated[Any, distribution(least=0, below=1)] = (0.0,)
    """Share of hidden units, of a CNN whole channels, that each training image does without."""
    train_fraction: Annotated[Any, distribution(above=0, most=1)] = (1.0,)
    """Share of the training images that the run sees; an epoch is a pass over those."""
    epochs: tuple[PositiveInt, ...] = Field((10,), min_length=1)
    """Epochs of the run."""


class ClassifierZooConfig(Config):
    kind: Annotated[Literal["classifiers"], KIND] = "classifiers"
    """A zoo of classifiers."""
    seed: int = Field(0, ge=0)
    """Decides all: the split of the runs, the split of the images, and with its number what each run draws."""
    signals: SignalsConfig = SignalsConfig()
    num_runs: PositiveInt = 1000
    """Classifiers that are trained; each checkpoint of a run is a member."""
    validation_runs: float = Field(0.1, ge=0, lt=1)
    """Share of the runs that goes to the zoo's validation split; signals.validation_fraction is of the images."""
    test_runs: float = Field(0.2, ge=0, lt=1)
    """Share of the runs that goes to the zoo's test split; signals.test_fraction is of the images."""
    classes: Literal["all", "pairs"] = "all"
    """'all': every run learns all classes; 'pairs': each learns two, which it draws."""
    network: ClassifierConfig = ClassifierConfig()
    hyperparameters: HyperparametersConfig = HyperparametersConfig()
    checkpoints: tuple[NonNegativeInt, ...] = ()
    """Epochs after which a run's weights are kept as a member, 0 the initial ones; its last epoch always is one."""
    batch_size: PositiveInt = 64
    """Images in one optimiser step."""
    evaluation_images: PositiveInt | None = None
    """Losses and accuracies are taken on so many images of each split, evenly over it; on all where it is null."""
    shard_size: PositiveInt = 64
    """Runs in a shard: one Ray task trains one shard."""
    block_size: int = Field(256, ge=1, le=256)
    """Members in a block: one sample of the WebDataset archive."""


class ImportConfig(Config):
    """Where a zoo was imported from, and what its format does not say."""

    kind: Annotated[Literal["imported"], KIND] = "imported"
    """A zoo that was imported."""
    format: ExchangeFormat
    """Whose layout."""
    path: Annotated[Path, LOCATION]
    """The folder, or the file with the splits."""
    splits: Literal["source", "drawn"] = "source"
    """The source's own splits, drawn where it has none; or drawn anew, run by run."""
    seed: int = Field(0, ge=0)
    """Decides splits that are drawn."""
    validation_fraction: float = Field(0.1, ge=0, lt=1)
    """Share of the runs that goes to the validation split, where it is drawn."""
    test_fraction: float = Field(0.2, ge=0, lt=1)
    """Share of the runs that goes to the test split, where it is drawn."""
    activation: str | None = None
    """Activation of all hidden layers; null: what the source says, if anything."""
    omega: PositiveFloat | tuple[PositiveFloat, ...] | None = None
    """SIREN's omega_0, or one for each hidden layer; null: what the source says, if anything."""
    output_offset: float | None = None
    """Added to the output of the last layer; null: what the source says, if anything."""
    shard_size: PositiveInt = 4096
    """Members in a shard."""
    block_size: int = Field(256, ge=1, le=256)
    """Members in a block: one sample of the WebDataset archive."""


class MergeConfig(Config):
    """Which zoos were joined."""

    kind: Annotated[Literal["merged"], KIND] = "merged"
    """A zoo that was merged."""
    zoos: tuple[tuple[str, str], ...]
    """Fingerprint of each, in order, and sha256 of its statistics.json, which accounts for all its bytes."""
    paths: Annotated[tuple[str, ...], LOCATION]
    """Where each lay."""


class EditConfig(Config):
    """Which zoo was edited, and by which model."""

    kind: Annotated[Literal["edited"], KIND] = "edited"
    """A zoo whose members were edited."""
    zoo: tuple[str, str]
    """Its fingerprint, and sha256 of its statistics.json, which accounts for all its bytes."""
    model: str
    """sha256 of the model's weights and of what it is built by."""
    paths: Annotated[tuple[str, str], LOCATION]
    """Where the zoo lay, and the run that trained the model."""


OWN_FIELDS = {"network": "classifiers", "format": "imported", "zoos": "merged"}
"""Fields that only configurations of one kind of zoo had, when none named its kind."""


def name_kind(content: Any) -> Any:
    """A configuration that was written before those of zoos named their kind, with its kind."""
    if not isinstance(content, dict) or "kind" in content:
        return content
    kinds = [kind for field, kind in OWN_FIELDS.items() if field in content]
    return content | {"kind": kinds[0] if kinds else "inrs"}


AnyZooConfig = Annotated[ZooConfig | ClassifierZooConfig, BY_KIND, BeforeValidator(name_kind)]
"""What a zoo is built by, chosen by its `kind`: `pipeline.zoos` has a file for each."""
AnyOrigin = Annotated[
    ZooConfig | ClassifierZooConfig | ImportConfig | MergeConfig | EditConfig,
    BY_KIND,
    BeforeValidator(name_kind),
]
"""What a zoo was made by, in whatever way."""
