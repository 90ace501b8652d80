"""RAY_ADDRESS: invalid addresses, addresses where nobody or something else answers, and tokens."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cluster import address
from cluster.address import RequestError, find_cluster, parse, require_resources
from cluster.scratch import scratch_folder


@pytest.mark.fast
@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("10.0.0.1:6379", ("10.0.0.1", 6379)),
        ("head.example:10", ("head.example", 10)),
        ("[::1]:6379", ("::1", 6379)),
    ],
)
def test_host_and_port(text, parts):
    assert parse(text) == parts


@pytest.mark.fast
@pytest.mark.parametrize(
    "text",
    [
        "head", "head:", ":6379", "head:port", "head:0", "head:65536", "ray://head:10001",
        "http://head:8265", "a b:1", "h:-1",
    ],
)  # fmt: skip
def test_what_cannot_be_an_address_is_refused(text):
    with pytest.raises(RequestError, match="must be HOST:PORT of a Ray cluster's head node"):
        parse(text)


def test_where_nobody_answers():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(ConnectionError, match=r"no Ray cluster answers.*Connection refused"):
        find_cluster(f"127.0.0.1:{port}")


def test_where_somebody_else_answers(monkeypatch):
    monkeypatch.setattr(address, "PROBE_SECONDS", 3.0)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(ConnectionError, match="is not the head node of a Ray cluster"):
            find_cluster(f"127.0.0.1:{port}")


@pytest.mark.fast
def test_a_cluster_smaller_than_what_was_asked_for():
    require_resources("the cluster", 2, 0.5, CPU=2, GPU=1)
    require_resources("the cluster", 2, 0, CPU=2)
    with pytest.raises(
        RequestError, match="the cluster has 2 CPUs, expected at least the 3 of 3 workers"
    ):
        require_resources("the cluster", 3, 0, CPU=2)
    with pytest.raises(RequestError, match="has 0 GPUs, expected at least the 2 of 2 workers"):
        require_resources("the cluster", 2, 1, CPU=2)


CONNECT = """
from cluster.session import ray_session
with ray_session(WORKERS):
    import ray
    print(ray.get(ray.remote(lambda: 7).remote()))
"""


def connect(environment: dict[str, str], workers: int = 1) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", CONNECT.replace("WORKERS", str(workers))],
        env={name: value for name, value in os.environ.items() if not name.startswith("RAY_A")}
        | environment,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_a_token_in_its_file_is_enough_and_another_one_is_said(tmp_path):
    """A cluster of one CPU that requires a token, made by `ray start`."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    token = tmp_path / ".ray" / "auth_token"
    token.parent.mkdir()
    token.write_text("0123456789abcdef" * 4)
    home, where = {"HOME": str(tmp_path)}, {"RAY_ADDRESS": f"127.0.0.1:{port}"}
    with scratch_folder() as folder:
        options = (
            f"--head --port={port} --num-cpus=1 --include-dashboard=false --block "
            f"--temp-dir={folder}"
        )
        head = subprocess.Popen(
            [Path(sys.executable).with_name("ray"), "start", *options.split()],
            env=os.environ | home | {"RAY_AUTH_MODE": "token"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            deadline = time.monotonic() + 60
            with socket.socket() as there:
                while there.connect_ex(("127.0.0.1", port)) and time.monotonic() < deadline:
                    time.sleep(0.1)
            stranger = connect(where | {"HOME": str(folder)})
            assert "wants another token: set RAY_AUTH_MODE=token" in stranger.stderr
            small = connect(where | home, workers=2)
            assert "has 1 CPUs, expected at least the 2 of 2 workers" in small.stderr
            welcome = connect(where | home)
            assert (welcome.stdout, welcome.stderr) == ("7\n", "")
        finally:
            head.terminate()
            head.wait()
