"""What a run is made of, as frozen models whose every field is documented.

Two kinds of fields: identity decides the bytes that come out and is fingerprinted; location (where and on how much
hardware it runs) is not.
"""

import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from pipeline.distributions import LARGEST, distribution
from pipeline.unions import BY_KIND

LOCATION = "location"
"""Marks a field that never decides what comes out: where something runs or lies, or when it gives up."""
ADDED = "added"
"""Marks a field that is not fingerprinted at its default: configurations from before there was such
a field keep their fingerprints."""
KIND = "kind"
"""Marks a field that says which kind of configuration this is where the other fields say so too: not fingerprinted."""


ExchangeFormat = Literal["dwsnets", "unterthiner", "modelzoos", "fit-a-nef", "webdataset"]
"""Layouts of other projects that zoos are written in and read from: `pipeline.exchange`."""


class Frozen(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )


class Config(Frozen):
    @field_validator("*")
    @classmethod
    def leaves_room_in_float32(cls, value: Any) -> Any:
        numbers = value if isinstance(value, tuple) else (value,)
        if any(isinstance(number, float) and abs(number) > LARGEST for number in numbers):
            raise PydanticCustomError("float32", f"input should be at most {LARGEST:g}")
        return value

    def identity(self) -> dict[str, Any]:
        """The fields that decide the bytes, nested as the configuration is."""
        fields = {}
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            is_new = ADDED in field.metadata and value == field.default
            if not is_new and LOCATION not in field.metadata and KIND not in field.metadata:
                fields[name] = value.identity() if isinstance(value, Config) else value
        return fields

    def fingerprint(self) -> str:
        """Eight hexadecimal digits that differ where `identity` does."""
        return fingerprint(self.identity())


def fingerprint(identity: Any) -> str:
    """Eight hexadecimal digits of the sha256 of canonical JSON; raises TypeError on what has no JSON form."""
    canonical = json.dumps(identity, sort_keys=True, allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:8]


def differences(old: Any, new: Any, prefix: str = "") -> list[str]:
    """The fields that differ between two nested identities: `fit.max_steps: was 200, is 300`.

    Of groups of two kinds only `kind` and the fields that both have.
    """
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [*old, *(key for key in new if key not in old)]
        if "kind" in old and "kind" in new and old["kind"] != new["kind"]:
            keys = [key for key in old if key in new]
        return [
            line
            for key in keys
            for line in differences(old.get(key), new.get(key), f"{prefix}.{key}".lstrip("."))
        ]
    if json.dumps(old) == json.dumps(new):
        return []
    return [f"{prefix}: was {json.dumps(old)}, is {json.dumps(new)}"]


SOURCES = (
    "digits",
    "folder",
    "parquet",
    "idx",
    "npz",
    "sines",
    "waves",
    "wide-waves",
    "distances",
    "occupancy",
)
Operation = Literal[
    "identity", "dilate", "erode", "gradient", "blur", "contrast", "rotate", "mask", "coarsen"
]
"""What can be done to signals: `pipeline.signals.operations`."""
FUNCTION = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


