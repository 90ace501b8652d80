"""Tasks, one file each; a recipe chooses from `AnyTask` by `kind`."""

from typing import Annotated

from pipeline.functions import Own
from pipeline.tasks.adaptation import Adaptation
from pipeline.tasks.classification import Classification
from pipeline.tasks.contrastive import Contrastive
from pipeline.tasks.editing import Editing
from pipeline.tasks.masked import Masked
from pipeline.tasks.reconstruction import Reconstruction
from pipeline.tasks.regression import Regression
from pipeline.tasks.task import Batch, Evaluation, Figure, Monitor, Table, Task, TaskConfig
from pipeline.unions import BY_KIND

AnyTask = Annotated[
    Classification
    | Adaptation
    | Editing
    | Regression
    | Contrastive
    | Reconstruction
    | Masked
    | Own,
    BY_KIND,
]

__all__ = [
    "Adaptation",
    "AnyTask",
    "Batch",
    "Classification",
    "Contrastive",
    "Editing",
    "Evaluation",
    "Figure",
    "Masked",
    "Monitor",
    "Reconstruction",
    "Regression",
    "Table",
    "Task",
    "TaskConfig",
]
