"""What each command of `dwszoo` does with its parsed options."""

import ast
import json
import runpy
import sys
from argparse import Namespace
from pathlib import Path

from pipeline.errors import ArchiveError, InputError
from pipeline.location import Location

MEMBERS_FAILED = 3
"""Exit code of a command that did all it could, for a zoo with members that have no weights."""
LISTED = 20
"""Problems of an import that are printed."""


def run(options: Namespace) -> int:
    """The whole job: build a zoo, verify it, train a DWSNet and baselines on it, evaluate, report.

    Run again, it goes on where it stopped.
    """
    from flows.overrides import resolve_training
    from flows.recipe import default_folder
    from flows.server import prefect_server
    from pipeline.training.checkpoint_folders import checkpoint_folder

    recipe = resolve_training(options.recipe, options.settings)
    folder = options.out or default_folder(options.recipe, recipe)
    with prefect_server() as is_up:
        # Prefect has its settings only now; and while it is imported, its server starts.
        from flows.run import run_recipe

        result = run_recipe(options.recipe, options.settings, folder, tracked=is_up())
    metrics = result["metrics"]
    print(f"zoo         {folder / 'zoo'}")
    print(f"checkpoint  {checkpoint_folder(folder, next(iter(metrics.values()))['epoch'])}")
    print(f"report      {result['report']}")
    titles = [variant.title(recipe.training) for variant in metrics]
    width = max(11, *map(len, titles))
    for title, scores in zip(titles, metrics.values(), strict=True):
        print(f"{title:<{width}} {score_line(scores)}")
    return tell_failed(folder / "zoo")


def tell_failed(zoo: Location) -> int:
    """Print how many members have no weights, and why, if there are such; returns the exit code."""
    from pipeline.archive.summary import failures
    from pipeline.archive.zoo import Zoo

    failed = failures(Zoo.open(zoo))
    if not failed:
        return 0
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in failed.items())
    print(f"failed      {sum(failed.values()):,} members have no weights: {reasons}")
    return MEMBERS_FAILED


def score_line(metrics: dict) -> str:
    from pipeline.training.evaluate import scalars, shown, titled

    figures = ", ".join(f"{titled(name)} {shown(name, value)}" for name, value in scalars(metrics))
    return (
        f"{figures} on {metrics['num_members']:,} networks of the {metrics['split']} split "
        f"({metrics['num_parameters']:,} parameters)"
    )


def serve(options: Namespace):
    """Run recipes on the schedules of a file until stopped; see the README for what such a file holds.

    With PREFECT_API_URL the server there keeps the schedules and shows the runs, without a temporary server does.
    """
    from flows.overrides import resolve_training
    from flows.schedule import read_schedule
    from flows.server import own_url, prefect_server

    runs = read_schedule(options.schedule)
    for run in runs.values():
        resolve_training(run.recipe, run.settings)
    with prefect_server(serves=True) as is_up:
        from flows.serve import serve_runs

        is_up()
        for name, run in runs.items():
            print(f"{name}: {run.recipe} in {run.out}, {run.when}")
        print(f"Prefect's server: {own_url()}", flush=True)
        serve_runs(runs)


def recipes(options: Namespace):
    """List the recipes, or write one as a TOML file that says what each field means.

    `dwszoo recipes digits > mine.toml`, then change it, then `dwszoo run mine.toml`.
    """
    from flows.overrides import resolve_recipe
    from flows.recipe_file import write_toml
    from flows.recipes import RECIPES

    if options.recipe is None:
        width = max(map(len, RECIPES))
        for name, recipe in RECIPES.items():
            print(f"{name:<{width}} {recipe.__doc__.splitlines()[0]}")
        return
    recipe = resolve_recipe(options.recipe, options.settings)
    meaning = RECIPES[options.recipe].__doc__ if options.recipe in RECIPES else "a whole recipe."
    print(write_toml(recipe, f"{options.recipe}: {meaning}"), end="")