class SignalsConfig(Config):
    source: str = "digits"
    """'digits': scikit-learn's, 8x8; 'folder': images, in one subfolder a class or in none; 'parquet': a Parquet file, or a
    folder of them in the Hugging Face layout; 'idx': a folder of IDX files; 'npz': an NPZ file; 'sines', 'waves',
    'wide-waves': 10,000 waves sin(bx), or a sin(bx) of a and b from 1 to 10 or from 0 on, whose
    class is a band of frequencies, with frequency and amplitude as facts; 'distances', 'occupancy':
    signed distances to, or occupancy of, 4,000 solid shapes, whose
    class is the kind of shape, with scale and centre as facts. Or a function of yours as
    package.module:function: it takes `size` and returns values (signals, *grid, channels) in [0, 1]
    with their labels (signals,), or None for those, and perhaps a dict of facts: numbers (signals,),
    by name."""
    path: Annotated[Path | None, LOCATION] = None
    """Where the source lies: for images from files."""
    image_column: Annotated[str | None, LOCATION] = None
    """Column of Parquet files with the images; null: 'image', 'img' or the only one that can be."""
    label_column: Annotated[str | None, LOCATION] = None
    """Column of Parquet files with the classes, '' for none; null: 'label', or the only one that is called or described as
    one."""
    fact_columns: Annotated[tuple[str, ...], LOCATION] = ()
    """Numeric columns of Parquet files that become facts of the signals: columns of the catalog, as
    frequency and amplitude of waves are."""
    size: PositiveInt | None = None
    """Points along each side of the grid. Encoded images are resized; null keeps them, then all must be of one size; null
    is 2,000 points for waves and 16 for shapes."""
    limit: PositiveInt | None = None
    """Use only so many signals, evenly over the source; all of them where it is null."""
    max_unreadable: Annotated[float, LOCATION] = Field(0.5, ge=0, le=1)
    """Share of the signals, and of the files of tables, that may be unreadable: those fail one by one; where more cannot be
    read, nothing is fitted."""
    operation: Annotated[Operation, ADDED] = "identity"
    """What is done to each signal before it is fitted: nothing; 'dilate', 'erode' and 'gradient' are
    morphology over 3x3, 2x2 and 2x2 points; 'blur', 'contrast', 'rotate'; 'mask' hides a box of half of
    each side; 'coarsen' leaves half the resolution. An editor can be trained to undo it."""
    validation_fraction: float = Field(0.1, ge=0, lt=1)
    """Share of each class that goes to the validation split, before any fit; where the source has a validation split, that one
    is taken instead."""
    test_fraction: float = Field(0.2, ge=0, lt=1)
    """Share of each class that goes to the test split; where the source has a test split, that one is taken instead."""

    @property
    def is_function(self) -> bool:
        """Whether signals are made by code of the user's: never called because an archive names it."""
        return ":" in self.source

    @property
    def module(self) -> str | None:
        """The module of that function; None where there is none."""
        return self.source.partition(":")[0] if self.is_function else None

    @field_validator("source")
    @classmethod
    def name_a_source_or_a_function(cls, source: str) -> str:
        if source in SOURCES or FUNCTION.fullmatch(source):
            return source
        raise PydanticCustomError(
            "source", f"input should be one of {', '.join(SOURCES)} or package.module:function"
        )


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


class ResourcesConfig(Config):
    workers: PositiveInt = 2
    """Processes that fit, and processes that train; 1:8 trains with as few as 1."""
    min_workers: PositiveInt | None = None
    """Training begins with so few, goes on with them when others end, and grows when there is room; null: with all."""
    gpus_per_worker: float = Field(0.0, ge=0)
    """GPUs of each worker; 0 fits and trains on CPUs. Workers that only fit may share one: 0.25."""

    @property
    def fewest(self) -> int:
        """Workers that training needs at least."""
        return self.min_workers or self.workers

    @model_validator(mode="before")
    @classmethod
    def read_range(cls, fields: Any) -> Any:
        """`workers` may be a range."""
        workers = fields.get("workers") if isinstance(fields, dict) else None
        if isinstance(workers, str) and (found := re.fullmatch(r"(\d+):(\d+)", workers)):
            return fields | {"min_workers": int(found[1]), "workers": int(found[2])}
        return fields

    @model_validator(mode="after")
    def begin_with_no_more_than_all(self) -> "ResourcesConfig":
        if self.fewest > self.workers:
            raise PydanticCustomError(
                "workers", f"min_workers should be at most workers, {self.workers}"
            )
        return self


def describe(config: Config, prefix: str = "") -> Iterable[tuple[str, Any, str]]:
    """(dotted name, value, meaning) of every field."""
    for name, field in type(config).model_fields.items():
        value = getattr(config, name)
        if isinstance(value, Config):
            yield from describe(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value, " ".join((field.description or "").split())
