"""Checks of an installation; each reports what it found, or what is wrong and what to do."""

import logging
import os
import platform
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.metadata import metadata, requires
from pathlib import Path
from typing import NamedTuple

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from cluster.address import RequestError, find_cluster
from cluster.nodes import OURS, Around, installed, look_around, marked
from cluster.session import connected, is_local, ray_session
from flows.server import own_url, prefect_server
from flows.versions import PACKAGE, versions
from pipeline.errors import InputError, WorkError

LAYERS = "dwsnet"
"""The distribution of only the layers."""
DRIVER = Path("/proc/driver/nvidia/gpus")
"""Has a folder for each GPU known to NVIDIA's driver."""


class Finding(NamedTuple):
    check: str
    is_well: bool
    text: str
    """What was found, or what is wrong and what to do about it."""


def findings(folder: Path | None) -> Iterator[Finding]:
    """One or more findings per check, as they are made; `folder` is for runs."""
    checks = {"packages": packages, "kernel": kernel, "gpu": gpu, "prefect": prefect}
    for name, check in checks.items():
        yield examine(name, check)
    if folder is not None:
        found = examine("folder", partial(room, folder))
        yield found
        folder = folder if found.is_well else None
    if is_local():
        yield examine("ray", local_ray)
    else:
        yield from cluster(folder)


def examine(name: str, check: Callable[[], str]) -> Finding:
    """The finding of a check: its result, or the message of an error or of our first warning."""
    with our_warnings() as warnings:
        try:
            text = check()
        except (InputError, RequestError, WorkError, OSError) as error:
            return Finding(name, False, str(error))
    return Finding(name, not warnings, warnings[0] if warnings else text)


@contextmanager
def our_warnings() -> Iterator[list[str]]:
    """Collects the warnings that our own packages log in the block."""
    messages: list[str] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord):
            messages.append(record.getMessage())

    handler = Collector(logging.WARNING)
    handler.addFilter(lambda record: record.name.partition(".")[0] in OURS)
    logging.getLogger().addHandler(handler)
    try:
        yield messages
    finally:
        logging.getLogger().removeHandler(handler)


def packages() -> str:
    """Raises InputError if the version of Python or of a package is not supported."""
    python, wanted = platform.python_version(), metadata(PACKAGE)["Requires-Python"]
    if python not in SpecifierSet(wanted):
        raise InputError(f"Python must be {wanted}, found {python}: make .venv with another")
    for line in requires(PACKAGE) or ():
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            require(requirement)
    if installed(LAYERS) != "none":
        raise InputError(
            f"the distributions {PACKAGE} and {LAYERS} are both installed and have the same "
            f"package {LAYERS}: pip uninstall {LAYERS}, then install {PACKAGE} again"
        )
    return ", ".join(f"{name} {version}" for name, version in versions().items())


def require(requirement: Requirement):
    """Raises InputError if a package is missing or has another version than required."""
    found = installed(requirement.name)
    if found == "none" or not requirement.specifier.contains(found, prereleases=True):
        raise InputError(
            f"{requirement.name} must be {requirement.specifier or 'installed'}, found {found}: "
            f"pip install '{requirement}'"
        )


def kernel() -> str:
    """Whether there is a compiled kernel; a warning says why not."""
    from pipeline.fit.kernel import load_kernel

    return "INRs are fitted by the compiled kernel" if load_kernel() else "PyTorch fits INRs"


def gpu() -> str:
    """The names of GPUs. Raises InputError if there is a GPU that PyTorch cannot use."""
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        return ", ".join(names)
    known = len(list(DRIVER.iterdir())) if DRIVER.is_dir() else 0
    if known:
        raise InputError(
            f"this machine has {known} GPUs of which PyTorch {torch.__version__} sees none: "
            "install PyTorch's CUDA build for the version of the driver, and check "
            "CUDA_VISIBLE_DEVICES"
        )
    return "none: everything runs on CPUs"


def prefect() -> str:
    """Raises InputError if the user's own server does not answer; a temporary one only warns."""
    own = own_url()
    with prefect_server() as is_up:
        is_up()
    return f"the server at {own} answers" if own else "a temporary server starts, and answers"


def room(folder: Path) -> str:
    """The free space in a folder. Raises InputError if it is not writable."""
    try:
        with marked(folder):
            free = shutil.disk_usage(folder).free
    except OSError as error:
        raise InputError(
            f"{folder} cannot be written to ({error.strerror}): make it, or name another with --out"
        ) from error
    return f"{folder} can be written, {free / 1e9:,.0f} GB are free"


def local_ray() -> str:
    with ray_session(1):
        return f"starts on this machine ({os.cpu_count()} cores); RAY_ADDRESS would name a cluster"


def cluster(folder: Path | None) -> Iterator[Finding]:
    """Findings about the cluster at RAY_ADDRESS and its nodes."""
    looks: list[Around] = []

    def answers() -> str:
        address = find_cluster(os.environ["RAY_ADDRESS"])
        with connected(address=address):
            looks.append(look_around(folder))
        return f"the cluster at {address} answers"

    yield examine("ray", answers)
    for around in looks:
        problems = around.differences + around.clocks
        for problem in problems:
            yield Finding("nodes", False, problem)
        if not problems:
            sees = "" if folder is None else f", {folder}"
            alike = f"all {around.num_nodes} have the same versions{sees} and the same time"
            yield Finding("nodes", True, alike)
