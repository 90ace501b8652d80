"""Columns of the catalog: by kind for fitted zoos, and of imported, merged and edited ones."""

from collections.abc import Mapping, Sequence

import pyarrow as pa

from pipeline.archive.plan import SPLITS

INRS = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False, metadata={"doc": "source index and view"}),
        pa.field("split", pa.string(), nullable=False),
        pa.field("shard", pa.string(), nullable=False),
        pa.field(
            "block",
            pa.int32(),
            metadata={"doc": "position of the block in its shard; null for a failed member"},
        ),
        pa.field(
            "row", pa.int32(), metadata={"doc": "position in its block; null for a failed member"}
        ),
        pa.field(
            "source_index",
            pa.int64(),
            nullable=False,
            metadata={"doc": "position of the signal in its source"},
        ),
        pa.field(
            "source_name",
            pa.string(),
            metadata={
                "doc": "where the signal lies: path of its file below the source, with ':ROW' "
                "where a file holds many; null where signals are made and do not lie anywhere",
                "since": "3",
            },
        ),
        pa.field(
            "view", pa.int32(), nullable=False, metadata={"doc": "which of the signal's INRs"}
        ),
        pa.field(
            "label",
            pa.int64(),
            metadata={"doc": "class of the signal; null where it has none, before version 3 never"},
        ),
        pa.field(
            "seed",
            pa.uint64(),
            nullable=False,
            metadata={"doc": "key of the member's random numbers"},
        ),
        pa.field("status", pa.string(), nullable=False, metadata={"doc": "'ok' or 'failed'"}),
        pa.field(
            "stop_reason",
            pa.string(),
            nullable=False,
            metadata={"doc": "'target', 'max_steps', 'diverged' or 'unreadable'"},
        ),
        pa.field(
            "failure",
            pa.string(),
            metadata={"doc": "why its signal could not be read; else null", "since": "3"},
        ),
        pa.field("steps", pa.int64(), nullable=False, metadata={"doc": "Adam steps done"}),
        pa.field(
            "psnr", pa.float32(), metadata={"doc": "dB on the grid, of the weights as stored"}
        ),
        pa.field(
            "psnr_off_grid",
            pa.float32(),
            metadata={
                "doc": "dB at the centres of the grid's cells, against the mean of their corners",
                "since": "2",
            },
        ),
    ]
)
"""Columns of a fitted zoo of INRs. `since` is the schema version that added a column, which is null
in parts that an older version wrote."""
CLASSIFIERS = pa.schema(
    [
        *(INRS.field(name) for name in ("key", "split", "shard", "block", "row")),
        pa.field("source_index", pa.int64(), nullable=False, metadata={"doc": "number of the run"}),
        pa.field(
            "view", pa.int32(), nullable=False, metadata={"doc": "which of the run's checkpoints"}
        ),
        pa.field("run", pa.string(), nullable=False, metadata={"doc": "name of the run"}),
        pa.field(
            "epoch", pa.int64(), nullable=False, metadata={"doc": "epochs until this checkpoint"}
        ),
        pa.field(
            "seed", pa.uint64(), nullable=False, metadata={"doc": "key of the run's random numbers"}
        ),
        pa.field("status", pa.string(), nullable=False, metadata={"doc": "'ok' or 'failed'"}),
        pa.field(
            "stop_reason",
            pa.string(),
            nullable=False,
            metadata={"doc": "'checkpoint', at the run's end 'epochs'; 'diverged'"},
        ),
        pa.field(
            "steps",
            pa.int64(),
            nullable=False,
            metadata={"doc": "optimizer steps until this checkpoint"},
        ),
        *(
            pa.field(name, pa.string(), nullable=False)
            for name in ("activation", "init", "optimizer")
        ),
        *(
            pa.field(name, pa.float64(), nullable=False)
            for name in ("init_scale", "learning_rate", "weight_decay", "dropout", "train_fraction")
        ),
        pa.field("epochs", pa.int64(), nullable=False, metadata={"doc": "epochs of the whole run"}),
        pa.field(
            "class_0",
            pa.int64(),
            metadata={"doc": "class of output 0; null where all classes are learned"},
        ),
        pa.field(
            "class_1",
            pa.int64(),
            metadata={"doc": "class of output 1; null where all classes are learned"},
        ),
        *(
            pa.field(f"{split}_{score}", pa.float64(), metadata={"doc": f"on the {split} images"})
            for split in SPLITS
            for score in ("loss", "accuracy")
        ),
    ]
)
"""Columns of a fitted zoo of classifiers."""
SCHEMAS = {"inrs": INRS, "classifiers": CLASSIFIERS}
"""Columns by the kind of zoo configuration."""
MEASURED = (
    "psnr",
    "psnr_off_grid",
    *(f"{split}_{score}" for split in SPLITS for score in ("loss", "accuracy")),
)
"""Columns that were measured on a member's weights, and no longer hold once these are edited."""
TAKEN = {"group", "source", *(name for schema in SCHEMAS.values() for name in schema.names)}
"""Names that no fact may have: they have a meaning in catalogs, exports or imports."""
IMPORTED = pa.schema(
    [
        *(INRS.field(name) for name in ("key", "split", "shard", "block", "row")),
        pa.field(
            "source_index",
            pa.int64(),
            nullable=False,
            metadata={"doc": "number of the signal or the run"},
        ),
        pa.field("view", pa.int32(), nullable=False, metadata={"doc": "which of its members"}),
        pa.field("label", pa.int64()),
        pa.field("status", pa.string(), nullable=False, metadata={"doc": "'ok' or 'failed'"}),
        pa.field(
            "stop_reason",
            pa.string(),
            metadata={"doc": "what the source says, or why there are no weights"},
        ),
    ]
)
"""Columns of every imported zoo, before those of the source."""


