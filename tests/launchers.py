"""Variables that job launchers set, and the addresses on which a command in such a job listens."""

import psutil

from cluster.orphans import MARK

FAMILIES = {
    "torchrun": {"RANK": "7", "LOCAL_RANK": "3", "WORLD_SIZE": "64", "LOCAL_WORLD_SIZE": "8",
                 "GROUP_RANK": "2", "ROLE_RANK": "7", "ROLE_WORLD_SIZE": "64",
                 "MASTER_ADDR": "192.0.2.7", "MASTER_PORT": "29500",
                 "TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RUN_ID": "none"},
    "Open MPI": {"OMPI_COMM_WORLD_RANK": "9", "OMPI_COMM_WORLD_SIZE": "12",
                 "OMPI_COMM_WORLD_LOCAL_RANK": "5", "OMPI_COMM_WORLD_LOCAL_SIZE": "6",
                 "PMIX_RANK": "9"},
    "MPICH": {"PMI_RANK": "2", "PMI_SIZE": "4", "PMI_FD": "7", "MPI_LOCALRANKID": "2",
              "MPI_LOCALNRANKS": "4"},
    "MVAPICH": {"MV2_COMM_WORLD_RANK": "1", "MV2_COMM_WORLD_LOCAL_RANK": "1"},
    "Slurm": {"SLURM_PROCID": "3", "SLURM_LOCALID": "3", "SLURM_NTASKS": "16",
              "SLURM_JOB_NODELIST": "n[1-4]"},
    "DeepSpeed": {"LOCAL_SIZE": "8", "CROSS_RANK": "1", "CROSS_SIZE": "2"},
    "Azure": {"AZUREML_EXPERIMENT_ID": "1", "AZ_BATCH_MASTER_NODE": "192.0.2.7:6000"},
    "NCCL": {"NCCL_COMM_ID": "192.0.2.7:12345"},
}  # fmt: skip
JOB = {name: value for family in FAMILIES.values() for name, value in family.items()}
"""The job of every launcher at once."""


def listening(worker: int) -> set[str]:
    """Addresses on which the process that does the work of a command, and what it has started,
    listen."""
    found = set()
    for process in psutil.process_iter():
        try:
            if process.pid == worker or process.environ().get(MARK, "").startswith(f"{worker}-"):
                sockets = process.net_connections("inet")
                found |= {socket.laddr.ip for socket in sockets if socket.status == "LISTEN"}
        except psutil.Error:
            continue
    return found
