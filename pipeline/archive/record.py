"""`zoo.json`: what a zoo is, and everything needed to run its members."""

from typing import Any

import pyarrow as pa
from pydantic import Field, NonNegativeInt, ValidationError, field_validator, model_validator
from torch import Tensor

from dwsnet.weight_space import WeightSpace
from pipeline.archive.files import json_bytes, parse_json, write_atomic
from pipeline.archive.growth import Growth, check_chain, identity_of
from pipeline.archive.plan import SPLITS
from pipeline.archive.schemas import edited_schema, fitted_schema, imported_schema, merged_schema
from pipeline.config import (
    AnyOrigin,
    AnyZooConfig,
    ClassifierZooConfig,
    Frozen,
    ZooConfig,
    fingerprint,
)
from pipeline.decode import DecodeContract, coordinates_of
from pipeline.errors import ArchiveError, InputError
from pipeline.location import Location

SCHEMA_VERSION = 7
"""2 added the column psnr_off_grid; 3 source_name and failure, an omega per layer, and null labels;
4 a column per fact of the signals, and edited zoos; 5 the scale of outputs and the range of
coordinates; 6 the history of zoos that grew; 7 the kinds of INR besides SIREN, with sigma and the
frequencies of encodings. Zoos of older versions are read, and continued as version 7."""
FILE = "zoo.json"


class SignalsRecord(Frozen):
    name: str
    num_signals: int
    digest: str
    """`Signals.digest`."""
    grid: tuple[int, ...]
    num_channels: int
    class_names: tuple[str, ...]
    unreadable: dict[str, str] = Field(default_factory=dict)
    """Why signals could not be read, by their name in the source."""


class ShardRecord(Frozen):
    name: str = Field(pattern=f"^({'|'.join(SPLITS)})-[0-9]{{6,9}}$")
    """The name of its files; the pattern keeps it inside their folders."""
    split: str
    num_members: NonNegativeInt

    @model_validator(mode="after")
    def is_named_by_its_split(self) -> "ShardRecord":
        if self.split != self.name.rpartition("-")[0]:
            raise ValueError(
                f"shard {self.name} must be in the split in its name, found {self.split!r}"
            )
        return self


class ImportRecord(Frozen):
    """Where an imported zoo came from."""

    path: str
    num_files: int
    sha256: str
    """Digest of the names and contents of all files that were read."""
    tensors: dict[str, tuple[str, tuple[int, ...]]]
    """Name of each tensor in the source, and its shape in the source's first member."""
    columns: dict[str, str]
    """Arrow type of each catalog column that comes from the source."""
    sources: str | None = None
    """`ZooRecord.sources` of the zoo that was exported; null if another program wrote it."""


