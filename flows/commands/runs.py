"""Commands that run recipes, and train, score and use models."""

from argparse import Namespace

from flows.commands.zoos import tell_failed


def run(options: Namespace) -> int:
    """Build a zoo, verify it, train a DWSNet and baselines on it, evaluate and report.

    Run again, it continues where it stopped.
    """
    from flows.overrides import resolve_training
    from flows.recipe import default_folder
    from flows.server import perform, prefect_server
    from pipeline.archive.files import exclusive
    from pipeline.training.checkpoint_folders import checkpoint_folder

    recipe = resolve_training(options.recipe, options.settings)
    folder = options.out or default_folder(options.recipe, recipe)
    with exclusive(folder):
        pass  # fail before a server is started
    with prefect_server() as is_up:
        from flows import run as flow  # heavy: while it is imported, the server starts

        result = perform(flow.run, is_up, options.recipe, folder, tuple(options.settings))
    metrics, folder = result["metrics"], result["run"]
    print(f"zoo         {folder / 'zoo'}")
    print(f"checkpoint  {checkpoint_folder(folder, next(iter(metrics.values()))['epoch'])}")
    print(f"report      {result['report']}")
    titles = [variant.title(recipe.required_training) for variant in metrics]
    width = max(11, *map(len, titles))
    for title, scores in zip(titles, metrics.values(), strict=True):
        print(f"{title:<{width}} {score_line(scores)}")
    return tell_failed(folder / "zoo")


def score_line(metrics: dict) -> str:
    from pipeline.training.evaluate import scalars, shown, titled

    figures = ", ".join(f"{titled(name)} {shown(name, value)}" for name, value in scalars(metrics))
    return (
        f"{figures} on {metrics['num_members']:,} networks of the {metrics['split']} split "
        f"({metrics['num_parameters']:,} parameters)"
    )


def recipes(options: Namespace):
    """List the recipes, or print one as TOML with the meaning of each field.

    To change a recipe: `dwszoo recipes digits > mine.toml`, edit it, then `dwszoo run mine.toml`.
    """
    from flows.overrides import resolve_recipe
    from flows.recipe_file import write_toml
    from flows.recipes import RECIPES

    if options.recipe is None:
        width = max(map(len, RECIPES))
        for name, make in RECIPES.items():
            print(f"{name:<{width}} {(make.__doc__ or '').splitlines()[0]}")
        return
    recipe = resolve_recipe(options.recipe, options.settings)
    meaning = RECIPES[options.recipe].__doc__ if options.recipe in RECIPES else "a whole recipe."
    print(write_toml(recipe, f"{options.recipe}: {meaning}"), end="")


def train(options: Namespace):
    """Train on a zoo. Run again, it resumes from the newest checkpoint."""
    from flows import verbs
    from flows.server import own_server, perform

    settings, trust = tuple(options.settings), tuple(options.trust)
    with own_server() as is_up:
        perform(verbs.train, is_up, options.recipe, str(options.zoo), options.out, settings, trust)
    print(f"{options.out} is trained; `dwszoo evaluate {options.out}` scores it")


def evaluate(options: Namespace):
    """Score the best checkpoint of a run: metrics.json, or metrics-SPLIT.json for other splits."""
    from flows import verbs
    from flows.server import own_server, perform

    with own_server() as is_up:
        metrics = perform(verbs.evaluate, is_up, options.run, options.split, tuple(options.trust))
    print(score_line(metrics))


def report(options: Namespace):
    """Draw the report of a run, whatever zoo it was trained on."""
    from flows.stages import assess

    assess.require_run(options.run)
    print(assess.report(options.run, options.trust))


def probe(options: Namespace):
    """Fit linear probes to the frozen encoder of a run, with few labels and with all."""
    from flows.stages import assess
    from pipeline.training.probe import probe_table

    assess.require_run(options.run)
    readings = assess.probe(options.run, options.zoo, options.targets, options.trust)
    table = probe_table(readings)
    rows = [table.columns, *table.rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(map(str.ljust, row, widths)).rstrip())


def export(options: Namespace):
    """Write the best model of a run as a Hugging Face model folder: config, weights and card.

    `predict`, `edit` and training.start.checkpoint take the folder like the run.
    """
    from flows.stages import assess

    assess.require_run(options.run)
    assess.export(options.run, options.out, options.trust)
    print(f"{options.out}: the best model of {options.run}; choose a licence in its README.md")


def predict(options: Namespace):
    """Write predictions for all members of a zoo of the same architecture, as Parquet or CSV."""
    from flows.stages import assess
    from pipeline.archive.zoo import Zoo
    from pipeline.training.checkpoint import load_best
    from pipeline.training.evaluate import write_predictions

    assess.require_model(options.run)
    trained = load_best(options.run, options.trust)
    num_members = write_predictions(trained, Zoo.open(options.zoo), options.out)
    print(f"{options.out}: {num_members:,} predictions")


def edit(options: Namespace) -> int:
    """Edit all members of a zoo by the model of a run, into a new zoo.

    Run again, it continues where it stopped.
    """
    from flows import verbs
    from flows.server import own_server, perform

    places = options.run, str(options.zoo), str(options.out)
    with own_server() as is_up:
        zoo = perform(verbs.edit, is_up, *places, tuple(options.trust))
    record = zoo.record
    larger = f", {record.architecture}" if record.tensors != record.edited.tensors else ""
    print(f"{options.out}: {len(zoo):,} members of {options.zoo} edited{larger}")
    return tell_failed(options.out)
