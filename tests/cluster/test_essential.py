"""Processes without which Ray cannot work."""

import shutil
import socket
import subprocess
import threading
import time
from types import SimpleNamespace

import pytest

from cluster.essential import ended_children, require_ray, watched_raylet
from tests.conftest import wait_for


def test_a_raylet_that_ends_while_a_cluster_starts_is_said_at_once(tmp_path, monkeypatch):
    """A cluster that is starting is not known to Ray's own functions yet."""
    from ray._private import worker

    monkeypatch.setattr(worker, "_global_node", None)
    raylet = shutil.copy(shutil.which("sleep"), tmp_path / "raylet")
    with subprocess.Popen([raylet, "60"]) as process:
        require_ray()
        process.kill()
        wait_for(lambda: "raylet" in ended_children(), 10)
        with pytest.raises(ConnectionError, match=r"^Ray's raylet on this machine ended .* again"):
            require_ray()
    assert "raylet" not in ended_children(), "it has been waited for"


@pytest.mark.fast
def test_threads_that_end_while_it_looks_do_not_matter():
    deadline = time.monotonic() + 0.5

    def start_threads():
        while time.monotonic() < deadline:
            threading.Thread(target=lambda: None).start()

    threading.Thread(target=start_threads).start()
    while time.monotonic() < deadline:
        ended_children()


def test_the_raylet_of_a_running_cluster_is_missed_at_once(tmp_path, monkeypatch):
    """It is no child of this process."""
    from ray._private import worker

    place = str(tmp_path / "raylet")
    node = SimpleNamespace(raylet_socket_name=place, dead_processes=list)
    monkeypatch.setattr(worker, "_global_node", node)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(place)
        listener.listen()
        with watched_raylet():
            raylet, _ = listener.accept()
            require_ray()
            raylet.close()
            with pytest.raises(ConnectionError, match="Ray's raylet on this machine ended"):
                require_ray()
        require_ray()
    with pytest.raises(ConnectionError, match="Ray's raylet on this machine"), watched_raylet():
        pass