class ZooRecord(Frozen):
    """The contents of zoo.json."""

    format: str
    schema_version: int
    fingerprint: str
    """Digest of config and signals; a folder never holds members of two fingerprints."""
    config: AnyOrigin
    """The configuration that built, imported, merged or edited it."""
    signals: SignalsRecord
    tensors: dict[str, tuple[int, ...]]
    """Shape of each tensor of a member, in state dict order."""
    decode: DecodeContract
    shards: tuple[ShardRecord, ...] = Field(min_length=1)
    classes: dict[str, tuple[int, ...]] | None = None
    """Planned members per class, by split; null if they have no class or were not planned here."""
    facts: dict[str, str] = Field(default_factory=dict)
    """Arrow type of each catalog column with a fact of the members' signals."""
    imported: ImportRecord | None = None
    merged: tuple["ZooRecord", ...] = ()
    """The records of the zoos that it was merged from."""
    grown: tuple[Growth, ...] = ()
    """Its growths, in order; all other fields describe the zoo as it is now."""
    edited: "ZooRecord | None" = None
    """The record of the zoo before a model edited its members."""

    @field_validator("tensors")
    @classmethod
    def make_up_a_space(cls, tensors: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        WeightSpace.from_shapes(tensors)
        return tensors

    @model_validator(mode="after")
    def is_of_one_piece(self) -> "ZooRecord":
        made_from = {name: getattr(self, name) for name in ("imported", "merged", "edited")}
        if any((self.config.kind == kind) != bool(what) for kind, what in made_from.items()):
            raise ValueError("config, imported, merged and edited must be of one kind of zoo")
        if len({shard.name for shard in self.shards}) != len(self.shards):
            raise ValueError("every shard must have a name of its own")
        if any(
            len(counts) != len(self.signals.class_names) for counts in (self.classes or {}).values()
        ):
            raise ValueError(
                f"classes must count members of each of {len(self.signals.class_names)} classes"
            )
        self.schema  # noqa: B018 raises ValueError
        check_chain(self.config, self.signals.digest, self.signals.num_signals, self.grown)
        return self

    @property
    def schema(self) -> pa.Schema:
        """Columns of the catalog."""
        if self.merged:
            return merged_schema([record.schema for record in self.merged])
        if self.edited:
            return edited_schema(self.edited.schema)
        if self.imported:
            return imported_schema(self.imported.columns)
        return fitted_schema(self.config.kind, self.facts)

    @property
    def num_members(self) -> int:
        """Members in the whole plan."""
        return sum(shard.num_members for shard in self.shards)

    @property
    def architecture(self) -> str:
        """Layer widths from input to output: 2-32-32-1."""
        weights = [shape for name, shape in self.tensors.items() if name.endswith(".weight")]
        return "-".join(map(str, (weights[0][1], *(shape[0] for shape in weights))))

    @property
    def class_names(self) -> tuple[str, ...]:
        """Class names of the members, by `label`; none for classifiers, which have no class."""
        return self.signals.class_names if "label" in self.schema.names else ()

    @property
    def space(self) -> WeightSpace:
        return WeightSpace.from_shapes(self.tensors)

    def coordinates(self) -> Tensor:
        """`(points, dims)` float32: the points at which INRs were fitted, in grid order."""
        return coordinates_of(self.decode, self.signals.grid)

    @property
    def sources(self) -> str:
        """Identifies the sources: zoos with the same value number the same sources.

        A source is a signal or, in a zoo of classifiers, a run with the same initialization.
        """
        if self.edited:
            return self.edited.sources
        if self.imported and self.imported.sources:
            return self.imported.sources
        is_run = isinstance(self.config, ClassifierZooConfig)
        return f"{self.signals.digest} {self.fitted.seed}" if is_run else self.signals.digest

    @property
    def fitted(self) -> AnyZooConfig:
        """`config` of a zoo that was fitted, that is, neither imported, merged nor edited."""
        assert isinstance(self.config, ZooConfig | ClassifierZooConfig)
        return self.config

    @property
    def inrs(self) -> ZooConfig:
        """`config`, of a zoo that is known to have been fitted to signals."""
        assert isinstance(self.config, ZooConfig)
        return self.config

    @property
    def origin(self) -> "ZooRecord":
        """The zoo before any edit: this one if it was never edited."""
        return self.edited.origin if self.edited else self

    def zoo_identity(self) -> dict[str, Any]:
        """What the fingerprint is computed from."""
        return identity_of(self.config, self.signals.digest, self.grown)

    def as_json(self) -> bytes:
        """The bytes of zoo.json."""
        return json_bytes(self.model_dump(mode="json"))


def write_record(folder: Location, record: ZooRecord):
    write_atomic(folder / FILE, record.as_json())


def read_record(folder: Location) -> ZooRecord:
    """Read zoo.json.

    Raises InputError if `folder` is not a zoo or has a newer schema, ArchiveError if zoo.json is
    damaged.
    """
    return parse_record(folder, read_zoo_json(folder))


def read_zoo_json(folder: Location) -> bytes:
    """Raises InputError if `folder` is not a zoo."""
    try:
        return (folder / FILE).read_bytes()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise InputError(
            f"{folder} is not a zoo: expected a folder with {FILE}, found none; `dwszoo zoo build` "
            "makes one"
        ) from None


def parse_record(folder: Location, data: bytes) -> ZooRecord:
    """Parse `data`, the zoo.json of `folder`; raises like `read_record`."""
    file = folder / FILE
    try:
        content = parse_json(data)
        version = content["schema_version"]
    except (ValueError, TypeError, KeyError) as error:
        raise ArchiveError(
            f"{file} is damaged ({error!r}): put back a copy or build the zoo again"
        ) from error
    if content.get("format") != "dwszoo" or not isinstance(version, int):
        raise InputError(
            f"{file} is not a zoo's: expected format 'dwszoo', found {content.get('format')!r}"
        )
    if version > SCHEMA_VERSION:
        raise InputError(
            f"zoo {folder} has schema version {version}, this dwszoo reads up to {SCHEMA_VERSION}: "
            "install a newer dwszoo"
        )
    try:
        record = ZooRecord.model_validate(content)
        found = fingerprint(record.zoo_identity())
    except ValueError as error:
        raise ArchiveError(
            f"{file} is damaged ({first_problem(error)}): put back a copy or build the zoo again"
        ) from error
    if record.fingerprint != found:
        raise ArchiveError(
            f"{file} is damaged: its fingerprint is {record.fingerprint}, its content has {found}; "
            "put back a copy or build the zoo again"
        )
    return record


def record_in(file: Location) -> ZooRecord | None:
    """The record in a zoo.json file; None if the file has another name or other contents."""
    if file.name != FILE or not file.is_file():
        return None
    data = file.read_bytes()
    return parse_record(file.parent, data) if b'"schema_version"' in data else None


def first_problem(error: ValueError) -> str:
    """A short text of the first validation error, with its location."""
    if not isinstance(error, ValidationError):
        return str(error).splitlines()[0][:200]
    problem = error.errors()[0]
    return f"{'.'.join(str(part) for part in problem['loc'])}: {problem['msg']}"[:200]
