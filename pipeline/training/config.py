"""What training is made of, and what is tried on the encoder afterwards."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt, field_validator
from pydantic_core import PydanticCustomError

from pipeline.config import ADDED, LOCATION, Config
from pipeline.encoders import AnyEncoder, DWSNetConfig
from pipeline.errors import nearest
from pipeline.tasks import AnyTask, Classification
from pipeline.training.trackers import TrackerKind
from pipeline.unions import kinds_of, models_in

BASELINES = tuple(kind for family in models_in(AnyEncoder) for kind in kinds_of(family))
"""Kinds of encoder that can be trained beside another."""


class StartConfig(Config):
    """A run whose encoder training begins from."""

    checkpoint: Annotated[Path | None, LOCATION] = None
    """Folder of the run: its best checkpoint is taken, whose encoder must be configured alike."""
    sha256: str | None = None
    """Of the model in that checkpoint; null: of the one that is there when training begins."""
    freeze: bool = False
    """Train the head alone and leave the encoder as it is."""


class TrainingConfig(Config):
    seed: int = Field(0, ge=0)
    """Decides the initial weights, the order of the batches and the augmentation."""
    task: AnyTask = Classification()
    """What is learned."""
    encoder: AnyEncoder = DWSNetConfig()
    """What reads the weights."""
    baselines: Annotated[tuple[str, ...], LOCATION] = ("mlp",)
    """Kinds of encoder that are trained beside it at the same budget, each as large as it."""
    seeds: Annotated[PositiveInt, LOCATION] = 1
    """So many times is each trained, with this seed and those after it; reports show the spread."""
    start: StartConfig | None = None
    """A run to begin from; null: from random weights."""
    sizes: Annotated[tuple[PositiveInt, ...], LOCATION] = ()
    """Numbers of members: everything is also trained on so many of the train split alone, in batches of no more; reports show
    what each number gives."""
    members: PositiveInt | None = None
    """Train on so many members of the train split alone, drawn signal by signal; null: on all."""
    passes: PositiveInt = 1
    """Times that an epoch goes over its members: with few of them, more steps between two looks at the validation split."""
    epochs: PositiveInt = 10
    """Epochs, each with a checkpoint at its end."""
    batch_size: PositiveInt = 128
    """Members in one optimiser step, over all workers together."""
    learning_rate: PositiveFloat = 4e-3
    """AdamW's peak learning rate: linear warm-up, then a cosine to zero."""
    warmup_fraction: float = Field(0.2, ge=0, lt=1)
    """Share of all steps spent on the warm-up."""
    weight_decay: float = Field(5e-3, ge=0)
    """AdamW's decoupled weight decay."""
    gradient_clip: PositiveFloat = 1.0
    """Gradients are scaled down to this norm."""
    precision: Annotated[Literal["float32", "bf16"], ADDED] = "float32"
    """What the model computes in while it trains; 'bf16' is autocast: weights, optimiser and metrics stay float32."""
    max_skipped_steps: Annotated[PositiveInt, LOCATION] = 10
    """A step whose loss or gradient is not finite is skipped; after so many in a row training ends."""
    zero_stage: Annotated[Literal[0, 1, 2, 3], LOCATION] = 0
    """DeepSpeed's ZeRO stage: 0 is fastest for networks of this size. A run may go on with another."""
    trackers: Annotated[tuple[TrackerKind, ...], LOCATION] = ()
    """Where metrics go beside metrics.jsonl: 'tensorboard' writes into the run folder; 'wandb' and 'mlflow' are told by
    their own variables where to."""
    checkpoint_steps: Annotated[PositiveInt | None, LOCATION] = None
    """A checkpoint also after so many steps within an epoch."""
    checkpoint_minutes: Annotated[PositiveFloat, LOCATION] = 10.0
    """A checkpoint also when the newest is so old."""
    checkpoints: Annotated[str | None, LOCATION] = None
    """Where the checkpoints of a new run go: a folder or a URI; null: into the folder of the run."""
    checkpoints_kept: Annotated[PositiveInt, LOCATION] = 1
    """So many of the newest checkpoints are kept, and the best."""

    def identity(self) -> dict[str, Any]:
        """As it was while the ZeRO stage was part of it: fingerprints stay."""
        return super().identity() | {"zero_stage": 0}

    @field_validator("baselines")
    @classmethod
    def name_encoders(cls, baselines: tuple[str, ...]) -> tuple[str, ...]:
        for kind in baselines:
            if kind not in BASELINES or baselines.count(kind) > 1:
                raise PydanticCustomError(
                    "baselines",
                    f"each should be another one of {', '.join(BASELINES)}{nearest(kind, BASELINES)}",
                )
        return baselines


class FinetuneConfig(Config):
    task: AnyTask = Classification()
    """What is learned from labels."""
    epochs: PositiveInt = 10
    """Passes over the train split, or as many steps where fewer labels are known."""
    learning_rate: PositiveFloat = 2e-3
    """AdamW's peak learning rate; all else is as in training."""


class ProbeConfig(Config):
    targets: tuple[str, ...] = Field(("label",), min_length=1)
    """Columns of the catalog that linear models read from the frozen encoder's vectors."""
    finetune: FinetuneConfig | None = None
    """Train on from the encoder, and the same from scratch; null: neither."""
