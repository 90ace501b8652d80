"""Checks that all nodes of the cluster at RAY_ADDRESS run the same code and see a run's folder."""

import hashlib
import os
import platform
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from cluster.address import RequestError

OURS = ("cluster", "dwsnet", "flows", "pipeline")
PACKAGES = ("torch", "ray", "deepspeed")
"""Packages that must have the same version on all nodes."""
SECONDS = 90.0
"""How long to wait for a node to answer; Ray takes about a minute to notice that one has died."""
POLL_SECONDS = 1.0
CLOCKS = 1.0
"""Seconds by which clocks may differ: files of a run are compared by their times."""


@dataclass(frozen=True)
class Look:
    """What a node reports about itself."""

    address: str
    versions: dict[str, str]
    """Versions of Python, of this package with a digest of its code, and of other packages."""
    folder: str
    """What is wrong with the folder of a run there; empty if nothing is."""
    clock: float
    """The time of the report by its clock, in seconds since 1970."""


def versions() -> dict[str, str]:
    """The versions that must agree for two processes to work together."""
    return {
        "dwszoo": f"{installed('dwszoo')} with code {code_digest()[:8]}",
        "python": platform.python_version(),
        **{name: installed(name) for name in PACKAGES},
    }


def installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def code_digest() -> str:
    """sha256 of the source of this package: two checkouts may have the same version."""
    root, digest = Path(__file__).parents[1], hashlib.sha256()
    files = (file for name in OURS for file in (root / name).rglob("*.*"))
    for file in sorted(file for file in files if file.suffix in (".py", ".cpp", ".h")):
        digest.update(f"{file.relative_to(root)}\0".encode() + file.read_bytes())
    return digest.hexdigest()


def look(address: str, mark: Path | None) -> Look:
    """Run on a node. `mark` is a file that the driver has just written."""
    return Look(address, versions(), "" if mark is None else trouble(mark), time.time())


def trouble(mark: Path) -> str:
    """Why this process cannot see a file of another node or write next to it; empty if it can."""
    if not mark.exists():
        where = "is another folder" if mark.parent.exists() else "does not exist"
        return f"{where} there: --out must be on a disk that all nodes share"
    beside = mark.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        beside.write_bytes(b"")
        beside.unlink()
    except OSError as error:
        return f"cannot be written there ({error.strerror}): let the user of Ray's workers write it"
    return ""


def on_every_node(function: Callable[..., Any], *arguments: Any) -> list[tuple[str, Any]]:
    """`(address, function(address, *arguments))` of each live node, run there.

    The result is an exception if it raised one or did not answer within `SECONDS`. A node that dies
    meanwhile is left out. Needs a Ray session.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    remote, running = ray.remote(num_cpus=0)(function), {}
    for node, address in living_nodes().items():
        here = NodeAffinitySchedulingStrategy(node, soft=False)
        running[remote.options(scheduling_strategy=here).remote(address, *arguments)] = node
    deadline = time.monotonic() + SECONDS
    while True:
        living = living_nodes()
        running = {task: node for task, node in running.items() if node in living}
        _, waiting = ray.wait(list(running), num_returns=len(running), timeout=POLL_SECONDS)
        if not waiting or time.monotonic() > deadline:
            return [(living[node], answer_of(task)) for task, node in running.items()]


def living_nodes() -> dict[str, str]:
    """Addresses, by id, of the nodes that Ray considers alive."""
    import ray

    return {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}


def answer_of(task: Any) -> Any:
    """The result of a task; or the exception that it raised, or one that says it has not ended."""
    import ray

    try:
        return ray.get(task, timeout=0)
    except ray.exceptions.RayError as error:
        ray.cancel(task, force=True)
        return error


@contextmanager
def marked(folder: Path | None) -> Iterator[Path | None]:
    """A new file in a folder; it is removed when the block ends."""
    if folder is None:
        yield None
        return
    mark = folder.resolve() / f".{uuid.uuid4().hex}.tmp"
    mark.write_bytes(b"")
    try:
        yield mark
    finally:
        mark.unlink(missing_ok=True)


def require_alike(folder: Path | None):
    """Raises RequestError if a node runs other code than this process, or sees another `folder`.

    Does nothing if there is only one node. Needs a Ray session.
    """
    if len(living_nodes()) > 1:
        problems = look_around(folder).differences
        if problems:
            more = f" (and {len(problems) - 1} more: `dwszoo doctor`)" if problems[1:] else ""
            raise RequestError(problems[0] + more)


@dataclass(frozen=True)
class Around:
    """The problems of all nodes, one sentence each."""

    num_nodes: int
    differences: list[str]
    """Problems that keep nodes from working together."""
    clocks: list[str]


def look_around(folder: Path | None) -> Around:
    """Compare all nodes with this process. Needs a Ray session."""
    before = time.time()
    with marked(folder) as mark:
        found = on_every_node(look, mark)
    unable = [
        f"node {address} cannot run this package ({str(error).strip().splitlines()[-1]}): install "
        "it there as it is here"
        for address, error in found
        if not isinstance(error, Look)
    ]
    looks = [answer for _, answer in found if isinstance(answer, Look)]
    wrong = [sentence for seen in looks for sentence in differences(seen, versions(), folder)]
    return Around(len(found), unable + wrong, wrong_clocks(looks, before, time.time()))


def differences(seen: Look, wanted: dict[str, str], folder: Path | None) -> list[str]:
    """How a node differs from this process, which has the versions `wanted`."""
    problems = [
        f"node {seen.address} has {name} {seen.versions[name]}, expected {ours} as on "
        f"{os.uname().nodename}: install the same on all nodes"
        for name, ours in wanted.items()
        if seen.versions[name] != ours
    ]
    return problems + [f"{folder} of node {seen.address} {seen.folder}"] * bool(seen.folder)


def wrong_clocks(looks: Sequence[Look], before: float, after: float) -> list[str]:
    """Problems of nodes whose clock was not between `before` and `after`, by this one's clock."""
    problems = []
    for seen in looks:
        ahead = max(seen.clock - after, 0) or min(seen.clock - before, 0)
        if abs(ahead) > CLOCKS:
            problems.append(
                f"the clock of node {seen.address} is {abs(ahead):.0f} seconds "
                f"{'ahead' if ahead > 0 else 'behind'}: set it by NTP, as `chronyd` does"
            )
    return problems
