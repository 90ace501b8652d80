"""Three hosts: what must be the same on all, and runs while one is cut off and others die."""

import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cluster import nodes
from pipeline.training.checkpoint import num_epochs
from pipeline.training.status import read_status
from tests.conftest import COMMAND, EPOCHS, LONG, contents, metrics_of, without_times
from tests.hosts import Host, Hosts, hosts_of
from tests.s3 import CLIENT, Objects, s3_server

PORT = 6379
HEALTH = {"health_check_period_ms": 500, "health_check_timeout_ms": 1000}
"""A node that fails to answer five times is dead: here after seven seconds."""
CUT_SECONDS = 3.0


@dataclass(frozen=True)
class Cluster:
    """Hosts, each with a Ray node of one CPU."""

    hosts: Hosts
    store: str
    """The query of URIs of an S3 server that outlives all hosts."""
    objects: Objects
    """Contents of the S3 server."""

    @property
    def first(self) -> Host:
        return self.hosts.linked[0]

    def start_node(self, host: Host, *options: str) -> subprocess.Popen:
        """Start a Ray node, by default one that joins the first host's."""
        ray, where = Path(sys.executable).with_name("ray"), f"--node-ip-address={host.address}"
        own = (where, "--num-cpus=1", "--object-store-memory=100000000", "--disable-usage-stats")
        options = options or (f"--address={self.first.address}:{PORT}",)
        return host.start(ray, "start", *own, *options)

    def start(self, *command: str | Path) -> subprocess.Popen:
        """Start a command on the first host."""
        where = f"{self.first.address}:{PORT}"
        return self.first.start(*command, RAY_ADDRESS=where, **CLIENT)

    def worker(self) -> Host | None:
        """One of the other hosts that is busy; None if none is."""
        return next((host for host in self.hosts.linked[1:] if workers(host)), None)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with (
        pytest.MonkeyPatch.context() as patch,
        hosts_of(3) as hosts,
        s3_server(hosts.switch.listen(), put_seconds=0.3) as (store, objects),
    ):
        for name, value in CLIENT.items():
            patch.setenv(name, value)
        cluster = Cluster(hosts, store, objects)
        settings = f"--system-config={json.dumps(HEALTH)}"
        head = ("--head", f"--port={PORT}", "--include-dashboard=false", settings)
        succeed(cluster.start_node(cluster.first, *head))
        for node in [cluster.start_node(host) for host in hosts.linked[1:]]:
            succeed(node)
        yield cluster


def succeed(process: subprocess.Popen):
    out, err = process.communicate(timeout=150)
    assert process.returncode == 0, out + err


def wait_for(condition: Callable[[], Any], driver: subprocess.Popen) -> Any:
    """The result of the condition once it holds, while the driver is running."""
    deadline = time.monotonic() + 90
    while not (found := condition()) and time.monotonic() < deadline:
        assert driver.poll() is None, driver.communicate()[1]
        time.sleep(0.05)
    assert found
    return found


def workers(host: Host) -> set[int]:
    """The Ray processes on a host that fit or train."""
    names = host.processes().items()
    return {number for number, name in names if name.startswith(("ray::fit", "ray::RayTrain"))}


FINDINGS = "from flows.doctor import *; print(*cluster(Path(sys.argv[1])), sep='\\n')"


def test_hosts_that_differ_are_named_before_work_starts(cluster, tmp_path):
    """Each host has its own /tmp/ray; the second one also gets different code of the package."""
    _, second, third = cluster.hosts.linked
    out = "/tmp/ray/zoo"
    build = cluster.start(*COMMAND, "zoo", "build", "smoke", "--out", out)
    _, err = build.communicate(timeout=90)
    assert build.returncode == 2, err
    where = [f"{out} of node {host.address} does not exist there" for host in (second, third)]
    what = "--out must be on a disk that all nodes share (and 1 more: `dwszoo doctor`)"
    assert err.splitlines()[-1] in [f"dwszoo: {which}: {what}" for which in where]
    (tmp_path / "other.py").write_text("OTHER = 1")
    ours = Path(nodes.__file__).with_name("__init__.py")
    second.run("mount", "--bind", tmp_path / "other.py", ours)
    try:
        doctor = cluster.start(sys.executable, "-c", f"import sys; {FINDINGS}", "/tmp/ray")
        found, err = doctor.communicate(timeout=90)
    finally:
        second.run("umount", ours)
    lines = found.splitlines()
    assert [line.count("is_well=True") for line in lines] == [1, 0, 0, 0], found + err
    assert f"node {second.address} has dwszoo 0.1.0 with code " in found
    for host in (second, third):
        assert f"/tmp/ray of node {host.address} is another folder there" in found


def test_work_outlasts_the_death_of_hosts_and_a_cut_link_with_the_same_outcome(
    cluster, built_zoo, long_training, tmp_path
):
    """Power fails on a host that fits and on another that trains; a new host takes its place."""
    zoo = f"s3://zoos/smoke?{cluster.store}"
    build = cluster.start(*COMMAND, "zoo", "build", "smoke", "--workers", "3", "--out", zoo)
    cluster.hosts.fail(wait_for(cluster.worker, build))
    succeed(build)
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in cluster.objects.items()}
    assert digests == {f"/zoos/smoke/{name}": one for name, one in contents(built_zoo).items()}

    succeed(cluster.start_node(cluster.hosts.add()))
    train = cluster.start(*COMMAND, "train", "smoke", *LONG, "--zoo", zoo, "--out", tmp_path)
    wait_for(lambda: read_status(tmp_path), train)
    host = cluster.worker()
    began = workers(host)
    cluster.hosts.cut(host)
    time.sleep(0.5)
    before = read_status(tmp_path)
    time.sleep(CUT_SECONDS)
    assert read_status(tmp_path) == before, "no host trains without the other"
    cluster.hosts.mend(host)
    wait_for(lambda: read_status(tmp_path).members > before.members, train)
    assert workers(host) == began != set(), "nothing was started again"
    cluster.hosts.fail(host)
    assert num_epochs(tmp_path) < EPOCHS
    succeed(train)
    assert without_times(metrics_of(tmp_path)) == without_times(metrics_of(long_training))
