"""The batch script on two hosts, with a stand-in for Slurm's srun."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cluster.test_launch import LAUNCH
from tests.conftest import contents
from tests.hosts import Host, Hosts, hosts_of

SRUN = """#!/bin/bash
# Leaves its command and environment to those who can start processes on all nodes, and waits.
while [[ $1 == --* ]]; do shift; done
env -0 > "$STEP/environment"
printf '%s\\0' "$@" > "$STEP/starting" && mv "$STEP/starting" "$STEP/command"
until [ -e "$STEP/code" ]; do sleep 0.1; done
exit "$(cat "$STEP/code")"
"""


def words(path: Path) -> list[str]:
    return path.read_text().split("\0")[:-1]


def submit(host: Host, step: Path, *arguments: str | Path) -> subprocess.Popen:
    """The batch script, started as by Slurm on the first of two nodes with one CPU each."""
    step.mkdir()
    srun = step / "srun"
    srun.write_text(SRUN)
    srun.chmod(0o755)
    return host.start(
        "bash",
        LAUNCH / "slurm.sbatch",
        *arguments,
        STEP=str(step),
        PATH=f"{step}:{os.environ['PATH']}",
        ENVIRONMENT=sys.prefix,
        SLURM_JOB_NUM_NODES="2",
        SLURM_CPUS_PER_TASK="1",
    )


def run_step(hosts: Hosts, step: Path, job: subprocess.Popen) -> str:
    """Run a command on every node, like srun; returns the output of the first.

    The second ends once Ray has given up on the head, which takes a minute: the test does not wait.
    """
    while not (step / "command").exists():
        assert job.poll() is None, job.communicate()
        time.sleep(0.05)
    environment = dict(item.split("=", 1) for item in words(step / "environment"))
    command = words(step / "command")
    tasks = [host.start(*command, **environment) for host in hosts.linked]
    output = tasks[0].communicate(timeout=150)
    tasks[1].kill()
    tasks[1].wait()
    (step / "code").write_text(str(tasks[0].returncode))
    return "\n".join(output)


@pytest.fixture
def hosts() -> Hosts:
    with hosts_of(2) as hosts:
        yield hosts


def test_a_job_runs_its_command_on_all_nodes_and_ends_ray(hosts, built_zoo, tmp_path):
    zoo, step = tmp_path / "zoo", tmp_path / "step"
    job = submit(hosts.linked[0], step, "zoo", "build", "smoke", "--workers", "2", "--out", zoo)
    output = run_step(hosts, step, job)
    _, err = job.communicate(timeout=60)
    assert job.returncode == 0, (step / "code").read_text() + err + output
    assert contents(zoo) == contents(built_zoo)
    assert not any("raylet" in name for name in hosts.linked[0].processes().values())


def test_a_job_without_a_command_says_so(tmp_path):
    job = subprocess.run(
        ["bash", LAUNCH / "slurm.sbatch"], capture_output=True, text=True, check=False
    )
    assert job.returncode == 2
    assert job.stderr.startswith("no command: ")
