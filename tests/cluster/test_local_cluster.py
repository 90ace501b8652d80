"""A cluster on one machine: who can reach it, what its workers import, and that nothing remains."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from concurrent.futures import Future
from pathlib import Path

import psutil
import pytest

from cluster import scratch
from cluster.orphans import MARK
from cluster.processes import marked, writers
from cluster.scratch import scratch_folder
from cluster.session import CLUSTER, loopback_interface, ray_session, require_started, sentences
from tests.conftest import wait_for

COMMON_NAMES = ["cluster", "pipeline", "flows", "dwsnet", "torch", "ray", "numpy", "json", "signal"]

SESSION = """
import json, os, psutil, signal, subprocess, sys, tempfile
from cluster.address import PROBE
from cluster.session import CLUSTER, ray_session
from cluster.processes import marked, writers
from pathlib import Path

def look(number):
    import cluster.fanout, json, numpy, os, pipeline.zoos.build, signal, sys, torch
    ours = [cluster, pipeline, numpy, torch, json, signal]
    return sys.executable, os.getcwd(), [os.path.realpath(module.__file__) for module in ours]

def listening(process):
    connections = psutil.Process(process).net_connections("inet")
    return [c.laddr.ip for c in connections if c.status in ("LISTEN", "NONE")]

received = []
signal.signal(signal.SIGTERM, lambda signum, frame: received.append(signum))
with ray_session(2):
    import ray
    seen = ray.get(ray.remote(look).remote(0))
    ray.get(ray.remote(tempfile.mkdtemp).remote())
    folder = os.environ[CLUSTER]
    mode = os.stat(folder).st_mode & 0o777
    processes = {*marked(CLUSTER, folder), *writers(Path(folder))}
    groups = [os.getpgid(process) for process in processes]
    sockets = [listening(process) for process in [os.getpid(), *processes]]
    os.kill(os.getpid(), signal.SIGTERM)
    probe = [sys.executable, "-I", "-c", PROBE, ray.get_runtime_context().gcs_address]
    own = {name: os.environ[name] for name in os.environ if not name.startswith("RAY_AUTH_TOKEN")}
    answers = [
        subprocess.run(probe, env=env, capture_output=True, text=True) for env in (os.environ, own)
    ]
os.kill(os.getpid(), signal.SIGTERM)
print(json.dumps({
    "received": received,
    "worker": seen, "driver": look(0), "sockets": sockets, "mode": mode,
    "known": answers[0].returncode, "stranger": answers[1].stderr,
    "group": os.getpgrp(), "groups": groups,
    "left": [marked(CLUSTER, folder), writers(Path(folder)), os.path.exists(folder)],
}))
"""


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    """The result of a session in a folder full of traps, with an interpreter and a TMPDIR on
    awkward paths, on a node of another cluster."""
    import json

    folder = tmp_path_factory.mktemp("session")
    work, deep = folder / "work", folder / ("deep-" * 20)
    deep.mkdir()
    (work / "pipeline").mkdir(parents=True)
    for name in COMMON_NAMES:
        trap = work / "pipeline" / "__init__.py" if name == "pipeline" else work / f"{name}.py"
        trap.write_text("raise RuntimeError('imported from the working directory')")
    script = folder / "session.py"
    script.write_text(SESSION)
    environment = folder / "an environment (its path & more)"
    environment.mkdir()
    shutil.copytree(Path(sys.prefix) / "bin", environment / "bin", symlinks=True)
    (environment / "lib").symlink_to(Path(sys.prefix) / "lib")
    shutil.copy(Path(sys.prefix) / "pyvenv.cfg", environment)
    own = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    result = subprocess.run(
        [environment / "bin" / "python", script],
        cwd=work,
        env=own
        | {"TMPDIR": str(deep), "PYTHONPATH": os.pathsep.join(sys.path[1:])}
        | {"RAY_OVERRIDE_RESOURCES": '{"CPU": 0}'},
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert result.returncode == 0, result.stderr
    places = {"environment": environment, "work": work, "temporary": deep}
    return json.loads(result.stdout) | places


def test_workers_import_what_the_driver_imports(session):
    assert session["worker"] == session["driver"]
    executable, folder, files = session["worker"]
    assert executable == str(session["environment"] / "bin" / "python")
    assert folder == str(session["work"])
    assert not any(file.startswith(str(session["work"])) for file in files)


def test_everything_listens_on_the_loopback_interface_alone(session):
    addresses = [address for process in session["sockets"] for address in process]
    assert len(session["sockets"]) >= 8, "GCS, raylet, agents, workers and this process"
    assert len(addresses) >= 5
    assert {address.removeprefix("::ffff:") for address in addresses} == {"127.0.0.1"}


def test_who_has_no_token_is_let_in_by_nobody(session):
    """A process of the same user on the same machine, without any settings."""
    assert session["known"] == 0
    assert "InvalidAuthToken" in session["stranger"]


def test_a_signal_to_the_group_of_the_command_reaches_none_of_rays_processes(session):
    assert len(session["groups"]) >= 7, "GCS, raylet, agents, workers"
    assert session["group"] not in session["groups"]


def test_a_signal_in_a_session_and_after_it_reaches_the_handler_of_the_command(session):
    assert session["received"] == [signal.SIGTERM] * 2


def test_nothing_is_left_of_a_session_and_others_saw_nothing_of_it(session):
    assert session["mode"] == 0o700
    assert session["left"] == [[], [], False]
    assert not list(session["temporary"].iterdir())


def test_the_watcher_of_orphans_starts_among_files_of_any_name(tmp_path):
    """It removes what a killed process leaves: its children, and its temporary folder even if
    another process writes there."""
    for name in COMMON_NAMES:
        (tmp_path / f"{name}.py").write_text("raise RuntimeError")
    code = (
        "import os, sys, time\n"
        "from cluster.orphans import MARK, end_children_with_me\n"
        "from cluster.scratch import *\n"
        "import subprocess; end_children_with_me()\n"
        "sleep = [sys.executable, '-c', 'import time; time.sleep(600)']\n"
        "subprocess.Popen(sleep, start_new_session=True)\n"
        "with scratch_folder() as folder:\n"
        "    sleep, log = ['sleep', '600'], open(folder / 'log', 'w')\n"
        "    other = subprocess.Popen(sleep, env={}, stdout=log)\n"
        "    print(os.environ[MARK], folder, other.pid, flush=True)\n"
        "    time.sleep(600)"
    )
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path[1:])},
        stdout=subprocess.PIPE,
        text=True,
    )
    mark, folder, writer = process.stdout.readline().split()
    assert Path(folder).exists()
    assert marked(MARK, mark)
    assert {*writers(Path(folder))} == {process.pid, int(writer)}
    process.kill()
    process.communicate()
    for _ in range(200):
        if not marked(MARK, mark) and not Path(folder).exists():
            break
        subprocess.run(["sleep", "0.1"], check=True)
    assert not marked(MARK, mark)
    assert not Path(folder).exists()
    assert not writers(Path(folder))


NESTED = """
import subprocess, sys, time
from cluster.orphans import end_children_with_me
end_children_with_me()
code, *is_inner = sys.argv[1:]
started = ["sleep", "600"] if is_inner else [sys.executable, "-c", code, code, "inner"]
process = subprocess.Popen(started, start_new_session=True)
if is_inner:
    print(process.pid, flush=True)
