"""Commands that run recipes on a schedule: in this process, or on the workers of a pool."""

from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import InputError

if TYPE_CHECKING:
    from flows.schedule import ScheduledRun


def serve(options: Namespace):
    """Run recipes on a schedule until stopped; docs/guide/schedules.md describes the file.

    The server at PREFECT_API_URL keeps the schedules and shows the runs; if it is not set, a
    temporary server does.
    """
    from flows.server import own_url, prefect_server
    from flows.shadows import require_no_shadows

    runs = runs_of(options.schedule)
    require_no_shadows(Path.cwd())
    with prefect_server(serves=True) as is_up:
        from flows.serve import serve_runs

        is_up()
        print_runs(runs)
        print(f"Prefect's server: {own_url()}", flush=True)
        serve_runs(runs)


def deploy(options: Namespace):
    """Register scheduled runs with the Prefect server at PREFECT_API_URL, for a pool to run.

    Takes the same file as `dwszoo serve`.
    """
    from flows.server import own_url, prefect_server

    runs = runs_of(options.schedule)
    if (url := own_url()) is None:
        raise InputError(
            "deployments need a permanent Prefect server: start one with `prefect server start`, "
            "and set PREFECT_API_URL to its address, such as http://127.0.0.1:4200/api"
        )
    with prefect_server() as is_up:
        is_up()
        from flows.deployments import deploy_runs

        deploy_runs(runs, options.pool)
    print_runs(runs)
    print(
        f"deployed on {options.pool} of {url}; `prefect worker start --pool {options.pool}` runs "
        "them"
    )


def runs_of(file: Path) -> "dict[str, ScheduledRun]":
    """The runs of a schedule file. Raises InputError if one is wrong or its recipe cannot run."""
    from flows.nightly import require_inrs
    from flows.overrides import resolve_training
    from flows.schedule import read_schedule
    from pipeline.signals import require_path

    runs = read_schedule(file)
    for run in runs.values():
        recipe = resolve_training(run.recipe, run.settings)
        require_inrs(recipe)
        require_path(recipe.zoo.signals)
    return runs


def print_runs(runs: "dict[str, ScheduledRun]"):
    for name, run in runs.items():
        print(f"{name}: {run.recipe} in {run.out}, {run.when}")
