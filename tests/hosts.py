"""Hosts on this machine, with their own processes, network and address, and a link that can be cut.

They end with this process, and the rest of the machine does not see them.
"""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import psutil
import pytest

NETWORK = "10.77.0"
OWN_USERS = ("unshare", "--user", "--map-root-user")
OWN_HOST = ("unshare", "--net", "--mount", "--pid", "--mount-proc", "--fork", "--kill-child")
"""Everything started in it ends with this process, in no order, as in a power failure."""
BEGIN = (
    "mkdir -p /tmp/ray && mount -t tmpfs none /tmp/ray && ip link set lo up && echo ready && "
    "while sleep 0.5; do :; done"
)
"""The shell collects processes whose parents have ended, as an init does."""
OF_A_SESSION = ("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER",)
"""Variables that a local cluster of this process has left: they keep Ray from other hosts."""
SWITCH = "ip link add eth0 type bridge && ip addr add {address}/24 dev eth0 && ip link set eth0 up"
LINK = (
    "ip link add {port} type veth peer name eth0 netns {init} && ip link set {port} master eth0 up"
)
LISTEN = (
    "import socket; own = socket.socket(fileno=0); "
    "server = socket.create_server(('{address}', 0)); "
    "socket.send_fds(own, [b'.'], [server.fileno()])"
)


class Host:
    def __init__(self, address: str, users: Sequence[str] = OWN_USERS):
        """`users`: the command that makes or enters the user namespace in which it is root."""
        self.address = address
        self.process = subprocess.Popen(
            [*users, *OWN_HOST, "sh", "-c", BEGIN],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        if self.process.stdout.readline() != "ready\n":
            pytest.skip(f"no hosts can be made here: {self.process.communicate()[1].strip()}")
        self.init = psutil.Process(self.process.pid).children()[0].pid

    def inside(self, *namespaces: str) -> list[str]:
        """The beginning of a command that runs in the namespaces of this host."""
        chosen = [f"--{name}" for name in ("user", *namespaces)]
        return ["nsenter", f"--target={self.init}", "--preserve-credentials", *chosen]

    def start(self, *command: str | Path, **environment: str) -> subprocess.Popen:
        own = {name: value for name, value in os.environ.items() if name not in OF_A_SESSION}
        return subprocess.Popen(
            [*self.inside("net", "mount", "pid"), *command],
            env=own | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *command: str | Path):
        process = self.start(*command)
        out, err = process.communicate(timeout=90)
        assert process.returncode == 0, out + err

    def listen(self) -> socket.socket:
        """A socket of this process that listens on a free port of this host."""
        ours, theirs = socket.socketpair()
        code = LISTEN.format(address=self.address)
        with ours, theirs:
            command = [*self.inside("net"), sys.executable, "-c", code]
            subprocess.run(command, stdin=theirs, check=True)
            _, descriptors, _, _ = socket.recv_fds(ours, 1, 1)
        return socket.socket(fileno=descriptors[0])

    def processes(self) -> dict[int, str]:
        """Names of the processes on this host; Ray's workers set their own."""
        here, found = os.readlink(f"/proc/{self.init}/ns/pid"), {}
        for process in psutil.process_iter():
            try:
                if os.readlink(f"/proc/{process.pid}/ns/pid") == here:
                    found[process.pid] = " ".join(process.cmdline())
            except (OSError, psutil.Error):
                continue
        return found

    def end(self):
        self.process.kill()
        self.process.communicate()


class Hosts:
    """Hosts that are linked to a switch, which is a host too and outlives them."""

    def __init__(self):
        self.switch, self.linked, self.numbers = Host(f"{NETWORK}.254"), [], count(1)
        self.on_switch(SWITCH.format(address=self.switch.address))

    def add(self) -> Host:
        host = Host(f"{NETWORK}.{next(self.numbers)}", self.switch.inside())
        self.linked.append(host)
        self.on_switch(LINK.format(port=port(host), init=host.init))
        host.run("ip", "addr", "add", f"{host.address}/24", "dev", "eth0")
        host.run("ip", "link", "set", "eth0", "up")
        return host

    def cut(self, host: Host):
        self.on_switch(f"ip link set {port(host)} down")

    def mend(self, host: Host):
        self.on_switch(f"ip link set {port(host)} up")

    def fail(self, host: Host):
        """Kill the host without notice, as in a power failure."""
        self.cut(host)
        host.end()
        self.linked.remove(host)

    def on_switch(self, script: str):
        command = [*self.switch.inside("net"), "sh", "-c", script]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode:
            pytest.skip(f"no hosts can be connected here: {result.stderr.strip()}")

    def end(self):
        for host in (*self.linked, self.switch):
            host.end()


def port(host: Host) -> str:
    """The end of its link on the switch."""
    return f"port{host.address.rpartition('.')[2]}"


@contextmanager
def hosts_of(number: int) -> Iterator[Hosts]:
    """This many hosts. Skips the test if this machine does not permit them."""
    hosts = Hosts()
    try:
        for _ in range(number):
            hosts.add()
        yield hosts
    finally:
        hosts.end()