time.sleep(600)
"""


def test_what_a_run_of_a_killed_schedule_has_started_ends_too():
    """The watcher of the outer process ends the inner one, but not that one's watcher."""
    outer = subprocess.Popen(
        [sys.executable, "-c", NESTED, NESTED], stdout=subprocess.PIPE, text=True
    )
    started = psutil.Process(int(outer.stdout.readline()))
    outer.kill()
    outer.communicate(timeout=20)
    wait_for(lambda: not started.is_running(), 20)


@pytest.fixture
def place(monkeypatch, tmp_path):
    """The only place for temporary folders."""
    monkeypatch.setattr(scratch, "places", lambda: [tmp_path])
    return tmp_path


def test_folders_of_processes_that_are_gone_are_removed_and_those_in_use_are_not(place):
    left, foreign = place / "dwszoo-left", place / "something-else"
    (left / "session" / "logs").mkdir(parents=True)
    foreign.mkdir()
    with scratch_folder() as first:
        assert not left.exists()
        with scratch_folder() as second:
            assert first != second
            assert set(place.iterdir()) == {first, second, foreign}
        assert set(place.iterdir()) == {first, foreign}
    assert set(place.iterdir()) == {foreign}


def test_a_link_is_not_followed_to_what_it_names(place, tmp_path_factory):
    precious = tmp_path_factory.mktemp("precious")
    (precious / "file").touch()
    (place / "dwszoo-link").symlink_to(precious)
    scratch.remove_leftovers()
    assert (precious / "file").exists()


def test_a_folder_whose_path_is_too_long_for_a_socket_is_not_taken(monkeypatch, tmp_path):
    deep = tmp_path / ("deep-" * 20)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    with scratch_folder() as folder:
        assert len(os.fsencode(folder)) <= scratch.LONGEST
        assert (os.stat(folder).st_mode & 0o777) == 0o700


def test_where_no_folder_can_be_made_a_sentence_says_so(monkeypatch):
    monkeypatch.setattr(scratch, "places", lambda: [Path("/proc"), Path("/nowhere")])
    with (
        pytest.raises(OSError, match=r"cannot make a temporary folder in /proc, /nowhere"),
        scratch_folder(),
    ):
        pass


def test_however_ray_fails_it_is_a_sentence():
    from ray.exceptions import OutOfDiskError, RaySystemError

    for error in (OutOfDiskError("no room\nTip: Use `df`"), RaySystemError("no room")):
        with (
            pytest.raises(ConnectionError, match=r"^Ray failed \(.*no room\): run the same"),
            sentences(),
        ):
            raise error
    connection = Future()
    connection.set_exception(Exception("timed out during startup.\nAdvice"))
    with pytest.raises(ConnectionError, match=r"cannot start .*\(timed out during startup\.\)$"):
        require_started(connection)


def test_a_machine_without_a_loopback_interface_is_said_at_once():
    code = "from cluster.session import loopback_interface as name; print(name())"
    result = subprocess.run(
        ["unshare", "-r", "-n", sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
    )
    if "unshare" in result.stderr:
        pytest.skip(f"no private networks here: {result.stderr.strip()}")
    assert "ConnectionError: the loopback interface of this machine does not work" in result.stderr
    assert loopback_interface().startswith("lo")


def test_more_gpus_than_there_are_is_said_at_once():
    from cluster.address import RequestError

    with (
        pytest.raises(RequestError, match=r"this machine has \d+ GPUs, expected at least the 1000"),
        ray_session(1000, 1),
    ):
        pass
    assert not marked(CLUSTER, os.environ[CLUSTER])
