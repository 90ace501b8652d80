"""The commands of `dwszoo` and their options; `flows.commands` has the function of each."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, get_args

from flows import commands
from pipeline.config import ExchangeFormat
from pipeline.location import Location, RemotePath, locate


class Argument(NamedTuple):
    names: tuple[str, ...]
    options: dict[str, Any]


def argument(*names: str, **options: Any) -> Argument:
    """The arguments of `argparse.ArgumentParser.add_argument`."""
    return Argument(names, options)


class Version(argparse.Action):
    """Prints versions, one per line; they are read only if asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any):
        from flows.versions import versions

        sys.stdout.write("".join(f"{name} {text}\n" for name, text in versions().items()))
        parser.exit()


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="dwszoo",
        description="Makes zoos of small neural networks and learns from their weights.",
    )
    top.add_argument("--debug", action="store_true", help="show the traceback of an error")
    top.add_argument("--version", action=Version, nargs=0, help="show versions and exit")
    groups = top.add_subparsers(required=True, metavar="COMMAND")
    add_recipe_commands(groups)
    zoos = groups.add_parser("zoo", help="make and inspect zoos")
    add_zoo_commands(zoos.add_subparsers(required=True, metavar="COMMAND"))
    add_run_commands(groups)
    disk = out("a folder for runs: can all nodes write to it?", required=False)
    add(groups, "doctor", commands.doctor, disk)
    name = argument("name", metavar="NAME", nargs="?", help="a benchmark")
    arguments = argument("arguments", nargs="*", help="its arguments")
    add(groups, "bench", commands.bench, name, arguments)
    return top


def add_recipe_commands(groups: Any) -> None:
    default = "run folder; by default runs/RECIPE-FINGERPRINT"
    add(groups, "run", commands.run, RECIPE, SETTINGS, *RESOURCES, out(default, required=False))
    add(groups, "plan", commands.plan, RECIPE, SETTINGS, *RESOURCES, out(default, False), JSON)
    schedule = argument(
        "schedule",
        metavar="FILE",
        type=local_path,
        help="a .toml or .json file with a table for each scheduled run",
    )
    add(groups, "serve", commands.serve, schedule)
    pool = argument("--pool", metavar="NAME", required=True, help="a work pool of the server")
    add(groups, "deploy", commands.deploy, schedule, pool)
    add(groups, "recipes", commands.recipes, recipe(nargs="?"), SETTINGS)


def add_zoo_commands(groups: Any) -> None:
    format = argument(
        "--format", choices=get_args(ExchangeFormat), required=True, help="layout of the files"
    )
    source = argument(
        "path",
        metavar="PATH",
        type=local_path,
        help="a folder in that layout, or its file of splits",
    )
    fields = settings("a field that the layout lacks, such as omega=30 or splits=drawn")
    several = argument(
        "zoos",
        metavar="DIR",
        type=locate,
        nargs="+",
        help="zoos of one architecture: folders or URIs",
    )
    add(
        groups,
        "build",
        commands.zoo_build,
        recipe("the zoo.json of a zoo"),
        SETTINGS,
        *RESOURCES,
        ZOO_OUT,
        TRUST,
    )
    views = argument(
        "--views",
        metavar="N",
        default="+0",
        help="INRs per signal, or +N for N more; by default only new signals are added",
    )
    add(groups, "grow", commands.zoo_grow, ZOO, views, *RESOURCES, TRUST)
    add(groups, "info", commands.zoo_info, ZOO, JSON)
    add(groups, "verify", commands.zoo_verify, ZOO)
    add(groups, "render", commands.zoo_render, ZOO, out("a .png or .svg file"), TRUST)
    add(groups, "export", commands.zoo_export, ZOO, format, out("a new folder"))
    add(groups, "import", commands.zoo_import, source, format, fields, ZOO_OUT)
    add(groups, "merge", commands.zoo_merge, several, ZOO_OUT)


def add_run_commands(groups: Any) -> None:
    zoo = argument("--zoo", metavar="DIR", type=locate, required=True, help=ZOO.options["help"])
    other = argument("--zoo", metavar="DIR", type=locate, help="a zoo; by default the run's own")
    target = argument(
        "--target",
        dest="targets",
        metavar="COLUMN",
        action="append",
        default=[],
        help="column of the catalog, by default the class and facts of signals; may be repeated",
    )
    made = "a folder that `run` or `train` made"
    run = argument("run", metavar="RUN", type=local_path, help=made)
    model = argument("run", metavar="RUN", type=local_path, help=f"{made}, or `export`")
    split = argument(
        "--split",
        choices=["train", "validation", "test"],
        default="test",
        help="default: test",
    )
    folder = out("run folder")
    add(groups, "train", commands.train, RECIPE, SETTINGS, *RESOURCES, zoo, folder, TRUST)
    add(groups, "evaluate", commands.evaluate, run, split, TRUST)
    add(groups, "report", commands.report, run, TRUST)
    add(groups, "probe", commands.probe, run, other, target, TRUST)
    add(groups, "export", commands.export, run, out("a new folder"), TRUST)
    add(groups, "predict", commands.predict, model, zoo, out("a .parquet or .csv file"), TRUST)
    add(groups, "edit", commands.edit, model, zoo, ZOO_OUT, TRUST)


def add(groups: Any, name: str, command: Callable, *arguments: Argument) -> None:
    """Add a command, described by the docstring of its function."""
    text = (command.__doc__ or "").strip().replace("%", "%%")  # argparse formats what it shows
    sub = groups.add_parser(name, help=text.splitlines()[0], description=text)
    sub.set_defaults(command=command)
    for names, options in arguments:
        sub.add_argument(*names, **options)


def local_path(text: str) -> Path:
    path = locate(text)
    if isinstance(path, RemotePath):
        raise argparse.ArgumentTypeError(
            f"expected a path on this machine, found {text}: only zoos can be at a URI"
        )
    return path


def recipe(*others: str, **options: Any) -> Argument:
    kinds = (
        "a recipe (`dwszoo recipes` lists them)",
        "a .toml or .json file",
        *others,
        "or package.module:function",
    )
    return argument("recipe", metavar="RECIPE", help=", ".join(kinds), **options)


def settings(help: str) -> Argument:
    return argument(
        "--set",
        dest="settings",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help=f"{help}; may be repeated",
    )


def setting(name: str, key: str, help: str) -> Argument:
    """A shorthand for `--set key=value`, for a field that is set often."""
    return argument(
        name,
        dest="settings",
        metavar="N",
        action="append",
        default=[],
        type=lambda value: f"{key}={value}",
        help=f"{help}: {key}",
    )


def out(help: str, required: bool = True, kind: Callable[[str], Location] = local_path) -> Argument:
    return argument("--out", metavar="PATH", type=kind, required=required, help=help)


JSON = argument("--json", action="store_true", help="print JSON")
RECIPE = recipe()
SETTINGS = settings("override a field of the recipe, such as zoo.views=4")
RESOURCES = (
    setting("--workers", "resources.workers", "processes that fit and train"),
    setting("--num-gpus", "resources.gpus_per_worker", "GPUs per worker"),
)
TRUST = argument(
    "--trust",
    metavar="MODULE",
    action="append",
    default=[],
    help="allow calls to this module, for a run with a task or encoder of your own, or a zoo with "
    "signals of your own; may be repeated",
)
ZOO_OUT = out("zoo folder, or a URI such as s3://bucket/zoo", kind=locate)
ZOO = argument(
    "zoo", metavar="DIR", type=locate, help="a zoo: a folder, or a URI such as s3://bucket/zoo"
)
