"""Training inside the job of another launcher: the ranks are Ray's, and its sockets this machine's alone."""

import json
import time

import psutil
import pytest

from cluster.orphans import MARK
from pipeline.training.process_group import LAUNCHERS
from tests.conftest import start_dwszoo

FAMILIES = {
    "torchrun": {"RANK": "7", "LOCAL_RANK": "3", "WORLD_SIZE": "64", "LOCAL_WORLD_SIZE": "8", "GROUP_RANK": "2",
                 "ROLE_RANK": "7", "ROLE_WORLD_SIZE": "64", "MASTER_ADDR": "192.0.2.7", "MASTER_PORT": "29500",
                 "TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RUN_ID": "none"},
    "Open MPI": {"OMPI_COMM_WORLD_RANK": "9", "OMPI_COMM_WORLD_SIZE": "12", "OMPI_COMM_WORLD_LOCAL_RANK": "5",
                 "OMPI_COMM_WORLD_LOCAL_SIZE": "6", "PMIX_RANK": "9"},
    "MPICH": {"PMI_RANK": "2", "PMI_SIZE": "4", "PMI_FD": "7", "MPI_LOCALRANKID": "2", "MPI_LOCALNRANKS": "4"},
    "MVAPICH": {"MV2_COMM_WORLD_RANK": "1", "MV2_COMM_WORLD_LOCAL_RANK": "1"},
    "Slurm": {"SLURM_PROCID": "3", "SLURM_LOCALID": "3", "SLURM_NTASKS": "16", "SLURM_JOB_NODELIST": "n[1-4]"},
    "DeepSpeed": {"LOCAL_SIZE": "8", "CROSS_RANK": "1", "CROSS_SIZE": "2"},
    "Azure": {"AZUREML_EXPERIMENT_ID": "1", "AZ_BATCH_MASTER_NODE": "192.0.2.7:6000"},
    "NCCL": {"NCCL_COMM_ID": "192.0.2.7:12345"},
}  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_the_variables_of_each_family_are_known(family):
    assert all(LAUNCHERS.fullmatch(name) for name in FAMILIES[family])


@pytest.mark.parametrize(
    "name", ["PATH", "HOME", "AWS_REGION", "NCCL_DEBUG", "OMP_NUM_THREADS", "RANKING", "MY_RANK"]
)
def test_other_variables_stay(name):
    assert not LAUNCHERS.fullmatch(name)


def listening(command: int) -> set[str]:
    """Addresses on which a command and what it has started listen."""
    found = set()
    for process in psutil.process_iter():
        try:
            if process.pid == command or process.environ().get(MARK, "").startswith(f"{command}-"):
                sockets = process.net_connections("inet")
                found |= {socket.laddr.ip for socket in sockets if socket.status == "LISTEN"}
        except psutil.Error:
            continue
    return found


def test_training_in_the_job_of_every_launcher(built_zoo, tmp_path, monkeypatch):
    for name, value in {
        name: value for family in FAMILIES.values() for name, value in family.items()
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "eth7")
    settings = ["--set", "training.epochs=20"]
    process = start_dwszoo("train", "smoke", *settings, "--zoo", built_zoo, "--out", tmp_path)
    addresses = set()
    while process.poll() is None:
        addresses |= listening(process.pid)
        time.sleep(0.1)
    _, err = process.communicate()
    assert process.returncode == 0, err
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == list(range(1, 21))
    assert {address.removeprefix("::ffff:") for address in addresses} == {"127.0.0.1"}
