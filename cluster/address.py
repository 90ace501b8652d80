"""Checks that the cluster at RAY_ADDRESS answers, admits us and is large enough."""

import logging
import re
import socket
import subprocess
import sys

SECONDS = 5.0
"""How long to wait for a head node to answer."""
PROBE = "import sys; from ray._raylet import GcsClient; GcsClient(address=sys.argv[1])"
PROBE_SECONDS = 15.0
"""The same, with the import of Ray on a busy machine. Ray itself would retry for minutes."""


class RequestError(ValueError):
    """Ray cannot provide what the caller asked for."""


def find_cluster(address: str) -> str:
    """The cluster's HOST:PORT.

    Raises RequestError if `address` is not a valid address, and ConnectionError if no cluster
    answers there or it refuses our token.
    """
    from ray._private import services
    from ray._private.authentication import authentication_token_setup

    # Ray only looks for a token if it finds a cluster itself, not if RAY_ADDRESS names it; and it
    # warns when it found one.
    authentication_token_setup.logger.setLevel(logging.ERROR)
    authentication_token_setup.maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
    if address == "auto":
        address = services.canonicalize_bootstrap_address_or_die("auto")
    host, port = parse(address)
    try:
        socket.create_connection((host, port), timeout=SECONDS).close()
    except OSError as error:
        raise ConnectionError(
            f"no Ray cluster answers at RAY_ADDRESS {address} ({error.strerror or error}): start "
            "it, correct the address, or unset RAY_ADDRESS to use only this machine"
        ) from error
    # In a process of its own, because Ray's client may write to stderr, hang or abort.
    try:
        probe = subprocess.run(
            [sys.executable, "-I", "-c", PROBE, address],
            capture_output=True,
            text=True,
            timeout=PROBE_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ConnectionError(
            f"what answers at RAY_ADDRESS {address} is not the head node of a Ray cluster: "
            "expected the address that `ray start --head` prints"
        ) from error
    if "InvalidAuthToken" in probe.stderr:
        raise ConnectionError(
            f"the Ray cluster at RAY_ADDRESS {address} wants another token: set "
            "RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN to the cluster's or RAY_AUTH_TOKEN_PATH to a "
            "file that has it"
        )
    if probe.returncode:
        reason = (probe.stderr.strip().splitlines() or [f"exit code {probe.returncode}"])[-1]
        raise ConnectionError(
            f"cannot connect to the Ray cluster at RAY_ADDRESS {address}: {reason}"
        )
    return address


def parse(address: str) -> tuple[str, int]:
    """Host and port of an address. Raises RequestError if it has none."""
    found = re.fullmatch(r"\[?([^\s/\[\]]+?)\]?:([0-9]{1,5})", address)
    if not found or not 0 < int(found[2]) < 2**16:
        raise RequestError(
            "RAY_ADDRESS must be HOST:PORT of a Ray cluster's head node, as `ray start --head` "
            f"prints it, got {address!r}"
        )
    return found[1], int(found[2])


def require_resources(where: str, num_workers: int, gpus_per_worker: float, **found: float):
    """Raises RequestError if a cluster cannot run all workers at once: they would wait forever."""
    wanted = {"CPU": num_workers, "GPU": num_workers * gpus_per_worker}
    for kind, number in wanted.items():
        if found.get(kind, 0) < number:
            raise RequestError(
                f"{where} has {found.get(kind, 0):g} {kind}s, expected at least the {number:g} of "
                f"{num_workers} workers: ask for fewer workers{' or GPUs' if kind == 'GPU' else ''}"
            )


def num_groups(wanted: int, num_workers: int, gpus_per_worker: float, **found: float) -> int:
    """The number of groups of workers that there is room for, from one to the number `wanted`."""
    needs = {"CPU": num_workers, "GPU": num_workers * gpus_per_worker}
    room = (int(found.get(kind, 0) // number) for kind, number in needs.items() if number)
    return max(1, min(wanted, *room))


def room_for_groups(wanted: int, num_workers: int, gpus_per_worker: float) -> int:
    """`num_groups` by the resources that are free in the cluster of this session."""
    if wanted == 1:
        return 1
    import ray

    return num_groups(wanted, num_workers, gpus_per_worker, **ray.available_resources())
