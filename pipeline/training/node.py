"""The memory of a node: its size, and memory that its processes share."""

import errno
import fcntl
import mmap
import os
import socket
import struct
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np

from pipeline.errors import WorkError

RETRY_SECONDS = 0.02
SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW
CREDENTIALS = struct.Struct("3i")
"""Process, user and group at the other end of a UNIX socket."""


def memory_of_node() -> int:
    """Bytes that this process may use: those of the machine, or fewer if its container or job has a
    limit."""
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for file in limit_files():
        with suppress(OSError, ValueError):  # no such file, or no limit
            limits.append(int(file.read_text()))
    return min(limits)


def limit_files() -> Iterator[Path]:
    """The files in which control groups, of either version, limit the memory of this process."""
    root = Path("/sys/fs/cgroup")
    with suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, group = line.split(":", 2)
            for place in (Path(group), *Path(group).parents):
                if not controllers:
                    yield root / place.relative_to("/") / "memory.max"
                elif controllers == "memory":
                    yield root / "memory" / place.relative_to("/") / "memory.limit_in_bytes"


class SharedMemory:
    """Bytes with one copy per node, shared by all processes of a user that ask for the same `name`.

    The first process to ask fills them, the others wait. There is no file: when the processes end,
    however they end, nothing is left. The bytes cannot be changed once they are filled. Linux only.
    """

    def __init__(self, name: str, num_bytes: int, fill: Callable[[np.ndarray], None]):
        """`fill` writes `(num_bytes,)` uint8; the caller checks that the node has room for it."""
        address = f"\0dwszoo-{os.getuid()}-{name}"  # abstract: it ends with the process
        while (descriptor := received(address)) is None:
            server = socket.socket(socket.AF_UNIX)
            try:
                server.bind(address)
                descriptor = filled(name, num_bytes, fill)
            except OSError as error:
                server.close()
                if error.errno != errno.EADDRINUSE:
                    raise
                time.sleep(RETRY_SECONDS)  # another process is filling the bytes
                continue
            except BaseException:
                server.close()
                raise
            server.listen()
            threading.Thread(target=serve, args=(server, os.dup(descriptor)), daemon=True).start()
            weakref.finalize(self, server.shutdown, socket.SHUT_RDWR)
            break
        memory = mmap.mmap(descriptor, num_bytes, access=mmap.ACCESS_COPY)
        os.close(descriptor)
        self.data = np.frombuffer(memory, np.uint8)
        """`(num_bytes,)`"""


def filled(name: str, num_bytes: int, fill: Callable[[np.ndarray], None]) -> int:
    """A descriptor of memory that `fill` has written and that is now read-only."""
    descriptor = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(descriptor, num_bytes)
        memory = mmap.mmap(descriptor, num_bytes)
        memory.madvise(mmap.MADV_HUGEPAGE)
        fill(np.frombuffer(memory, np.uint8))
        memory.close()  # sealing fails while a writable mapping exists
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, SEALS)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def serve(server: socket.socket, descriptor: int):
    """Hand a descriptor to the processes of this user that ask for it, until the server is shut
    down."""
    with server, suppress(OSError):
        while True:
            client, _ = server.accept()
            with client, suppress(OSError):  # the client may be gone
                if user_of(client) == os.getuid():
                    socket.send_fds(client, [b"\0"], [descriptor])
    os.close(descriptor)


def received(address: str) -> int | None:
    """The descriptor that another process serves at an address; None if none does, or not yet.

    Raises WorkError if the process is another user's.
    """
    with socket.socket(socket.AF_UNIX) as client, suppress(ConnectionError):
        client.connect(address)
        if user_of(client) != os.getuid():
            raise WorkError(
                f"the socket {address[1:]} must belong to this user, found user {user_of(client)}"
            )
        descriptors = socket.recv_fds(client, 1, 1)[1]
        return descriptors[0] if descriptors else None
    return None


def user_of(connection: socket.socket) -> int:
    """The user id of the process at the other end."""
    found = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size)
    return CREDENTIALS.unpack(found)[1]
