"""Shared by all tests: a quiet environment, the real command, one small zoo and one complete run."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from filelock import FileLock

from flows.cli import main
from flows.recipes import smoke
from tests import wheels
from tests.launchers import JOB, listening

if TYPE_CHECKING:
    from pipeline.archive.zoo import Zoo

# Read when torch and scikit-learn are imported: on tensors as small as the tests' threads only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

QUIET = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "disabled",
}


@pytest.fixture(scope="session", autouse=True)
def quiet_environment(tmp_path_factory):
    os.environ.update(QUIET, PREFECT_HOME=str(tmp_path_factory.mktemp("prefect")))
    for name in ("RAY_ADDRESS", "PREFECT_API_URL"):
        os.environ.pop(name, None)


def pytest_collection_modifyitems(items):
    """Where several processes test, one makes the run that many tests share while the others test what needs none; the
    shortest tests come last, as those are what processes share out evenly.
    """
    sharing = [item.path for item in items if "smoke_run" in item.fixturenames]

    def place(item) -> int:
        if item.get_closest_marker("fast"):
            return 3
        if item.path not in sharing:
            return 1
        return 0 if item.path == sharing[0] else 2

    items.sort(key=place)


HEAVY = {"ray", "prefect", "deepspeed"}


@pytest.fixture(autouse=True)
def keep_fast(request):
    """A test that is marked fast loads nothing heavy."""
    before = HEAVY & set(sys.modules)
    yield
    if request.node.get_closest_marker("fast"):
        assert HEAVY & set(sys.modules) == before


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str


COMMAND = (sys.executable, "-m", "flows.cli")


def start_dwszoo(
    *arguments: str | Path, command: tuple[str | Path, ...] = COMMAND, folder: Path | None = None
) -> subprocess.Popen:
    """The command in a process group of its own, as a shell would start it, in `folder`."""
    return subprocess.Popen(
        [*command, *map(str, arguments)],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def dwszoo(*arguments: str | Path) -> Result:
    """Run the real command in a process of its own."""
    process = start_dwszoo(*arguments)
    out, err = process.communicate(timeout=220)
    return Result(process.returncode, out, err)


def wait_for(condition, seconds: float):
    """Until a condition holds; fails where it does not within so many seconds."""
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert condition()


@pytest.fixture
def command(capsys) -> Callable[..., Result]:
    """The command in this process, for what needs none of its own: Ray, Prefect, signals, what a shell sees."""

    def run(*arguments: str | Path) -> Result:
        capsys.readouterr()
        return Result(main([*map(str, arguments)]), *capsys.readouterr())

    return run


@pytest.fixture(scope="session")
def built_zoo(tmp_path_factory) -> Path:
    """The zoo of the smoke recipe, fitted in this process. Read only: copy it before you damage it."""
    from pipeline.archive.write import seal_zoo
    from pipeline.zoos.build import fit_shard, plan_zoo

    folder = tmp_path_factory.mktemp("built") / "zoo"
    config = smoke().zoo
    plan = plan_zoo(config, folder)
    for shard in plan.shards:
        fit_shard(config, folder, plan.signals, shard)
    seal_zoo(folder)
    return folder


def contents(zoo: Path) -> dict[str, str]:
    """sha256 of every file below a zoo, by its path: a leftover of any kind makes it differ from an undisturbed zoo's."""
    files = (path for path in zoo.rglob("*") if path.is_file() and path.name != ".lock")
    return {
        str(path.relative_to(zoo)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files
    }


@pytest.fixture
def zoo_copy(built_zoo, tmp_path) -> Path:
    return Path(shutil.copytree(built_zoo, tmp_path / "zoo"))


@pytest.fixture
def zoo(built_zoo) -> "Zoo":
    from pipeline.archive.zoo import Zoo

    return Zoo.open(built_zoo)


@dataclass(frozen=True)
class Run:
    folder: Path
    result: Result
    addresses: set[str]
    """On which the command and all that it started have listened."""


@pytest.fixture(scope="session")
def once(tmp_path_factory) -> Callable[[str, Callable[[Path], Any]], tuple[Path, Any]]:
    """Makes a folder of a name once for all processes that test, and returns it with the JSON that making it gave."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent  # of this test run

    def get(name: str, make: Callable[[Path], Any]) -> tuple[Path, Any]:
        folder, made = shared / name, shared / f"{name}.json"
        with FileLock(shared / f"{name}.lock"):
            if not made.exists():
                made.write_text(json.dumps(make(folder)))
        return folder, json.loads(made.read_text())

    return get


@dataclass(frozen=True)
class Installed:
    wheels: Path
    command: Path
    """`dwszoo` of the wheel, in an environment without this checkout."""
    work: Path
    """A folder whose files have the names of our packages."""


@pytest.fixture(scope="session")
def installed(once) -> Installed:
    """The wheels of this checkout, and an environment with the one of the whole project."""

    def make(folder: Path) -> str:
        _, whole = wheels.build(folder)
        wheels.folder_of_traps(folder / "work")
        return str(wheels.install(whole, folder / "environment") / "dwszoo")

    folder, command = once("installed", make)
    return Installed(folder / "wheels", Path(command), folder / "work")


@pytest.fixture(scope="session")
def smoke_run(once, installed) -> Run:
    """One complete `dwszoo run smoke`, by the wheel among files of any name: real Ray, Prefect and DeepSpeed.

    Read only.
    """

    def make(folder: Path) -> dict[str, Any]:
        umask = os.umask(0)
        there = {"command": (installed.command,), "folder": installed.work}
        process = start_dwszoo("run", "smoke", "--out", folder, **there)
        os.umask(umask)
        result, addresses = watched(process)
        assert result.code == 0, result.err
        return {"result": asdict(result), "addresses": sorted(addresses)}

    folder, made = once("smoke-run", make)
    return Run(folder, Result(**made["result"]), set(made["addresses"]))


def watched(process: subprocess.Popen) -> tuple[Result, set[str]]:
    """How a command ended, and the addresses on which it and all that it started have listened."""
    addresses = set()
    with ThreadPoolExecutor(1) as pool:
        ending = pool.submit(process.communicate)
        while not ending.done():
            addresses |= listening(process.pid)
            time.sleep(0.5)
    return Result(process.returncode, *ending.result()), addresses


EPOCHS = 48
LONG = ("--set", f"training.epochs={EPOCHS}")
"""Seconds of training: long enough to be stopped twice on the way, on any machine."""


def metrics_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def without_times(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: line[key] for key in line if "second" not in key} for line in history]


@dataclass(frozen=True)
class LongTraining:
    folder: Path
    addresses: set[str]
    """On which the command and all that it started have listened."""


@pytest.fixture(scope="session")
def long_training(built_zoo, once) -> LongTraining:
    """A training that nothing interrupted, in the job of every launcher at once. Read only."""

    def make(folder: Path) -> list[str]:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in (JOB | {"GLOO_SOCKET_IFNAME": "eth7"}).items():
                patch.setenv(name, value)
            process = start_dwszoo("train", "smoke", *LONG, "--zoo", built_zoo, "--out", folder)
            result, addresses = watched(process)
        assert result.code == 0, result.err
        return sorted(addresses)

    folder, addresses = once("long-training", make)
    return LongTraining(folder, set(addresses))


@pytest.fixture
def two_nodes(monkeypatch):
    """A Ray cluster of two nodes, each of one CPU and of a GPU that is not there, and this process their driver."""
    from ray.cluster_utils import Cluster

    from cluster.session import ray_session

    health = {"health_check_period_ms": 500, "health_check_timeout_ms": 2000}
    nodes = Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": 1,
            "num_gpus": 1,
            "include_dashboard": False,
            "_system_config": health,
        },
    )
    try:
        nodes.second = nodes.add_node(num_cpus=1, num_gpus=1)
        nodes.wait_for_nodes()
        monkeypatch.setenv("RAY_ADDRESS", nodes.address)
        with ray_session(2):
            yield nodes
    finally:
        nodes.shutdown()
