"""What can be learned: the fields of each task in `config`, the task itself in the file of its kind."""

from pipeline.tasks.config import (
    AdaptationConfig,
    AnyTask,
    ClassificationConfig,
    ContrastiveConfig,
    EditingConfig,
    MaskedConfig,
    ReconstructionConfig,
    RegressionConfig,
)
from pipeline.tasks.task import Batch, Evaluation, Figure, Monitor, Table, Task, TaskConfig

__all__ = [
    "AdaptationConfig",
    "AnyTask",
    "Batch",
    "ClassificationConfig",
    "ContrastiveConfig",
    "EditingConfig",
    "Evaluation",
    "Figure",
    "MaskedConfig",
    "Monitor",
    "ReconstructionConfig",
    "RegressionConfig",
    "Table",
    "Task",
    "TaskConfig",
]
