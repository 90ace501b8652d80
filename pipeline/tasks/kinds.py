"""The tasks of ours, and which one is made of a configuration."""

from collections.abc import Collection

from pipeline.functions import Own
from pipeline.tasks.adaptation import Adaptation
from pipeline.tasks.classification import Classification
from pipeline.tasks.contrastive import Contrastive
from pipeline.tasks.editing import Editing
from pipeline.tasks.masked import Masked
from pipeline.tasks.own import NEEDED, OwnTask
from pipeline.tasks.reconstruction import Reconstruction
from pipeline.tasks.regression import Regression
from pipeline.tasks.task import Task, TaskConfig

KINDS: dict[str, type[TaskConfig]] = {
    "classification": Classification,
    "adaptation": Adaptation,
    "editing": Editing,
    "regression": Regression,
    "contrastive": Contrastive,
    "reconstruction": Reconstruction,
    "masked": Masked,
}
"""By the `kind` of their configuration."""


def task_of(config: TaskConfig | Own, trusted: Collection[str]) -> Task:
    """The task of a configuration. Raises InputError where it is code of the user's that is not trusted."""
    if isinstance(config, Own):
        return OwnTask(config.make("training.task", trusted, *NEEDED))
    return KINDS[config.kind](**dict(config))