def zoo_build(options: Namespace) -> int:
    """Fit and archive a zoo. Run again, it goes on where it stopped and fits damaged shards again."""
    from cluster.session import ray_session
    from flows.overrides import resolve_recipe
    from flows.progress import figure
    from flows.stages import build
    from pipeline.archive.files import exclusive
    from pipeline.archive.write import pending_shards
    from pipeline.zoos import KINDS

    recipe = resolve_recipe(options.recipe, options.settings)
    with exclusive(options.out):
        plan = build.plan(recipe.zoo, options.out)
        needs_ray = bool(pending_shards(options.out))
        with ray_session(
            recipe.resources.workers, recipe.resources.gpus_per_worker, start=needs_ray
        ):
            summary = build.fit_zoo(plan, options.out, recipe.resources)
        build.archive(options.out, fitted=summary is not None)
        build.verify(options.out)
    if summary is None:
        print(f"{options.out} is complete: all {len(plan.shards)} shards were committed")
    else:
        name = KINDS[recipe.zoo.kind].members
        fitted = f"{summary.num_members:,} {name} fitted at {figure(summary.rate)} {name}/s"
        print(f"{options.out}: {fitted}, {summary.num_failed} failed")
    return tell_failed(options.out)


def zoo_info(options: Namespace):
    """Counts, splits, quantiles of PSNR or accuracy, size and configuration of a zoo."""
    from pipeline.archive.summary import in_words, summarize
    from pipeline.archive.zoo import Zoo

    summary = summarize(Zoo.open(options.zoo))
    if options.json:
        print(json.dumps(summary, indent=2))
        return
    for key, value in summary.items():
        if value != {}:
            print(f"{key:<13} {in_words(value)}")


def zoo_verify(options: Namespace):
    """Check every shard against the catalog; list what is wrong."""
    from pipeline.archive.verify import verify_zoo
    from pipeline.archive.zoo import Zoo

    zoo = Zoo.open(options.zoo)
    if problems := verify_zoo(zoo):
        for problem in problems:
            print(problem)
        state = "" if zoo.is_sealed else f", as it is not finished ({zoo.state})"
        raise ArchiveError(f"zoo {options.zoo} has {len(problems)} problems, listed above{state}")
    print(f"{options.zoo} is sound: {len(zoo.record.shards)} shards, {len(zoo):,} members")


def zoo_render(options: Namespace):
    """Draw originals beside the reconstructions of their INRs, or how accurate classifiers are and why."""
    from pipeline.archive.files import file_kind
    from pipeline.archive.zoo import Zoo
    from pipeline.figures.picture import KINDS
    from pipeline.report.accuracies import ACCURACY, draw_accuracies
    from pipeline.report.pictures import draw_reconstructions

    file_kind(options.out, *KINDS)
    zoo = Zoo.open(options.zoo, options.trust)
    draw = draw_accuracies if ACCURACY in zoo.catalog.column_names else draw_reconstructions
    draw(zoo, options.out)
    print(options.out)


def zoo_export(options: Namespace):
    """Write the members of a zoo in a layout that other projects read."""
    from flows.stages import convert

    num_members, num_failed = convert.export(options.zoo, options.format, options.out)
    print(
        f"{options.out}: {num_members:,} members as {options.format}"
        + (f"; {num_failed:,} have no weights" if num_failed else "")
    )


def zoo_import(options: Namespace) -> int:
    """Make a zoo of networks that another project keeps in its own layout. Run again, it goes on where it stopped.

    What is damaged is listed, all else is imported.
    """
    from flows.overrides import override
    from flows.stages import build, convert
    from pipeline.archive.files import exclusive
    from pipeline.config import ImportConfig

    config = override(ImportConfig(format=options.format, path=options.path), options.settings)
    with exclusive(options.out):
        zoo, left_out = convert.import_zoo(config, options.out)
        build.verify(options.out)
    failed = [row for row in zoo.catalog.to_pylist() if row["status"] == "failed"]
    print(f"{options.out}: {len(zoo):,} members imported, {len(failed):,} without weights")
    problems = [
        *left_out,
        *(f"{row.get('source') or row['key']}: {row['stop_reason']}" for row in failed),
    ]
    for problem in problems[:LISTED]:
        print(f"    {problem}")
    if len(problems) > LISTED:
        print(f"    and {len(problems) - LISTED:,} more")
    return MEMBERS_FAILED if problems else 0


def zoo_merge(options: Namespace):
    """Join zoos of one architecture into a new one, splits kept. Run again, it goes on where it stopped."""
    from flows.stages import build, convert
    from pipeline.archive.files import exclusive

    with exclusive(options.out):
        zoo = convert.merge_zoos(options.zoos, options.out)
        build.verify(options.out)
    print(f"{options.out}: {len(zoo):,} members of {len(options.zoos)} zoos")


