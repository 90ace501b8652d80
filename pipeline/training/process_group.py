"""The process group of training workers, with Ray's ranks, on the address that Ray uses."""

import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import psutil
import ray
import ray.train
import torch
import torch.distributed as dist
from ray.train.collective import broadcast_from_rank_zero

TIMEOUT = timedelta(minutes=30)
"""How long workers wait for each other."""

LAUNCHERS = re.compile(
    "(WORLD|LOCAL|LOCAL_WORLD|CROSS|GROUP|GROUP_WORLD|ROLE|ROLE_WORLD|NODE)_(RANK|SIZE)"
    "|RANK|MASTER_(ADDR|PORT)|NCCL_COMM_ID|MPI_LOCALN?RANK(ID|S)"
    "|(OMPI|PMI|PMIX|MV2|I_MPI|HYDRA|PALS|ALPS|FLUX|JSM|SLURM)_.*"
    "|(TORCHELASTIC|HOROVOD|ACCELERATE|AZ|AZUREML)_.*"
)
"""Variables with the rank of a process in a job of torchrun, MPI, a batch system or a cloud."""


@contextmanager
def process_group(on_gpu: bool) -> Iterator[None]:
    """Make the workers of a Ray Train run the ranks of a torch process group within the block.

    Variables of other launchers are removed from the environment, as DeepSpeed and MPI libraries
    would use them. Rank 0 listens only on its node's address in the Ray cluster, while torch's
    default is all addresses. Gloo uses the interface of that address, unless another is set; its
    default is the one that the host name resolves to.
    """
    context, address = ray.train.get_context(), ray.util.get_node_ip_address()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    if interface := interface_of(address):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
    listener = None
    if rank == 0:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        listener = socket.create_server((address, 0), family=family)
    host, port = broadcast_from_rank_zero(listener and listener.getsockname()[:2])
    for name in filter(LAUNCHERS.fullmatch, list(os.environ)):
        del os.environ[name]
    os.environ |= {
        "RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "LOCAL_RANK": str(context.get_local_rank()),
        "LOCAL_WORLD_SIZE": str(context.get_local_world_size()),
        "NODE_RANK": str(context.get_node_rank()),
        "MASTER_ADDR": host,
        "MASTER_PORT": str(port),
    }
    if on_gpu:
        from ray.train.torch import get_device

        torch.cuda.set_device(get_device())
    store = dist.TCPStore(
        host,
        port,
        world_size,
        rank == 0,
        TIMEOUT,
        master_listen_fd=listener.detach() if listener else None,
    )
    backend = "nccl" if on_gpu else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=TIMEOUT)
    try:
        yield
    finally:
        dist.destroy_process_group()


def interface_of(address: str) -> str | None:
    """The network interface of this machine with this address; None if a router translates it."""
    return next(
        (
            name
            for name, found in psutil.net_if_addrs().items()
            if any(one.address.partition("%")[0] == address for one in found)
        ),
        None,
    )
