"""Gradient boosting on statistics of the weights: a baseline, scored by the same code as models."""

import time
from dataclasses import replace
from typing import Any

from pipeline.archive.zoo import Zoo
from pipeline.training.checkpoint import TrainedModel
from pipeline.training.evaluate import evaluate
from pipeline.training.loader import Feed

FILE, TITLE = "boosted.json", "gradient boosting on statistics"


def boosted_metrics(
    trained: TrainedModel, zoo: Zoo, members: int | None, seed: int
) -> dict[str, Any] | None:
    """The content of boosted.json: like metrics.json, for boosting on the model's training members.

    In addition, `validation` is the monitored metric on the validation split, and `seconds` the
    time to compute the statistics and fit the trees. None if the task has no boosted baseline.
    """
    start = time.perf_counter()
    feed = Feed.of(trained.task, zoo, "train", members, seed)
    model = trained.task.boosted(zoo.space, feed.whole(), trained.prepared)
    if model is None:
        return None
    seconds = time.perf_counter() - start
    stand_in = replace(trained, model=model.eval())
    validation, test = (
        evaluate(stand_in, zoo, split, members, seed)[0] for split in ("validation", "test")
    )
    of_the_model = ("epoch", "encoder", "num_parameters")
    kept = {name: value for name, value in test.items() if name not in of_the_model}
    return kept | {"validation": validation[test["monitor"]], "seconds": seconds}
