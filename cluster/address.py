"""The cluster at RAY_ADDRESS: whether it is there, lets us in, and is as large as it must be."""

import logging
import re
import socket
import subprocess
import sys

SECONDS = 5.0
"""How long a head node may take to answer."""
PROBE = "import sys; from ray._raylet import GcsClient; GcsClient(address=sys.argv[1])"
PROBE_SECONDS = 15.0
"""The same, with the import of Ray on a busy machine. Ray itself would try for minutes."""


class RequestError(ValueError):
    """What the caller asked of Ray cannot be had."""


def find_cluster(address: str) -> str:
    """The cluster's HOST:PORT. Raises RequestError where `address` cannot be one, ConnectionError where nobody lets us in."""
    from ray._private import services
    from ray._private.authentication import authentication_token_setup

    # Ray looks for a token where it finds a cluster by itself, not where RAY_ADDRESS names it, and warns that it found one.
    authentication_token_setup.logger.setLevel(logging.ERROR)
    authentication_token_setup.maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
    if address == "auto":
        address = services.canonicalize_bootstrap_address_or_die("auto")
    host, port = parse(address)
    try:
        socket.create_connection((host, port), timeout=SECONDS).close()
    except OSError as error:
        raise ConnectionError(
            f"no Ray cluster answers at RAY_ADDRESS {address} ({error.strerror or error}): start it, correct the address, "
            "or unset RAY_ADDRESS to work on this machine alone"
        ) from error
    # In a process of its own: Ray's client may write what it likes to stderr, wait for ever, or abort.
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
            f"what answers at RAY_ADDRESS {address} is not the head node of a Ray cluster: expected the address that "
            "`ray start --head` prints"
        ) from error
    if "InvalidAuthToken" in probe.stderr:
        raise ConnectionError(
            f"the Ray cluster at RAY_ADDRESS {address} wants another token: set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN to "
            "the cluster's or RAY_AUTH_TOKEN_PATH to a file that has it"
        )
    if probe.returncode:
        reason = (probe.stderr.strip().splitlines() or [f"exit code {probe.returncode}"])[-1]
        raise ConnectionError(
            f"cannot connect to the Ray cluster at RAY_ADDRESS {address}: {reason}"
        )
    return address


def parse(address: str) -> tuple[str, int]:
    """Host and port. Raises RequestError where there are none."""
    found = re.fullmatch(r"\[?([^\s/\[\]]+?)\]?:([0-9]{1,5})", address)
    if not found or not 0 < int(found[2]) < 2**16:
        raise RequestError(
            f"RAY_ADDRESS must be HOST:PORT of a Ray cluster's head node, as `ray start --head` prints it, got {address!r}"
        )
    return found[1], int(found[2])


def require_resources(where: str, num_workers: int, gpus_per_worker: float, **found: float):
    """Raises RequestError where a cluster cannot run all workers at once: they would wait for ever."""
    wanted = {"CPU": num_workers, "GPU": num_workers * gpus_per_worker}
    for kind, number in wanted.items():
        if found.get(kind, 0) < number:
            raise RequestError(
                f"{where} has {found.get(kind, 0):g} {kind}s, expected at least the {number:g} of {num_workers} workers: "
                f"ask for fewer workers{' or GPUs' if kind == 'GPU' else ''}"
            )
