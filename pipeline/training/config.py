"""Configuration of training, and of probing and fine-tuning the encoder afterwards."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from pipeline.config import ADDED, LOCATION, Config
from pipeline.encoders import AnyEncoder, DWSNetConfig
from pipeline.errors import nearest
from pipeline.tasks import AnyTask, Classification
from pipeline.training.trackers import TrackerKind
from pipeline.unions import kinds_of, models_in

BASELINES = tuple(kind for family in models_in(AnyEncoder) for kind in kinds_of(family))
"""Kinds of encoder that can be trained as baselines."""


class StartConfig(Config):
    """A run from whose encoder training starts."""

    checkpoint: Annotated[Path | None, LOCATION] = None
    """Folder of the run, or of a model exported from it: training starts from the best checkpoint,
    whose encoder must have the same configuration."""
    sha256: str | None = None
    """Digest of the model in that checkpoint; null: of the one found when training begins."""
    freeze: bool = False
    """Train only the head and leave the encoder as it is."""


class TrainingConfig(Config):
    seed: int = Field(0, ge=0)
    """Decides the initial weights, the order of the batches and the augmentation."""
    task: AnyTask = Classification()
    """The task to learn."""
    encoder: AnyEncoder = DWSNetConfig()
    """The model that reads the weights."""
    baselines: Annotated[tuple[str, ...], LOCATION] = ("mlp",)
    """Kinds of encoder to train for comparison, with as many parameters and the same budget; the
    encoder's own kind is left out."""
    seeds: Annotated[PositiveInt, LOCATION] = 1
    """Number of times that each model is trained, with this seed and the following ones; reports
    show the spread."""
    start: StartConfig | None = None
    """A run to start from; null: random weights."""
    sizes: Annotated[tuple[PositiveInt, ...], LOCATION] = ()
    """Numbers of members: everything is also trained on only this many of the train split, in
    batches of at most as many; reports show the metric at each number."""
    members: PositiveInt | None = None
    """Train on only this many members of the train split, drawn signal by signal; null: on all."""
    passes: PositiveInt = 1
    """Passes over the members in one epoch: if there are few, more steps between two
    validations."""
    epochs: PositiveInt = 10
    """Number of epochs; each ends with a checkpoint."""
    batch_size: PositiveInt = 128
    """Members per optimiser step, over all workers together."""
    learning_rate: PositiveFloat = 4e-3
    """AdamW's peak learning rate: linear warm-up, then a cosine to zero."""
    warmup_fraction: float = Field(0.2, ge=0, lt=1)
    """Fraction of all steps spent on the warm-up."""
    weight_decay: float = Field(5e-3, ge=0)
    """AdamW's decoupled weight decay."""
    gradient_clip: PositiveFloat = 1.0
    """Gradients are scaled down to this norm."""
    precision: Annotated[Literal["float32", "bf16"], ADDED] = "float32"
    """Precision of the model in training; 'bf16' is autocast: weights, optimiser and metrics stay
    float32."""
    ema_decay: Annotated[float, ADDED] = Field(0.0, ge=0, lt=1)
    """Decay per step of an exponential moving average of the weights, which becomes the model that
    is scored and saved; 0: the last weights."""
    compile: Annotated[bool, LOCATION] = False
    """Compile the model for training with torch.compile, on a GPU into CUDA graphs: takes up to a
    minute at the start, then steps take a fraction of the time."""
    max_skipped_steps: Annotated[PositiveInt, LOCATION] = 10
    """A step whose loss or gradient is not finite is skipped; after this many in a row training
    ends."""
    zero_stage: Annotated[Literal[0, 1, 2, 3], LOCATION] = 0
    """DeepSpeed's ZeRO stage: 0 is fastest for networks of this size. A run can resume with
    another."""
    trackers: Annotated[tuple[TrackerKind, ...], LOCATION] = ()
    """Where metrics go besides metrics.jsonl: 'tensorboard' writes to the run folder; 'wandb' and
    'mlflow' are configured by their own environment variables."""
    checkpoint_steps: Annotated[PositiveInt | None, LOCATION] = None
    """Also write a checkpoint every this many steps of an epoch; null: do not."""
    checkpoint_minutes: Annotated[PositiveFloat, LOCATION] = 10.0
    """Also write a checkpoint once the newest is this old."""
    checkpoints: Annotated[str | None, LOCATION] = None
    """Where the checkpoints of a new run go: a folder or a URI; null: the run folder."""
    checkpoints_kept: Annotated[PositiveInt, LOCATION] = 1
    """Number of newest checkpoints to keep, in addition to the best."""

    def identity(self) -> dict[str, Any]:
        """The ZeRO stage was once part of the identity; keeping it there keeps fingerprints."""
        return super().identity() | {"zero_stage": 0}

    @field_validator("zero_stage")
    @classmethod
    def keep_weights_whole(cls, stage: int, info: ValidationInfo) -> int:
        for field in ("ema_decay", "compile"):
            if stage == 3 and info.data.get(field):
                raise PydanticCustomError(
                    "zero_stage",
                    f"should be at most 2 with training.{field}, which needs whole weights",
                )
        return stage

    @field_validator("baselines")
    @classmethod
    def name_encoders(cls, baselines: tuple[str, ...]) -> tuple[str, ...]:
        for kind in baselines:
            if kind not in BASELINES or baselines.count(kind) > 1:
                raise PydanticCustomError(
                    "baselines",
                    f"each should be a different one of {', '.join(BASELINES)}"
                    f"{nearest(kind, BASELINES)}",
                )
        return baselines


class FinetuneConfig(Config):
    task: AnyTask = Classification()
    """The task to learn from labels."""
    epochs: PositiveInt = 10
    """Passes over the train split; with fewer labels, as many steps."""
    learning_rate: PositiveFloat = 2e-3
    """AdamW's peak learning rate; everything else is as in training."""


class ProbeConfig(Config):
    targets: tuple[str, ...] = Field(("label",), min_length=1)
    """Catalog columns that linear models predict from the frozen encoder's vectors."""
    finetune: FinetuneConfig | None = None
    """Fine-tune the encoder, and train the same model from scratch; null: neither."""
