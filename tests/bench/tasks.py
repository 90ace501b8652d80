"""All encoders on all tasks: `python -m tests.bench.tasks FOLDER [RECIPE ...]`.

Runs the recipes that need no files with every suitable encoder, at the DWSNet's number of
parameters and budget, and prints one table in Markdown. Run again, it continues where it stopped:
runs in FOLDER are not repeated.
"""

import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from flows.recipe import Recipe
from flows.recipes import RECIPES
from flows.run import run_stages
from pipeline.archive.zoo import Zoo
from pipeline.errors import InputError
from pipeline.report.models import models_of
from pipeline.tasks.own import task_of
from pipeline.training.config import BASELINES
from pipeline.training.evaluate import shown, titled
from pipeline.training.variants import Variant
from tests.bench.table import print_table

ROWS = ("digits", "mlps", "sines-frequency", "digits-dilate", "digits-adapt", "waves-embedding")
HEADER = ("recipe", "encoder", "parameters", "training", "metric", "on the test split", "trivial")


def with_baselines(recipe: Recipe, kinds: tuple[str, ...]) -> Recipe:
    """The recipe with one seed and one size, and these kinds of encoder in addition to its own."""
    changed = {"baselines": kinds, "seeds": 1, "sizes": ()}
    return recipe.model_copy(update={"training": recipe.training.model_copy(update=changed)})


def suited(recipe: Recipe, folder: Path) -> tuple[str, ...]:
    """The kinds of encoder that can learn the task: statistics cannot edit weights."""
    zoo, training, kinds = Zoo.open(folder / "zoo"), recipe.training, []
    prepared = task_of(training.task, ()).prepare(zoo)
    for kind in BASELINES:
        with suppress(InputError):
            Variant(kind).of(training, zoo.space, prepared)
            kinds.append(kind)
    return tuple(kind for kind in kinds if kind != training.encoder.kind)


def rows(name: str, folder: Path) -> Iterator[tuple[str, ...]]:
    """The table rows of a recipe, its own encoder first."""
    recipe = RECIPES[name]()
    run_stages(with_baselines(recipe, ()), folder)
    run_stages(with_baselines(recipe, suited(recipe, folder)), folder)
    for model in models_of(folder):
        metric, trivial = compared(model.metrics)
        size = model.metrics.get("num_parameters")
        yield (
            name,
            model.title,
            "" if size is None else f"{size:,}",  # trees have none
            f"{model.seconds:,.0f} s",
            titled(metric),
            shown(metric, model.metrics[metric]),
            "" if trivial is None else shown(metric, trivial),
        )


def compared(metrics: Mapping[str, Any]) -> tuple[str, float | None]:
    """The metric that chose the epoch, or the first one that is known for a trivial answer; and
    the value of the trivial answer."""
    trivial = {name: metrics.get(f"trivial_{name}") for name in (metrics["monitor"], *metrics)}
    known = {name: value for name, value in trivial.items() if value is not None}
    return next(iter(known.items()), (metrics["monitor"], None))


def main(folder: str, *names: str):
    for unknown in set(names) - set(RECIPES):
        raise SystemExit(f"there is no recipe {unknown!r}: expected some of {', '.join(ROWS)}")
    print_table(HEADER, names or ROWS, rows, folder)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        raise SystemExit("where should the runs lie? `dwszoo bench tasks FOLDER [RECIPE ...]`")
    main(*sys.argv[1:])
