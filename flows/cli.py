"""The command `dwszoo`. Heavy packages load in the commands that need them, so that `--help` answers at once."""

import argparse
import errno
import re
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import get_args

from cluster.address import RequestError
from flows.home import usable_home
from flows.interruption import SENTENCE, exit_code, handle_signals, leave
from flows.streams import prepare_streams, reader_is_gone
from pipeline.config import ExchangeFormat
from pipeline.errors import ArchiveError, InputError, WorkError
from pipeline.location import Location, RemotePath, locate

COLOURS = re.compile(r"\x1b\[[0-9;]*m")
"""Ray writes them into its errors, whoever reads them."""
CLOSED_PIPE = 128 + signal.SIGPIPE
"""What a shell shows of a command that nobody reads from any more, as in `dwszoo zoo info DIR | head -1`."""


def command() -> None:
    prepare_streams()
    handle_signals()
    try:
        code = main()
    except SystemExit as end:  # of argparse, or of a benchmark, which may give a sentence
        code = complain(end.code, 1) if isinstance(end.code, str) else end.code or 0
    try:
        sys.stdout.flush()
    except OSError as error:
        code = CLOSED_PIPE if reader_is_gone() else complain(sentence(error), 1)
    leave(code)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit code.

    0; 1 for a failure of the work; 2 for a caller's mistake; 3 where all was done but members failed; 130 for Ctrl-C, 143
    for SIGTERM, 129 for SIGHUP; 141 where nobody reads what it prints any more.
    """
    options = parser().parse_args(arguments)
    try:
        with usable_home():
            return options.command(options) or 0
    except KeyboardInterrupt:
        with suppress(OSError):
            sys.stderr.write(SENTENCE)
        return exit_code()
    except (InputError, RequestError, ArchiveError, WorkError, OSError) as error:
        if isinstance(error, BrokenPipeError) and reader_is_gone():
            return CLOSED_PIPE
        if options.debug:
            raise
        return complain(sentence(error), 2 if isinstance(error, InputError | RequestError) else 1)


def complain(message: str, code: int) -> int:
    message = COLOURS.sub("", message)
    with suppress(OSError):  # nobody reads standard error, or its disk is full
        sys.stderr.write(f"dwszoo: {message}\n")
    return code


def sentence(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return f"the disk is full (writing {error.filename or 'a file'}): make room and run the same command again to go on"
    return str(error)


def local_path(text: str) -> Path:
    path = locate(text)
    if isinstance(path, RemotePath):
        raise argparse.ArgumentTypeError(
            f"expected a path on this machine, found {text}: only zoos may lie elsewhere"
        )
    return path


def setting(name: str, key: str, help: str) -> dict:
    """An option of its own for a field that is set often: short for `--set key=value`."""
    return {
        "names": [name],
        "dest": "settings",
        "metavar": "N",
        "action": "append",
        "type": lambda value: f"{key}={value}",
        "help": help,
    }


def parser() -> argparse.ArgumentParser:
    from flows import commands

    top = argparse.ArgumentParser(
        prog="dwszoo",
        description="Makes zoos of small neural networks and learns from their weights.",
    )
    top.add_argument("--debug", action="store_true", help="show the traceback of an error")
    groups = top.add_subparsers(required=True, metavar="COMMAND")

    def add(where, name: str, command: Callable, *arguments: dict) -> None:
        text = (command.__doc__ or "").strip()
        sub = where.add_parser(name, help=text.splitlines()[0], description=text)
        sub.set_defaults(command=command)
        for argument in arguments:
            sub.add_argument(
                *argument["names"],
                **{key: value for key, value in argument.items() if key != "names"},
            )

    recipe = {
        "names": ["recipe"],
        "metavar": "RECIPE",
        "help": "a recipe: `dwszoo recipes` lists them",
    }
    settings = {
        "names": ["--set"],
        "dest": "settings",
        "metavar": "KEY=VALUE",
        "action": "append",
        "default": [],
        "help": "override a field of the recipe, such as zoo.views=4; may be repeated",
    }
    resources = [
        setting(
            "--workers",
            "resources.workers",
            "processes that fit, and that train: resources.workers",
        ),
        setting(
            "--num-gpus",
            "resources.gpus_per_worker",
            "GPUs of each worker: resources.gpus_per_worker",
        ),
    ]
    zoo = {
        "names": ["zoo"],
        "metavar": "DIR",
        "type": locate,
        "help": "a zoo: a folder, or a URI such as s3://bucket/zoo",
    }
    zoo_option = zoo | {"names": ["--zoo"], "required": True}
    run = {
        "names": ["run"],
        "metavar": "RUN",
        "type": local_path,
        "help": "a folder that `run` or `train` made",
    }

    def out(help: str, required: bool = True, kind: Callable[[str], Location] = local_path) -> dict:
        return {
            "names": ["--out"],
            "metavar": "PATH",
            "type": kind,
            "required": required,
            "help": help,
        }

    zoo_out = out("zoo folder, or a URI such as s3://bucket/zoo", kind=locate)

    add(
        groups,
        "run",
        commands.run,
        recipe,
        settings,
        *resources,
        out("run folder; by default runs/RECIPE-FINGERPRINT", False),
    )
    add(groups, "recipes", commands.recipes, recipe | {"nargs": "?"}, settings)
    zoos = groups.add_parser("zoo", help="make and look at zoos").add_subparsers(
        required=True, metavar="COMMAND"
    )
    add(zoos, "build", commands.zoo_build, recipe, settings, *resources, zoo_out)
    add(
        zoos,
        "info",
        commands.zoo_info,
        zoo,
        {"names": ["--json"], "action": "store_true", "help": "print JSON"},
    )
    add(zoos, "verify", commands.zoo_verify, zoo)
    add(zoos, "render", commands.zoo_render, zoo, out("a .png or .svg file"))
    formats = {
        "names": ["--format"],
        "choices": get_args(ExchangeFormat),
        "required": True,
        "help": "whose layout",
    }
    add(zoos, "export", commands.zoo_export, zoo, formats, out("a new folder"))
    source = {
        "names": ["path"],
        "metavar": "PATH",
        "type": local_path,
        "help": "a folder in that layout, or its file with splits",
    }
    fields = settings | {
        "help": "what the layout does not say, such as omega=30 or splits=drawn; may be repeated"
    }
    add(zoos, "import", commands.zoo_import, source, formats, fields, zoo_out)
    merged = zoo | {
        "names": ["zoos"],
        "nargs": "+",
        "help": "zoos of one architecture: folders or URIs",
    }
    add(zoos, "merge", commands.zoo_merge, merged, zoo_out)
    add(
        groups, "train", commands.train, recipe, settings, *resources, zoo_option, out("run folder")
    )
    trust = {
        "names": ["--trust"],
        "metavar": "MODULE",
        "action": "append",
        "default": [],
        "help": "a module whose functions the run may call: of tasks and encoders of your own",
    }
    split = {
        "names": ["--split"],
        "choices": ["train", "validation", "test"],
        "default": "test",
        "help": "default: test",
    }
    add(groups, "evaluate", commands.evaluate, run, split, trust)
    add(groups, "report", commands.report, run, trust)
    add(groups, "predict", commands.predict, run, zoo_option, out("a .parquet or .csv file"), trust)
    benchmark = {"names": ["name"], "metavar": "NAME", "nargs": "?", "help": "a benchmark"}
    add(
        groups,
        "bench",
        commands.bench,
        benchmark,
        {"names": ["arguments"], "nargs": "*", "help": "what it takes"},
    )
    return top


if __name__ == "__main__":
    command()
