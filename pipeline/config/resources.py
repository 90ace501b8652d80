"""The hardware that work runs on."""

import re
from typing import Any

from pydantic import Field, PositiveFloat, PositiveInt, model_validator
from pydantic_core import PydanticCustomError

from pipeline.config.base import Config


class ResourcesConfig(Config):
    workers: PositiveInt = 2
    """Number of processes that fit and that train; 1:8 lets training run with as few as 1."""
    min_workers: PositiveInt | None = None
    """Fewest workers: training starts with this many, continues with them if others die, and grows
    when there is room; null: all."""
    gpus_per_worker: float = Field(0.0, ge=0)
    """GPUs per worker; 0 fits and trains on CPUs. Workers that only fit can share a GPU: 0.25."""
    groups: PositiveInt = 1
    """Models trained at the same time, each by its own group of `workers`; fewer where there is no
    room for as many."""
    stage_minutes: PositiveFloat | None = None
    """Time limit for fitting and for training, each: a stage that takes longer fails, and the next
    run continues from what is committed; null: no limit."""

    @property
    def fewest(self) -> int:
        """The fewest workers that training needs."""
        return self.min_workers or self.workers

    @model_validator(mode="before")
    @classmethod
    def read_range(cls, fields: Any) -> Any:
        """Accept a range for `workers`."""
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
