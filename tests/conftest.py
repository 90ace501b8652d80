"""Fixtures of all tests: a quiet environment, the real command, a small zoo and a complete run."""

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
from unittest.mock import patch

import jaxtyping
import psutil
import pytest
from filelock import FileLock

from flows.cli import main
from flows.recipes import smoke
from tests import wheels
from tests.launchers import JOB, listening
from tests.pipeline.worlds import without_ray

if TYPE_CHECKING:
    from pipeline.archive.zoo import Zoo

# Read when torch and scikit-learn are imported: threads do not help with tensors this small.
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
    # The last makes every command that tests start compile the code again.
    for name in ("RAY_ADDRESS", "PREFECT_API_URL", "PYTHONDONTWRITEBYTECODE"):
        os.environ.pop(name, None)


def pytest_collection_modifyitems(items):
    """Order tests for several processes: one makes the run that many tests share, while the others
    run tests that do not need it; the shortest tests come last, which balances the processes.
    """
    sharing = [item.path for item in items if "smoke_run" in item.fixturenames]

    def place(item) -> int:
        if item.get_closest_marker("fast"):
            return 3
        if item.path not in sharing:
            return 1
        return 0 if item.path == sharing[0] else 2

    items.sort(key=place)


@pytest.fixture(autouse=True)
def annotations(monkeypatch):
    """Annotations of dwsnet are checked in its own tests only: the checks take time."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


HEAVY = {"ray", "prefect", "deepspeed"}


@pytest.fixture(autouse=True)
def keep_fast(request):
    """Check that tests marked as fast import nothing heavy."""
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
    """Start the command in its own process group, as a shell would, in `folder`."""
    return subprocess.Popen(
        [*command, *map(str, arguments)],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def worker_of(command: subprocess.Popen) -> psutil.Process:
    """The child process in which a command does its work."""
    wait_for(lambda: psutil.Process(command.pid).children(), 20)
    return psutil.Process(command.pid).children()[0]


def dwszoo(*arguments: str | Path) -> Result:
    """Run the real command in its own process."""
    process = start_dwszoo(*arguments)
    out, err = process.communicate(timeout=220)
    return Result(process.returncode, out, err)


def wait_for(condition, seconds: float):
    """Wait until a condition holds; fail if it does not within `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert condition()


@pytest.fixture
def command(capsys) -> Callable[..., Result]:
    """The command in this process, for tests without Ray, Prefect, signals or a shell."""

    def run(*arguments: str | Path) -> Result:
        capsys.readouterr()
        return Result(main([*map(str, arguments)]), *capsys.readouterr())

    return run


@pytest.fixture(scope="session")
def built_zoo(tmp_path_factory) -> Path:
    """The smoke recipe's zoo, fitted in this process. Read only: copy it before damaging it."""
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
    """sha256 of every file of a zoo, by path: even a leftover file makes a difference."""
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
    """Addresses on which the command and its children listened."""


@pytest.fixture(scope="session")
def once(tmp_path_factory) -> Callable[[str, Callable[[Path], Any]], tuple[Path, Any]]:
    """A function that makes a named folder once for all test processes.

    It returns the folder and the JSON result of making it.
    """
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
    """One complete `dwszoo run smoke` with real Ray, Prefect and DeepSpeed, run from the installed
    wheel in a folder whose files have the names of our packages, with the environment of all
    launchers at once. Read only.
    """

    def make(folder: Path) -> dict[str, Any]:
        umask = os.umask(0)
        there = {"command": (installed.command,), "folder": installed.work}
        with patch.dict(os.environ, JOB | {"GLOO_SOCKET_IFNAME": "eth7"}):
            process = start_dwszoo("run", "smoke", "--out", folder, **there)
        os.umask(umask)
        result, addresses = watched(process)
        assert result.code == 0, result.err
        return {"result": asdict(result), "addresses": sorted(addresses)}

    folder, made = once("smoke-run", make)
    return Run(folder, Result(**made["result"]), set(made["addresses"]))


def watched(process: subprocess.Popen) -> tuple[Result, set[str]]:
    """The result of a command, and the addresses on which it and its children listened."""
    addresses, worker = set(), worker_of(process).pid
    with ThreadPoolExecutor(1) as pool:
        ending = pool.submit(process.communicate)
        while not ending.done():
            addresses |= listening(worker)
            time.sleep(0.5)
    return Result(process.returncode, *ending.result()), addresses


EPOCHS = 32
LONG = ("--set", f"training.epochs={EPOCHS}")
"""Some seconds of training: enough to be stopped twice on any machine."""


def metrics_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def without_times(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: line[key] for key in line if "second" not in key} for line in history]


@pytest.fixture(scope="session")
def long_training(built_zoo, once) -> Path:
    """The folder of an uninterrupted training. Read only."""

    def make(folder: Path):
        with without_ray():
            code = main(["train", "smoke", *LONG, "--zoo", str(built_zoo), "--out", str(folder)])
        assert code == 0

    return once("long-training", make)[0]
