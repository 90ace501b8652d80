"""What can be known before work starts."""

import json
from argparse import Namespace


def doctor(options: Namespace) -> int:
    """Check this installation, and the cluster at RAY_ADDRESS: a line each, with what to do where something is wrong.

    Exit code 1 where anything is.
    """
    from flows.doctor import findings

    all_well = True
    for check, is_well, text in findings(options.out):
        print(f"{check:<10} {'ok     ' if is_well else 'PROBLEM'} {text}", flush=True)
        all_well &= is_well
    return 0 if all_well else 1


def plan(options: Namespace) -> int:
    """What `dwszoo run RECIPE` would do, how long it would take, what of it is done and what is lacking for it.

    Measured in a few seconds on this machine; nothing is written. Exit code 1 where something is lacking.
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
