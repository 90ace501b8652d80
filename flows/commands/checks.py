"""Commands for before the work starts: check an installation, plan a run."""

import json
from argparse import Namespace


def doctor(options: Namespace) -> int:
    """Check this installation and the cluster at RAY_ADDRESS.

    Prints one line per check, with what to do if something is wrong; the exit code is then 1.
    """
    from flows.doctor import findings

    all_well = True
    for check, is_well, text in findings(options.out):
        print(f"{check:<10} {'ok     ' if is_well else 'PROBLEM'} {text}", flush=True)
        all_well &= is_well
    return 0 if all_well else 1


def plan(options: Namespace) -> int:
    """Show what `dwszoo run RECIPE` would do, how long it would take, and what is missing for it.

    Work that is already done is subtracted. Measures for a few seconds on this machine, and writes
    nothing. Exit code 1 if workers, GPUs or disk space are missing.
    """
    from flows.forecast.forecast import forecast
    from flows.forecast.table import as_json, lines
    from flows.overrides import resolve_recipe
    from flows.recipe import default_folder

    recipe = resolve_recipe(options.recipe, options.settings)
    found = forecast(recipe, options.out or default_folder(options.recipe, recipe))
    if options.json:
        print(json.dumps(as_json(found), indent=2))
    else:
        print(*lines(found), sep="\n")
    return 1 if found.lacking else 0
