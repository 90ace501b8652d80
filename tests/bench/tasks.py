"""What is learned from weights, task by task: `python -m tests.bench.tasks FOLDER [RECIPE ...]`.

Runs recipes that need no files with every encoder that suits them, each as large as the DWSNet and at its budget, and
prints one table in Markdown. Runs again, it goes on where it stopped: a run that is in FOLDER is not repeated.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

from flows.recipe import Recipe
from flows.recipes import RECIPES
from flows.run import run_recipe
from pipeline.archive.files import exclusive
from pipeline.errors import InputError
from pipeline.report.models import models_of
from pipeline.training.config import BASELINES
from pipeline.training.evaluate import shown, titled

ROWS = ("digits", "mlps", "sines-frequency", "digits-dilate", "digits-adapt", "waves-embedding")
HEADER = ("recipe", "encoder", "parameters", "training", "metric", "on the test split", "trivial")


def with_baselines(recipe: Recipe, kinds: tuple[str, ...]) -> Recipe:
    training = recipe.training.model_copy(update={"baselines": kinds})
    return recipe.model_copy(update={"training": training})


def rows(name: str, folder: Path) -> Iterator[tuple[str, ...]]:
    """The rows of a recipe; the first is of its own encoder."""
    recipe = RECIPES[name]()
    own = recipe.training.encoder.kind
    for kind in (None, *(kind for kind in BASELINES if kind != own)):
        try:
            run_recipe(with_baselines(recipe, (kind,) if kind else ()), folder, tracked=False)
        except InputError as error:  # an encoder without features has nothing to edit by
            if kind is None:
                raise
            yield name, kind, "", "", "", f"none: {error}"[:80], ""
    for model in models_of(folder):
        metric = model.metrics["monitor"]
        trivial = model.metrics.get(f"trivial_{metric}")
        yield (
            name,
            model.title,
            f"{model.metrics['num_parameters']:,}",
            f"{model.seconds:,.0f} s",
            titled(metric),
            shown(metric, model.metrics[metric]),
            "" if trivial is None else shown(metric, trivial),
        )


def main(folder: str, *names: str):
    for unknown in set(names) - set(RECIPES):
        raise SystemExit(f"there is no recipe {unknown!r}: expected some of {', '.join(ROWS)}")
    print(f"| {' | '.join(HEADER)} |\n|{'---|' * len(HEADER)}", flush=True)
    for name in names or ROWS:
        run = Path(folder) / name
        with exclusive(run):
            for row in rows(name, run):
                print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        raise SystemExit("where should the runs lie? `dwszoo bench tasks FOLDER [RECIPE ...]`")
    main(*sys.argv[1:])