def fitted_schema(kind: str, facts: Mapping[str, str]) -> pa.Schema:
    """The schema of a fitted zoo; `facts` has the Arrow type of each fact of its signals.

    Raises ValueError for an unknown type, and for a fact with the name of another column.
    """
    if taken := [name for name in facts if name in TAKEN]:
        raise ValueError(f"{taken[0]!r} already has a meaning, a fact must have another name")
    columns = (
        pa.field(
            name,
            pa.type_for_alias(arrow_type),
            metadata={"doc": "fact of the signal; null where it is not known", "since": "4"},
        )
        for name, arrow_type in facts.items()
    )
    return pa.schema([*SCHEMAS[kind], *columns])


def imported_schema(columns: Mapping[str, str]) -> pa.Schema:
    """The schema of an imported zoo, from the Arrow types of the columns of its source.

    Raises ValueError for an unknown type.
    """
    return pa.schema(
        [*IMPORTED, *(pa.field(name, pa.type_for_alias(kind)) for name, kind in columns.items())]
    )


def merged_schema(schemas: Sequence[pa.Schema]) -> pa.Schema:
    """All columns of several zoos; those that a zoo lacks may be null.

    Raises ValueError for a column of two types.
    """
    fields: dict[str, pa.Field] = {}
    for schema in schemas:
        for field in schema:
            known = fields.setdefault(field.name, field)
            if known.type != field.type:
                raise ValueError(
                    f"column {field.name!r} must be of one type, found {known.type} and "
                    f"{field.type}"
                )
            fields[field.name] = known.with_nullable(known.nullable or field.nullable)
    shared = set.intersection(*(set(schema.names) for schema in schemas))
    return pa.schema(
        [
            field.with_nullable(field.nullable or field.name not in shared)
            for field in fields.values()
        ]
    )


def edited_schema(schema: pa.Schema) -> pa.Schema:
    """The schema of an edited zoo: all columns except those that were measured on its weights."""
    return pa.schema([field for field in schema if field.name not in MEASURED])
