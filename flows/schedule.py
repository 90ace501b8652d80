"""Schedule files: TOML or JSON with a table for each scheduled run."""

from datetime import timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from pydantic import ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from flows.overrides import config_of
from flows.recipe_file import read_file
from pipeline.config import Config
from pipeline.errors import InputError

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
            construct_schedule(**{field: value})
        except (ValueError, TypeError) as error:
            kind = {
                "cron": "a line of a crontab, such as 0 3 * * *",
                "interval": "positive",
                "rrule": "a rule of RFC 5545",
            }
            raise PydanticCustomError("schedule", f"input should be {kind[field]}") from error
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
    folders: dict[Path, str] = {}
    for name, run in runs.items():
        other = folders.setdefault(run.out.resolve(), name)
        if other != name:
            raise InputError(
                f"{path}: {other} and {name} are both in {run.out}: "
                "give each scheduled run its own folder"
            )
    return runs
