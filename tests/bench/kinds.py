"""Every kind of INR on the digits: `python -m tests.bench.kinds FOLDER [KIND ...]`.

Runs the recipe `digits` with INRs of each kind, of the recipe's widths and otherwise at the kind's
defaults, and prints a table in Markdown: how well and how fast they are fitted, and how many a
DWSNet classifies by their weights. Where coordinates are encoded, the DWSNet shares parameters
among the inputs of the INRs, which keeps it as large as for the others. INRs/s are of one core, by
CPU time. Run again, it continues where it stopped: what is in FOLDER is not repeated.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from flows.recipe import Recipe
from flows.recipes import digits
from flows.run import run_stages
from pipeline.archive.zoo import Zoo
from pipeline.config import AnyInrConfig, InrConfig
from pipeline.decode import ODD
from pipeline.fit.timing import seconds_of
from pipeline.progress import no_progress
from pipeline.report.models import models_of
from pipeline.unions import kinds_of, models_in
from pipeline.zoos.build import plan_members
from tests.bench.table import print_table

KINDS = {kinds_of(model)[0]: model for model in models_in(AnyInrConfig)}
HEADER = (
    *("kind", "parameters", "learning rate", "PSNR, median and 5 %", "off the grid", "steps"),
    *("INRs/s of a core", "parameters of the DWSNet", "training", "accuracy"),
)
POSITIONS = 4
"""Size of the DWSNet's embedding of the inputs of INRs."""
TIMED = 256
"""INRs that are fitted to measure the speed."""


def recipe_of(kind: str) -> Recipe:
    """The recipe `digits` with INRs of a kind."""
    recipe = digits()
    inr = KINDS[kind].model_validate({"hidden": recipe.zoo.inr.hidden})
    training, is_odd = recipe.training, inr.activation in ODD
    changed = {"canonical_signs": is_odd, "positions": POSITIONS if inr.frequencies(2) else 0}
    encoder = training.encoder.model_copy(update=changed)
    return recipe.model_copy(
        update={
            "zoo": recipe.zoo.model_copy(update={"inr": inr}),
            "training": training.model_copy(update={"encoder": encoder, "baselines": ()}),
        }
    )


def rate(recipe: Recipe) -> float:
    """INRs/s of one core."""
    torch.set_num_threads(1)
    plan = plan_members(recipe.zoo.model_copy(update={"shard_size": TIMED}))
    seconds = [
        seconds_of(lambda: plan.kind.fit_members(plan.shards[0], "cpu", no_progress), "cpu")
        for _ in range(2)
    ]
    return TIMED / min(seconds)


def rows(kind: str, run: Path) -> Iterator[tuple[str, ...]]:
    """The row of a kind."""
    recipe = recipe_of(kind)
    run_stages(recipe, run)
    zoo, model = Zoo.open(run / "zoo"), models_of(run)[0]
    inr: InrConfig = recipe.zoo.inr
    psnr, off_grid, steps = (
        zoo.catalog[name].drop_null().to_numpy() for name in ("psnr", "psnr_off_grid", "steps")
    )
    yield (
        f"`{kind}`",
        f"{zoo.space.num_parameters:,}",
        f"{recipe.zoo.fit.learning_rate * inr.learning_rate_factor:g}",
        f"{np.median(psnr):.1f}, {np.quantile(psnr, 0.05):.1f} dB",
        f"{np.median(off_grid):.1f} dB",
        f"{np.median(steps):.0f}",
        f"{rate(recipe):,.0f}",
        f"{model.metrics['num_parameters']:,}",
        f"{model.seconds:,.0f} s",
        f"{100 * model.metrics['accuracy']:.1f} %",
    )


def main(folder: str, *kinds: str):
    for unknown in set(kinds) - set(KINDS):
        raise SystemExit(f"there is no kind {unknown!r}: expected some of {', '.join(KINDS)}")
    print_table(HEADER, kinds or tuple(KINDS), rows, folder)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        raise SystemExit("where should the runs lie? `dwszoo bench kinds FOLDER [KIND ...]`")
    main(*sys.argv[1:])
