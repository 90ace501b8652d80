"""Probing: linear models on the vectors of a frozen encoder, with few labels and with all."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from dwsnet.encoders.statistics import tensor_statistics
from dwsnet.state import read_state
from pipeline.archive.plan import SPLITS
from pipeline.archive.zoo import Zoo
from pipeline.errors import InputError, WorkError
from pipeline.tasks import Table
from pipeline.training.checkpoint import TrainedModel
from pipeline.training.evaluate import require_space, shown, titled
from pipeline.training.loader import Feed
from pipeline.training.models import shared_names

SHARES = (0.01, 0.1, 1.0)
"""Shares of the members of the train split whose targets are used."""
RIDGE = tuple(10 ** (power / 2) for power in range(6, -11, -1))
"""Penalties for features with a standard deviation of 1, strongest first."""
SOFTMAX = tuple(10.0**power for power in range(-4, 4))
"""Inverse penalties (scikit-learn's C) for such features, strongest penalty first."""

Parts = Mapping[str, np.ndarray]
"""One row per member, by split."""


@dataclass(frozen=True)
class Reading:
    """The score of a target at one share of the labels."""

    target: str
    reader: str
    """The features and the model."""
    share: float
    num_members: int
    """Size of the training set."""
    metrics: Mapping[str, float]
    """Metrics on the test split: accuracy of classes; r2 and mse of numbers."""
    strength: float | None = None
    """Strength of the penalty, chosen on the validation split; None without a penalty."""


@dataclass(frozen=True)
class Target:
    """A quantity to predict."""

    name: str
    values: Parts
    """Classes as integers, numbers as float64."""
    known: Parts
    """`(members,)` bool: false for null in the catalog."""
    is_class: bool


def probe(trained: TrainedModel, zoo: Zoo, targets: Sequence[str], seed: int) -> list[Reading]:
    """Predict catalog columns from the encoder's vectors, and from statistics of the weights.

    Classes by softmax regression, numbers by ridge regression and least squares. The members of a
    share are drawn from `seed` like those of `training.members`; the penalty is chosen on the
    validation split. Raises InputError if the model has not learned vectors, the zoo has another
    architecture, or a target cannot be used.
    """
    require_vectors(trained)
    require_space(trained, zoo)
    wanted = [target_of(zoo, name) for name in targets or known_of(zoo)]
    features = {
        "frozen encoder": features_of(zoo, trained.encoder),
        "statistics": features_of(
            zoo, lambda state: tensor_statistics(read_state(zoo.space, state))
        ),
    }
    return [
        reading
        for target in wanted
        for share in SHARES
        for reading in readings(target, features, share, drawn(zoo, share, seed))
    ]


def require_vectors(trained: TrainedModel):
    """Raises InputError if the model does not use, and so did not train, the encoder's vectors."""
    if trained.encoder.state_dict().keys() - shared_names(trained.encoder, trained.model).keys():
        raise InputError(
            f"a run must have learned a vector of each network to be probed, which task "
            f"{trained.config.task.kind} does not use: probe a run of another task"
        )


def known_of(zoo: Zoo) -> list[str]:
    """Columns of what is known of the signals: classes and facts. Raises InputError without any."""
    names = [*(["label"] if len(zoo.record.class_names) > 1 else []), *zoo.record.facts]
    found = [name for name in names if zoo.catalog[name].null_count < len(zoo)]
    if not found:
        raise InputError(
            f"nothing is known about the signals of zoo {zoo.folder}, neither classes nor facts: "
            f"name columns of its catalog with --target, such as {zoo.record.schema.names[-1]}"
        )
    return found


def target_of(zoo: Zoo, name: str) -> Target:
    """Raises InputError if there is no such column, or it has fewer than two values in a split."""
    zoo.require_columns([name], " to probe for")
    columns = {split: zoo.members(split)[name] for split in SPLITS}
    kind = columns["train"].type
    is_class = name == "label" or not (pa.types.is_integer(kind) or pa.types.is_floating(kind))
    if is_class:
        names = columns["train"].unique().drop_null()
        values = {split: pc.index_in(column, names) for split, column in columns.items()}
    else:
        values = {split: column.cast(pa.float64(), safe=False) for split, column in columns.items()}
    valid = {
        split: pc.is_finite(column).fill_null(False).to_numpy() for split, column in values.items()
    }
    target = Target(
        name,
        {split: column.fill_null(0).to_numpy() for split, column in values.items()},
        valid,
        is_class,
    )
    for split, found in target.values.items():
        if len(np.unique(found[valid[split]])) < 2:
            raise InputError(
                f"column {name!r} of zoo {zoo.folder} cannot be probed for: it must have two "
                f"values or more in each split, found fewer in {split}"
            )
    return target


@torch.no_grad()
def features_of(zoo: Zoo, extract: Callable[[Mapping[str, Tensor]], Tensor]) -> Parts:
    """`(members, width)` float64 of each split, in catalog order.

    Columns have mean 0 and standard deviation 1 over the train split. Raises WorkError if a number
    is not finite.
    """
    parts = {}
    for split in SPLITS:
        vectors = [extract(batch.state).double() for batch in Feed(zoo, split, ()).whole()]
        parts[split] = torch.cat(vectors).numpy() if vectors else np.zeros((0, 0))
        if not np.isfinite(parts[split]).all():
            raise WorkError(
                f"vectors of zoo {zoo.folder} cannot be probed: numbers must be finite, found "
                f"others in split {split!r}; weights, of its members or of the encoder, are too "
                "large"
            )
    mean, std = parts["train"].mean(0), parts["train"].std(0)
    return {split: (vectors - mean) / np.where(std > 0, std, 1) for split, vectors in parts.items()}


def drawn(zoo: Zoo, share: float, seed: int) -> np.ndarray:
    """`(members,)` bool: the members of the train split that are used at a share."""
    every = Feed(zoo, "train", ())
    some = replace(every, members=num_known(every.num_members, share), seed=seed)
    return np.isin(every.positions, some.positions)


def num_known(num_members: int, share: float) -> int:
    return max(1, round(share * num_members))


def readings(
    target: Target, features: Mapping[str, Parts], share: float, labelled: np.ndarray
) -> Iterator[Reading]:
    """The trivial prediction, then that of each reader from each kind of features."""
    rows = {**target.known, "train": target.known["train"] & labelled}
    y = {split: values[rows[split]] for split, values in target.values.items()}
    count, score = len(y["train"]), share_of_rights if target.is_class else errors
    if not count:
        return
    if target.is_class:
        name, trivial = "most frequent class", np.bincount(y["train"]).argmax()
    else:
        name, trivial = "mean", y["train"].mean()
    metrics = score(y["test"], np.full(len(y["test"]), trivial))
    yield Reading(target.name, name, share, count, metrics)
    for source, parts in features.items():
        x = {split: vectors[rows[split]] for split, vectors in parts.items()}
        for reader, strength, models in readers(target.is_class):
            if target.is_class and len(np.unique(y["train"])) < 2:
                continue
            best = max(
                (fitted(model, x["train"], y["train"]) for model in models),
                key=lambda model: model.score(x["validation"], y["validation"]),
            )
            metrics = score(y["test"], best.predict(x["test"]))
            chosen = getattr(best, strength) if strength else None
            yield Reading(target.name, f"{source}, {reader}", share, count, metrics, chosen)


def readers(is_class: bool) -> list[tuple[str, str | None, list[Any]]]:
    """Linear models: their names, the parameter of their penalty, and a model for each strength."""
    from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge

    if is_class:
        models = [LogisticRegression(C=strength, max_iter=300) for strength in SOFTMAX]
        return [("softmax regression", "C", models)]
    return [
        ("ridge regression", "alpha", [Ridge(strength) for strength in RIDGE]),
        ("least squares", None, [LinearRegression()]),
    ]


def fitted(model: Any, features: np.ndarray, values: np.ndarray) -> Any:
    """Fit a model, converged or not, since it is selected on the validation split."""
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    # Products are so small that BLAS threads would mostly wait for each other.
    with warnings.catch_warnings(), threadpool_limits(1, "blas"):
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(features, values)


def share_of_rights(true: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    return {"accuracy": float((true == predicted).mean())}


def errors(true: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    squares = np.square(true - predicted).mean()
    return {"r2": float(1 - squares / true.var()), "mse": float(squares)}


def probe_table(readings: Sequence[Reading]) -> Table:
    """One row per target and reader, one column per share of the labels."""
    known = {reading.share: reading.num_members for reading in readings}
    cells: dict[tuple[str, str], dict[float, str]] = {}
    for reading in readings:
        cells.setdefault((reading.target, reading.reader), {})[reading.share] = in_words(
            reading.metrics
        )
    rows = [[*names, *(row.get(share, "") for share in known)] for names, row in cells.items()]
    return Table(
        "Linear probes of the encoder with labels of few networks, and of all, on the test split: "
        "accuracy for classes; R² for numbers, with the mean squared error in brackets. Statistics "
        "are seven per tensor.",
        [
            "target",
            "read by",
            *(f"{100 * share:g} % ({count:,})" for share, count in known.items()),
        ],
        rows,
    )


def in_words(metrics: Mapping[str, float]) -> str:
    """Accuracy or R² as the table says, other metrics with their names."""
    if "accuracy" in metrics:
        return f"{100 * metrics['accuracy']:.1f} %"
    if "r2" in metrics:
        error = f" ({metrics['mse']:.3g})" if "mse" in metrics else ""
        return f"{metrics['r2']:.3f}{error}"
    return ", ".join(f"{titled(name)} {shown(name, value)}" for name, value in metrics.items())
