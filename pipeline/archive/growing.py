"""A finished zoo that grows: it stays as it is until all that is new is committed, then another takes its place.

Shards that are new have names of their own and lie beside the old ones. `growing.json` is the plan; readers do not look at
it. What makes the zoo a larger one, at once, is its new seal: `zoo.json` follows, and whoever finds it behind the seal
takes the record of `growing.json`, which is removed last.
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
    """What the zoo will be."""
    names: tuple[str, ...] | None = None
    """Of the signals that are new, as `Signals.names`: more may have come when an interrupted growth goes on."""


def read_growing(folder: Location) -> Growing | None:
    """None where the zoo does not grow. Raises ArchiveError where growing.json is damaged."""
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
    """Raises InputError where a growth was begun and is not finished."""
    if (folder / PLAN).exists():
        raise InputError(
            f"zoo {folder} is growing: `dwszoo zoo grow {folder}` goes on with that and finishes it"
        )


def sealed_zoo_json(folder: Location, data: bytes, seal: bytes) -> bytes:
    """The bytes of zoo.json that a seal is of, where `data` were read just before it.

    Those that were read, unless the zoo became a larger one at that moment.
    """
    if names(seal, data):
        return data
    growing = read_growing(folder)
    if growing is not None and names(seal, planned := growing.zoo.as_json()):
        return planned
    again = read_zoo_json(folder)
    return again if names(seal, again) else data  # changed by hand, as `zoo verify` says


def names(seal: bytes, data: bytes) -> bool:
    """Whether a seal is of a zoo.json."""
    return sha256(data).encode() in seal


def finish_growing(folder: Location, growing: Growing):
    """Once the larger zoo is sealed."""
    write_record(folder, growing.zoo)
    (folder / PLAN).unlink(missing_ok=True)
