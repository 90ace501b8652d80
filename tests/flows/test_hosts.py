"""Two hosts: what they must have in common, and training while one is cut off for a while and then dies."""

import json
import sys
import time
from pathlib import Path

import pytest

from cluster import nodes
from pipeline.training.checkpoint import num_epochs
from pipeline.training.status import read_status
from tests.conftest import EPOCHS, LONG
from tests.hosts import Host, Hosts, two_hosts

PORT = 6379
HEALTH = {"health_check_period_ms": 500, "health_check_timeout_ms": 1000}
"""A node that five times does not answer is dead: here after seven seconds."""
CUT_SECONDS = 3.0


def ray_node(host: Host, *options: str):
    own = (f"--node-ip-address={host.address}", "--num-cpus=1", "--object-store-memory=100000000")
    ray = Path(sys.executable).with_name("ray")
    host.run(ray, "start", *own, "--disable-usage-stats", *options)


@pytest.fixture(scope="module")
def cluster() -> Hosts:
    """Two hosts with a Ray node of one CPU on each."""
    with two_hosts() as hosts:
        settings = f"--system-config={json.dumps(HEALTH)}"
        ray_node(hosts.first, "--head", f"--port={PORT}", "--include-dashboard=false", settings)
        ray_node(hosts.second, f"--address={hosts.first.address}:{PORT}")
        yield hosts


def wait_for(condition, driver, seconds: float = 90):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        assert driver.poll() is None, driver.communicate()[1]
        time.sleep(0.05)
    assert condition()


def workers(host: Host) -> set[int]:
    """Ray's processes there that have work."""
    names = host.processes().items()
    return {number for number, name in names if name.startswith("ray::") and "IDLE" not in name}


BUILD = (sys.executable, "-m", "flows.cli", "zoo", "build", "smoke", "--out")
FINDINGS = "from flows.doctor import *; print(*cluster(Path(sys.argv[1])), sep='\\n')"


def test_hosts_that_differ_are_named_before_work_starts(cluster, tmp_path):
    """Each has a /tmp/ray of its own; the second one also gets other code of the package."""
    first, second = cluster.first, cluster.second
    where = {"RAY_ADDRESS": f"{first.address}:{PORT}"}
    out = "/tmp/ray/zoo"
    build = first.start(*BUILD, out, **where)
    _, err = build.communicate(timeout=90)
    assert build.returncode == 2, err
    assert err.splitlines()[-1] == (
        f"dwszoo: {out} of node {second.address} does not exist there: --out must be on a disk "
        "that all nodes share"
    )
    (tmp_path / "other.py").write_text("OTHER = 1")
    ours = Path(nodes.__file__).with_name("__init__.py")
    second.run("mount", "--bind", tmp_path / "other.py", ours)
    try:
        doctor = first.start(sys.executable, "-c", f"import sys; {FINDINGS}", "/tmp/ray", **where)
        found, err = doctor.communicate(timeout=90)
    finally:
        second.run("umount", ours)
    lines = found.splitlines()
    assert [line.count("is_well=True") for line in lines] == [1, 0, 0], found + err
    assert f"node {second.address} has dwszoo 0.1.0 with code " in lines[1]
    assert f"/tmp/ray of node {second.address} is another folder there" in lines[2]


def test_training_outlasts_a_cut_link_and_the_death_of_a_host(cluster, built_zoo, tmp_path):
    first, second = cluster.first, cluster.second
    train = (sys.executable, "-m", "flows.cli", "train", "smoke", "--workers", "1:2", *LONG)
    where = ("--zoo", built_zoo, "--out", tmp_path)
    driver = first.start(*train, *where, RAY_ADDRESS=f"{first.address}:{PORT}")
    wait_for(lambda: read_status(tmp_path), driver)
    began = workers(second)
    cluster.cut()
    time.sleep(0.5)
    before = read_status(tmp_path)
    time.sleep(CUT_SECONDS)
    assert read_status(tmp_path) == before, "no host trains without the other"
    cluster.mend()
    wait_for(lambda: read_status(tmp_path).members > before.members, driver)
    assert workers(second) == began != set(), "nothing was started again"
    cluster.cut()
    second.end()
    assert num_epochs(tmp_path) < EPOCHS
    _, err = driver.communicate(timeout=120)
    assert driver.returncode == 0, err
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").open()]
    assert [line["epoch"] for line in lines] == list(range(1, EPOCHS + 1))
    assert lines[-1]["train_loss"] < lines[0]["train_loss"]
