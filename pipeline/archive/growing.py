"""Growing a finished zoo: it stays as it is until everything new is committed.

New shards have new names and are next to the old ones. `growing.json` is the plan, which readers
ignore. Writing the new seal makes the zoo the larger one atomically. `zoo.json` follows; a reader
that finds an older one than the seal takes the record in `growing.json`, which is removed last.
"""

from pipeline.archive.files import parse_json, sha256, write_json
from pipeline.archive.record import ZooRecord, first_problem, read_zoo_json, write_record
from pipeline.config import Frozen
from pipeline.errors import ArchiveError, InputError
from pipeline.location import Location

PLAN = "growing.json"


class Growing(Frozen):
    """The contents of growing.json."""

    zoo: ZooRecord
    """The record of the larger zoo."""
    names: tuple[str, ...] | None = None
    """The new signals' `Signals.names`: the source may have even more when growing is resumed."""


def read_growing(folder: Location) -> Growing | None:
    """None if the zoo is not growing. Raises ArchiveError if growing.json is damaged."""
    file = folder / PLAN
    try:
        return Growing.model_validate(parse_json(file.read_bytes()))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ArchiveError(
            f"{file} is damaged ({first_problem(error)}): delete it and run `dwszoo zoo grow` again"
        ) from error


def write_growing(folder: Location, growing: Growing):
    write_json(folder / PLAN, growing.model_dump(mode="json"))


def require_not_growing(folder: Location):
    """Raises InputError if growing was started and has not finished."""
    if (folder / PLAN).exists():
        raise InputError(
            f"zoo {folder} is growing: `dwszoo zoo grow {folder}` resumes and finishes it"
        )


def sealed_zoo_json(folder: Location, data: bytes, seal: bytes) -> bytes:
    """The bytes of the zoo.json that `seal` names, if `data` was read just before `seal`.

    These are `data`, unless the zoo became the larger one in between.
    """
    if names(seal, data):
        return data
    growing = read_growing(folder)
    if growing is not None and names(seal, planned := growing.zoo.as_json()):
        return planned
    again = read_zoo_json(folder)
    return again if names(seal, again) else data  # edited by hand, which `zoo verify` reports


def names(seal: bytes, data: bytes) -> bool:
    """Whether a seal names the zoo.json with these bytes."""
    return sha256(data).encode() in seal


def finish_growing(folder: Location, growing: Growing):
    """Replace zoo.json and remove the plan, once the larger zoo is sealed."""
    write_record(folder, growing.zoo)
    (folder / PLAN).unlink(missing_ok=True)
