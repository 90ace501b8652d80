"""What can be learned, as configuration: `AnyTask` is what a recipe chooses from, by `kind`.

Each class has the fields of the task that is made of it, which is in the file of its kind. Those load torch, this does not.
"""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator
from pydantic_core import PydanticCustomError

from pipeline.config import Operation
from pipeline.functions import Own
from pipeline.tasks.augmentation import Augmentation
from pipeline.tasks.task import TaskConfig
from pipeline.unions import BY_KIND

LABEL = "label"
"""The column whose numbers index the class names of the signals; in any other the values are the classes."""
Corruption = Literal["rotation", "inversion", "noise", "blur", "jitter", "flips"]
"""What can be done to images: `pipeline.tasks.corruption`."""


class ClassificationConfig(TaskConfig):
    kind: Literal["classification"] = "classification"
    """The class of the signal."""
    column: str = LABEL
    """Column of the catalog that has the classes: the label of the signal, or texts, whole numbers or truth values."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout in the head."""
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """Share of the target that is spread evenly over all classes."""
    augmentation: Augmentation = Augmentation()
    """What is done to the networks in training."""
    mixup: NonNegativeFloat = 0.0
    """Train on networks between each and another one, aligned to it by weight matching, whose share is drawn from
    Beta(mixup, mixup); 0: on the networks themselves. Matching takes about a millisecond a network."""


class AdaptationConfig(TaskConfig):
    kind: Literal["adaptation"] = "adaptation"
    """Networks that classify corrupted images, made of those that classify clean ones."""
    corruptions: tuple[Corruption, ...] = Field(
        ("rotation", "jitter", "blur", "flips"), min_length=1
    )
    """What images of the target domain have gone through, in order."""
    images: PositiveInt = 32
    """Train images, of its own classes, that each network's loss is taken on in a step."""
    evaluation_images: PositiveInt = 128
    """Images of a split that each of its networks is scored on, at most; as many of each class."""
    unseen_pairs: float = Field(0.1, ge=0, lt=1)
    """Share of all pairs of classes whose networks nothing is learned from; the test split scores them apart."""
    seed: int = Field(0, ge=0)
    """Decides which pairs are unseen and how each image is corrupted for each network where they are scored."""
    finetuning_steps: tuple[PositiveInt, ...] = (10, 100)
    """Steps of Adam on each network by itself, with as many images each, which the test split is compared with."""
    finetuning_rate: PositiveFloat = 3e-3
    """Their learning rate."""


class EditingConfig(TaskConfig):
    kind: Literal["editing"] = "editing"
    """INRs are edited: v - s dv, with a learned scale s of each tensor."""
    operation: Operation = "dilate"
    """What makes the target, of the original signal and never of a rendering; 'identity' where
    zoo.signals.operation is what is to be undone."""
    expansion: PositiveInt = 1
    """Hidden layers of the edited networks are so many times as wide; with more than 1 they are larger
    than those that came in, and scores are not comparable with those of 1."""
    augmentation: Augmentation = Augmentation(signs=True)
    """What is done to networks in training, anew each epoch. Nothing that moves signals: targets stay."""


class RegressionConfig(TaskConfig):
    kind: Literal["regression"] = "regression"
    """Numbers that the catalog has."""
    targets: tuple[str, ...] = Field(("test_accuracy",), min_length=1)
    """Columns of the catalog to predict. A member whose target is null is left out of losses and metrics."""
    inputs: tuple[str, ...] = ()
    """Columns of the catalog that the model is given beside the weights, such as the activation: texts one-hot, numbers
    standardised."""
    objective: Literal["mse", "bce"] = "mse"
    """'mse': squared error of targets standardised over the train split; 'bce': cross-entropy of a sigmoid, for shares."""

    @model_validator(mode="after")
    def names_each_column_once(self) -> "RegressionConfig":
        columns = self.targets + self.inputs
        for name in columns:
            if columns.count(name) > 1:
                raise PydanticCustomError(
                    "columns", f"targets and inputs should name each column once, {name!r} is twice"
                )
        return self


class ContrastiveConfig(TaskConfig):
    kind: Literal["contrastive"] = "contrastive"
    """Tell which two networks of a batch belong together, by NT-Xent on projections of their vectors."""
    positives: Literal["augmented", "views"] = "augmented"
    """'augmented': two augmented copies of a network; 'views': two INRs of one signal that were fitted independently, each
    augmented."""
    temperature: PositiveFloat = 0.1
    """Cosines of projections are divided by it."""
    augmentation: Augmentation = Augmentation()
    """What is done to the copies."""


class ReconstructionConfig(TaskConfig):
    kind: Literal["reconstruction"] = "reconstruction"
    """Render what a network renders from its vector alone, through a decoder that all networks share. The signals are not
    needed: what is reconstructed is the rendering of the network itself."""
    points: PositiveInt = 256
    """Points that are rendered, about so many, on a regular grid over the coordinates."""
    decoder_width: PositiveInt = 64
    """Width of the decoder's hidden layers."""
    decoder_layers: PositiveInt = 3
    """Hidden layers of the decoder."""


class MaskedConfig(TaskConfig):
    kind: Literal["masked"] = "masked"
    """Predict entries that are hidden, standardised tensor by tensor, from those that are seen. Entries are hidden one by one
    and not by neurons: which values a whole neuron had, nothing that is seen can tell."""
    share: float = Field(0.3, gt=0, lt=1)
    """Share of the entries that is hidden, anew for each network and epoch."""


AnyTask = Annotated[
    ClassificationConfig
    | AdaptationConfig
    | EditingConfig
    | RegressionConfig
    | ContrastiveConfig
    | ReconstructionConfig
    | MaskedConfig
    | Own,
    BY_KIND,
]
