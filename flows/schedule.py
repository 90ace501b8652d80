"""Schedule files: TOML or JSON with a table for each scheduled run."""

from datetime import UTC, datetime, timedelta
from itertools import combinations
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from pydantic import ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from flows.overrides import config_of
from flows.recipe_file import read_file
from pipeline.config import Config
from pipeline.errors import InputError
from pipeline.location import SCHEME

BANNED = "/%&<>"
"""Characters that Prefect rejects in names."""


class ScheduledRun(Config):
    recipe: str
    """A recipe, a file or package.module:function, as for `dwszoo run`."""
    out: Path
    """The run folder. Each run continues there; finished work is not repeated."""
    settings: tuple[str, ...] = ()
    """Overridden fields of the recipe, such as "zoo.views=4"."""
    cron: str | None = None
    """Times in crontab syntax: "0 3 * * *" is three o'clock each night."""
    interval: timedelta | None = None
    """Time between runs: seconds, or an ISO 8601 duration such as "PT6H"."""
    rrule: str | None = None
    """Times as a recurrence rule of RFC 5545: "FREQ=WEEKLY;BYDAY=SU"."""
    timezone: str = "UTC"
    """Time zone of `cron` and `rrule`, such as "Europe/Berlin"."""

    @field_validator("cron", "interval", "rrule")
    @classmethod
    def suits_prefect(cls, value: Any, info: ValidationInfo) -> Any:
        from prefect.client.schemas.schedules import construct_schedule

        field = str(info.field_name)
        try:
            is_to_come = comes(construct_schedule(**{field: value}))
        except (ValueError, TypeError) as error:
            kind = {
                "cron": "a line of a crontab, such as 0 3 * * *",
                "interval": "positive",
                "rrule": "a rule of RFC 5545 that Prefect takes",
            }
            raise PydanticCustomError("schedule", f"input should be {kind[field]}") from error
        if not is_to_come:
            raise PydanticCustomError("schedule", "input should have a time that is still to come")
        return value

    @field_validator("interval", mode="before")
    @classmethod
    def is_a_time(cls, value: Any) -> Any:
        if isinstance(value, bool):
            raise PydanticCustomError("schedule", "input should be seconds or such as PT6H")
        return value

    @field_validator("out", mode="before")
    @classmethod
    def is_a_folder(cls, value: Any) -> Any:
        if not str(value) or SCHEME.match(str(value)):
            raise PydanticCustomError(
                "folder", "input should be a folder on this machine: only zoos can be at a URI"
            )
        return value

    @field_validator("timezone")
    @classmethod
    def is_known(cls, timezone: str) -> str:
        try:
            ZoneInfo(timezone)
        except (KeyError, ValueError, OSError) as error:
            raise PydanticCustomError(
                "timezone", "input should be one of the IANA database, such as Europe/Berlin"
            ) from error
        return timezone

    @model_validator(mode="after")
    def says_when_once(self) -> "ScheduledRun":
        given = [name for name in ("cron", "interval", "rrule") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                "one of cron, interval and rrule must be set, found "
                f"{' and '.join(given) or 'none'}"
            )
        return self

    @property
    def when(self) -> str:
        """The schedule in words."""
        if self.interval is not None:
            return f"every {self.interval}"
        return f"{self.cron or self.rrule} ({self.timezone})"

    @property
    def times(self) -> dict[str, Any]:
        """The arguments of Prefect's Schedule."""
        return {name: getattr(self, name) for name in ("cron", "interval", "rrule", "timezone")}


def comes(schedule: Any) -> bool:
    """Whether a schedule of Prefect's has a time that is still to come. Raises ValueError for a
    rule that Prefect cannot read."""
    from prefect._vendor.croniter import CroniterBadDateError, croniter

    now = datetime.now(UTC)
    if hasattr(schedule, "rrule"):
        return schedule.to_rrule().after(now) is not None
    if hasattr(schedule, "cron"):
        try:
            croniter(schedule.cron, now).get_next()
        except CroniterBadDateError:
            return False
    return True


def read_schedule(path: Path) -> dict[str, ScheduledRun]:
    """The scheduled runs of a file, by name.

    Raises InputError if it has none, one is wrong, or two share a folder.
    """
    text, tables = read_file(path)
    if not tables or not all(isinstance(table, dict) for table in tables.values()):
        raise InputError(
            f"{path} must have a table for each scheduled run, such as [nightly] with recipe, out "
            "and cron"
        )
    runs = {
        name: config_of(ScheduledRun, fields, path, text, name) for name, fields in tables.items()
    }
    for name in runs:
        if set(name) & set(BANNED):
            raise InputError(
                f"{path}: the name of a scheduled run must not contain {BANNED}, got {name!r}"
            )
    for (one, first), (other, second) in combinations(runs.items(), 2):
        inner, outer = sorted((first.out.resolve(), second.out.resolve()), reverse=True)
        if inner.is_relative_to(outer):
            raise InputError(
                f"{path}: {one} and {other} are both in {outer}: "
                "give each scheduled run its own folder"
            )
    return runs
