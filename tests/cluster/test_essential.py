"""Processes without which Ray cannot work."""

import shutil
import subprocess

import pytest

from cluster.essential import ended_children, require_ray
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
