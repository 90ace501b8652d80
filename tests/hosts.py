"""Two hosts on this machine: each has processes, a network and an address of its own, with a link between that can be cut.

Nothing of them outlives this process, nor is anything of them seen elsewhere on the machine.
"""

import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

OWN_USERS = ("unshare", "--user", "--map-root-user")
OWN_HOST = ("unshare", "--net", "--mount", "--pid", "--mount-proc", "--fork", "--kill-child")
"""All that is started in it ends with this process, in no order: as when the power fails."""
BEGIN = (
    "mkdir -p /tmp/ray && mount -t tmpfs none /tmp/ray && ip link set lo up && echo ready && "
    "exec sleep infinity"
)
OF_A_SESSION = ("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER",)
"""Variables that a local cluster of this process has left: they keep Ray from other hosts."""
LINK = """
ip link add eth0 type bridge && ip addr add {first}/24 dev eth0 && ip link set eth0 up &&
ip link add port type veth peer name eth0 netns {init} && ip link set port master eth0 up
"""


class Host:
    def __init__(self, address: str, users: Sequence[str] = OWN_USERS):
        """`users`: what makes or enters the user namespace in which it is root."""
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
        """What a command begins with that runs in namespaces of this host."""
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

    def processes(self) -> dict[int, str]:
        """Names of what runs here, as Ray's workers give themselves one."""
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


@dataclass(frozen=True)
class Hosts:
    first: Host
    second: Host

    def connect(self):
        """Make the link, with an address at either end."""
        link = LINK.format(first=self.first.address, init=self.second.init)
        command = [*self.first.inside("net"), "sh", "-c", link]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode:
            pytest.skip(f"no hosts can be connected here: {result.stderr.strip()}")
        self.second.run("ip", "addr", "add", f"{self.second.address}/24", "dev", "eth0")
        self.second.run("ip", "link", "set", "eth0", "up")

    def cut(self):
        self.first.run("ip", "link", "set", "port", "down")

    def mend(self):
        self.first.run("ip", "link", "set", "port", "up")


@contextmanager
def two_hosts() -> Iterator[Hosts]:
    """Skips the test where this machine does not permit them."""
    first = Host("10.77.0.1")
    try:
        second = Host("10.77.0.2", first.inside())
        try:
            hosts = Hosts(first, second)
            hosts.connect()
            yield hosts
        finally:
            second.end()
    finally:
        first.end()
