"""The processes of Ray on this machine without which it cannot work."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ESSENTIAL = {"raylet", "gcs_server"}
raylets: list[socket.socket] = []
"""Connections to the raylet of this machine, which end with it; empty outside `watched_raylet`."""


@contextmanager
def watched_raylet() -> Iterator[None]:
    """In the block, `require_ray` notices the end of the raylet that this process is connected to,
    whoever has started it."""
    from ray._private import worker

    node = worker._global_node
    assert node is not None, "Ray is connected"
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect(node.raylet_socket_name)
        except OSError as error:
            raise lost({"raylet"}) from error
        connection.setblocking(False)
        raylets.append(connection)
        try:
            yield
        finally:
            raylets.remove(connection)


def require_ray():
    """Raises ConnectionError if this machine's raylet has ended, or the GCS of a local cluster.

    A local cluster may still be starting. Ray itself would notice up to a minute later, or never.
    """
    from ray._private import worker

    node = worker._global_node
    ended = {kind for kind, _ in node.dead_processes()} if node is not None else ended_children()
    if any(map(has_ended, raylets)):
        ended.add("raylet")
    if missing := ended & ESSENTIAL:
        raise lost(missing)


def lost(processes: set[str]) -> ConnectionError:
    return ConnectionError(
        f"Ray's {' and '.join(sorted(processes))} on this machine ended (killed, or out of "
        "memory): run the same command again to continue"
    )


def has_ended(connection: socket.socket) -> bool:
    """Whether the other side of a connection, which never sends anything, is gone."""
    try:
        return connection.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


def ended_children() -> set[str]:
    """Names of programs that this process has started, and that have ended without its notice.

    Empty except on Linux.
    """
    found = set()
    for thread in Path("/proc/self/task").glob("*/children"):
        for child in contents(thread).split():
            name, _, state = contents(Path(f"/proc/{child}/stat")).rpartition(")")
            if state.startswith(" Z"):
                found.add(name.partition("(")[2])
    return found


def contents(file: Path) -> str:
    """Of a file below /proc; empty if its thread or process is gone by now."""
    try:
        return file.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