def train(options: Namespace):
    """Train on a zoo. Run again, it goes on from the newest checkpoint."""
    from cluster.session import ray_session
    from flows.overrides import resolve_training
    from flows.stages import build, learn
    from pipeline.archive.files import exclusive
    from pipeline.archive.zoo import Zoo
    from pipeline.functions import modules_named
    from pipeline.training.launch import is_trained

    recipe = resolve_training(options.recipe, options.settings)
    trusted = modules_named(recipe).union(options.trust)
    build.verify(options.zoo)
    learn.check_task(Zoo.open(options.zoo, trusted), recipe.training)
    with exclusive(options.out):
        done = is_trained(options.out, recipe.training)
        with ray_session(
            recipe.resources.workers,
            recipe.resources.gpus_per_worker,
            start=not done,
            fewest=recipe.resources.fewest,
        ):
            learn.train(
                options.zoo, options.out, recipe.training, recipe.resources, trusted=trusted
            )
    print(f"{options.out} is trained; `dwszoo evaluate {options.out}` scores it")


def evaluate(options: Namespace):
    """Score the best checkpoint of a run: metrics.json for the test split, metrics-SPLIT.json for another."""
    from flows.stages import assess

    require_run(options.run)
    print(score_line(assess.evaluate(options.run, options.split, options.trust)))


def report(options: Namespace):
    """Draw the report of a run, whatever zoo it was trained on."""
    from flows.stages import assess

    require_run(options.run)
    print(assess.report(options.run, options.trust))


def probe(options: Namespace):
    """Read classes and numbers from the frozen encoder of a run by linear models, at 1, 10 and 100 % of the labels."""
    from flows.stages import assess
    from pipeline.training.probe import probe_table

    require_run(options.run)
    readings = assess.probe(options.run, options.zoo, options.targets, options.trust)
    table = probe_table(readings)
    rows = [table.columns, *table.rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(map(str.ljust, row, widths)).rstrip())


def predict(options: Namespace):
    """Predict for every member of a zoo of the same architecture, as a table in Parquet or CSV."""
    from pipeline.archive.zoo import Zoo
    from pipeline.training.checkpoint import load_best
    from pipeline.training.evaluate import write_predictions

    require_run(options.run)
    trained = load_best(options.run, options.trust)
    num_members = write_predictions(trained, Zoo.open(options.zoo), options.out)
    print(f"{options.out}: {num_members:,} predictions")


def edit(options: Namespace) -> int:
    """Edit every member of a zoo with the model of a run, into a new zoo. Run again, it goes on where it stopped."""
    from flows.stages import build, convert
    from pipeline.archive.files import exclusive

    require_run(options.run)
    with exclusive(options.out):
        zoo = convert.edit_zoo(options.run, options.zoo, options.out, options.trust)
        build.verify(options.out)
    record = zoo.record
    larger = f", {record.architecture}" if record.tensors != record.edited.tensors else ""
    print(f"{options.out}: {len(zoo):,} members of {options.zoo} edited{larger}")
    return tell_failed(options.out)


def bench(options: Namespace):
    """List the benchmarks, or run one: each measures ours beside a named reference in the same run."""
    root = Path(__file__).parents[1]
    files = {
        file.stem: file
        for file in sorted((root / "tests" / "bench").glob("[!_]*.py"))
        if has_main(file)
    }
    if not files:
        raise InputError(
            f"benchmarks come with the source: expected {root / 'tests' / 'bench'}, found none"
        )
    if options.name is None:
        for name, file in files.items():
            print(f"{name:<8} {ast.get_docstring(ast.parse(file.read_bytes())).splitlines()[0]}")
    elif options.name in files:
        sys.path.insert(0, str(root))
        sys.argv[1:] = options.arguments
        runpy.run_module(f"tests.bench.{options.name}", run_name="__main__")
    else:
        raise InputError(
            f"there is no benchmark {options.name!r}: expected one of {', '.join(files)}"
        )


def has_main(file: Path) -> bool:
    return b"__main__" in file.read_bytes()


def require_run(folder: Path):
    if not (folder / "config.json").is_file():
        raise InputError(
            f"{folder} is not a run: expected a folder with config.json; `dwszoo train` or `dwszoo run` makes one"
        )
