"""The commands of `dwszoo`: one function each, called with the parsed options."""

from flows.commands.benchmarks import bench
from flows.commands.checks import doctor, plan
from flows.commands.runs import edit, evaluate, export, predict, probe, recipes, report, run, train
from flows.commands.schedules import deploy, serve
from flows.commands.zoos import (
    zoo_build,
    zoo_export,
    zoo_grow,
    zoo_import,
    zoo_info,
    zoo_merge,
    zoo_render,
    zoo_verify,
)

__all__ = [
    "bench",
    "deploy",
    "doctor",
    "edit",
    "evaluate",
    "export",
    "plan",
    "predict",
    "probe",
    "recipes",
    "report",
    "run",
    "serve",
    "train",
    "zoo_build",
    "zoo_export",
    "zoo_grow",
    "zoo_import",
    "zoo_info",
    "zoo_merge",
    "zoo_render",
    "zoo_verify",
]
