"""On how much hardware work runs."""

import re
from typing import Any

from pydantic import Field, PositiveInt, model_validator
from pydantic_core import PydanticCustomError

from pipeline.config.base import Config


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
