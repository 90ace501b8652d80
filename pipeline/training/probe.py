"""Probing: what a linear model reads from the vectors of a frozen encoder, by few labels and by all of them."""

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
from pipeline.training.evaluate import require_space
from pipeline.training.loader import Feed
from pipeline.training.models import shared_names

SHARES = (0.01, 0.1, 1.0)
"""Of the train split's members, whose targets are known."""
RIDGE = tuple(10 ** (power / 2) for power in range(6, -11, -1))
"""Penalties, strongest first, for features with a standard deviation of 1."""
SOFTMAX = tuple(10.0**power for power in range(-4, 4))
"""Inverse penalties (scikit-learn's C), strongest first, likewise."""

Parts = Mapping[str, np.ndarray]
"""One row a member, by split."""


@dataclass(frozen=True)
class Reading:
    """How well a target is read at one share of the labels."""

    target: str
    reader: str
    """From what, and by what."""
    share: float
    num_members: int
    """That were learned from."""
    metrics: Mapping[str, float]
    """On the test split: accuracy of classes; r2 and mse of numbers."""
    strength: float | None = None
    """Of the penalty, chosen on the validation split; None where there is none."""


@dataclass(frozen=True)
class Target:
    """What is to be read."""

    name: str
    values: Parts
    """Classes as integers, numbers as float64."""
    known: Parts
    """`(members,)` bool: false where the catalog has null."""
    is_class: bool


def probe(trained: TrainedModel, zoo: Zoo, targets: Sequence[str], seed: int) -> list[Reading]:
    """Read targets, columns of the catalog, from the encoder's vectors, and for comparison from statistics of the weights.

    Classes by softmax regression, numbers by ridge regression and by least squares. The members whose targets are known at a
    share are drawn from `seed` as `training.members` draws them; the penalty is chosen on the validation split. Raises
    InputError where the model learned no vectors, the zoo is of another architecture, or a target cannot be read from it.
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
    """Raises InputError where the encoder's vectors were not trained, as the model has no use for them."""
    if trained.encoder.state_dict().keys() - shared_names(trained.encoder, trained.model).keys():
        raise InputError(
            f"a run must have learned a vector of each network to be probed, which task {trained.config.task.kind} has no "
            "use for: probe a run of another task"
        )


def known_of(zoo: Zoo) -> list[str]:
    """What is known of the signals of members: classes and facts. Raises InputError where nothing is."""
    names = [*(["label"] if len(zoo.record.class_names) > 1 else []), *zoo.record.facts]
    found = [name for name in names if zoo.catalog[name].null_count < len(zoo)]
    if not found:
        raise InputError(
            f"nothing is known of the signals of zoo {zoo.folder}, neither classes nor facts: name columns of its catalog with "
            f"--target, such as {zoo.record.schema.names[-1]}"
        )
    return found


def target_of(zoo: Zoo, name: str) -> Target:
    """Raises InputError where there is no such column, or fewer than two values of it in a split."""
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
                f"column {name!r} of zoo {zoo.folder} cannot be probed for: it must have two values or more in each split, "
                f"found fewer in {split}"
            )
    return target


@torch.no_grad()
def features_of(zoo: Zoo, extract: Callable[[Mapping[str, Tensor]], Tensor]) -> Parts:
    """`(members, width)` float64 of each split, in the order of the catalog; each column of the train split of mean 0 and
    standard deviation 1. Raises WorkError where a number is not finite.
    """
    parts = {}
    for split in SPLITS:
        vectors = [extract(batch.state).double() for batch in Feed(zoo, split, ()).whole()]
        parts[split] = torch.cat(vectors).numpy() if vectors else np.zeros((0, 0))
        if not np.isfinite(parts[split]).all():
            raise WorkError(
                f"vectors of zoo {zoo.folder} cannot be probed: numbers must be finite, found others in split {split!r}; "
                "weights, of its members or of the encoder, are too large"
            )
    mean, std = parts["train"].mean(0), parts["train"].std(0)
    return {split: (vectors - mean) / np.where(std > 0, std, 1) for split, vectors in parts.items()}


def drawn(zoo: Zoo, share: float, seed: int) -> np.ndarray:
    """`(members,)` bool: which members of the train split are known at a share."""
    every = Feed(zoo, "train", ())
    some = replace(every, members=num_known(every.num_members, share), seed=seed)
    return np.isin(*(feed.rows()["position"].to_numpy() for feed in (every, some)))


def num_known(num_members: int, share: float) -> int:
    return max(1, round(share * num_members))


def readings(
    target: Target, features: Mapping[str, Parts], share: float, labelled: np.ndarray
) -> Iterator[Reading]:
    """What is had without any features, then what each reader makes of each kind."""
    rows = target.known | {"train": target.known["train"] & labelled}
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
            chosen = strength and getattr(best, strength)
            yield Reading(target.name, f"{source}, {reader}", share, count, metrics, chosen)


def readers(is_class: bool) -> list[tuple[str, str | None, list[Any]]]:
    """Linear models: what they are called, the name of their penalty, and one model for each strength of it."""
    from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge

    if is_class:
        models = [LogisticRegression(C=strength, max_iter=300) for strength in SOFTMAX]
        return [("softmax regression", "C", models)]
    return [
        ("ridge regression", "alpha", [Ridge(strength) for strength in RIDGE]),
        ("least squares", None, [LinearRegression()]),
    ]


def fitted(model: Any, features: np.ndarray, values: np.ndarray) -> Any:
    """The model, that is judged on the validation split whether its solver came to an end or not."""
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    # Products are so small that threads of BLAS would only wait for each other.
    with warnings.catch_warnings(), threadpool_limits(1, "blas"):
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(features, values)


def share_of_rights(true: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    return {"accuracy": float((true == predicted).mean())}


def errors(true: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    squares = np.square(true - predicted).mean()
    return {"r2": float(1 - squares / true.var()), "mse": float(squares)}


def probe_table(readings: Sequence[Reading]) -> Table:
    """One row a target and reader, one column a share of the labels."""
    known = {reading.share: reading.num_members for reading in readings}
    cells: dict[tuple[str, str], dict[float, str]] = {}
    for reading in readings:
        cells.setdefault((reading.target, reading.reader), {})[reading.share] = in_words(
            reading.metrics
        )
    rows = [[*names, *(row.get(share, "") for share in known)] for names, row in cells.items()]
    return Table(
        "What can be read from the encoder with labels of few networks, and of all: accuracy of classes on the test split; "
        "of numbers R², and the mean squared error in brackets. Statistics are seven of each tensor.",
        [
            "target",
            "read by",
            *(f"{100 * share:g} % ({count:,})" for share, count in known.items()),
        ],
        rows,
    )


def in_words(metrics: Mapping[str, float]) -> str:
    if "accuracy" in metrics:
        return f"{100 * metrics['accuracy']:.1f} %"
    error = f" ({metrics['mse']:.3g})" if "mse" in metrics else ""
    return f"{metrics['r2']:.3f}{error}"
