"""Scheduled runs on a work pool, from the file to a finished run, with a real server and worker."""

import asyncio
import contextlib
import http.server
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from uuid import UUID

import httpx
import pytest
import yaml

from flows.database import restore_database
from pipeline.archive.files import exclusive
from pipeline.archive.seal import SEAL
from tests.conftest import dwszoo, wait_for

LAUNCH = Path(str(files("cluster"))) / "launch"
ENDED = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}
GOOD = '[night]\nrecipe = "smoke"\nout = "runs/smoke"\ncron = "0 3 * * *"\n'


@dataclass(frozen=True)
class Server:
    url: str

    def post(self, path: str, **content: object) -> object:
        answer = httpx.post(f"{self.url}/{path}", json=content, timeout=30)
        answer.raise_for_status()
        return answer.json()

    def found(self, kind: str, **filters: object) -> list[dict]:
        return self.post(f"{kind}/filter", **filters)


@contextlib.contextmanager
def database(folder: Path) -> Iterator[str]:
    """The URL of a PostgreSQL database for the block, or of a SQLite one if it is not installed."""
    installed = [Path(found).parent for found in [shutil.which("initdb")] if found]
    installed += sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not installed:
        yield f"sqlite+aiosqlite:///{folder}/prefect.db"
        return
    user = "postgres" if os.geteuid() == 0 else None  # it does not run as root

    def run(program: str, *arguments: str):
        command = [installed[-1] / program, *arguments]
        subprocess.run(command, user=user, cwd="/", stdout=subprocess.DEVNULL, check=True)

    with tempfile.TemporaryDirectory(dir="/tmp", ignore_cleanup_errors=True) as data:
        if user:
            shutil.chown(data, user)
        run("initdb", "-D", f"{data}/db", "-U", "postgres", "--auth=trust", "--no-sync")
        only_a_socket = f"-c listen_addresses= -c unix_socket_directories={data} -c fsync=off"
        run("pg_ctl", "-D", f"{data}/db", "-l", f"{data}/log", "-w", "-o", only_a_socket, "start")
        try:
            yield f"postgresql+asyncpg://postgres@/postgres?host={data}"
        finally:
            run("pg_ctl", "-D", f"{data}/db", "-w", "-m", "immediate", "stop")


@pytest.fixture
def server(tmp_path, monkeypatch) -> Iterator[Server]:
    """A permanent Prefect server at PREFECT_API_URL."""
    home = tmp_path / "prefect"
    home.mkdir()
    restore_database(home)
    with database(home) as place, socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/api"
        for name, value in {
            "PREFECT_HOME": str(home),
            "PREFECT_API_URL": url,
            "PREFECT_LOGGING_TO_API_ENABLED": "false",
            "PREFECT_SERVER_DATABASE_CONNECTION_URL": place,
        }.items():
            monkeypatch.setenv(name, value)
        app = ["-m", "uvicorn", "--factory", "prefect.server.api.server:create_app"]
        command = [sys.executable, *app, "--fd", str(listener.fileno()), "--log-level", "error"]
        with open(home / "server.log", "w") as log:
            process = subprocess.Popen(
                command, pass_fds=[listener.fileno()], stdout=log, stderr=log
            )
        try:
            httpx.get(f"{url}/health", timeout=60).raise_for_status()
            yield Server(url)
        finally:
            process.terminate()
            process.wait(timeout=30)


@pytest.fixture
def notified() -> Iterator[tuple[str, list[dict]]]:
    """A URL, and the list of messages sent to it."""
    messages = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            messages.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *ignored):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{listening.server_port}", messages
        listening.shutdown()


def prefect(*arguments: str | Path):
    command = [sys.executable, "-m", "prefect", "--no-prompt", *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stdout + result.stderr


def notifying_block(server: Server, url: str) -> str:
    """The ID of a block that sends notifications to a URL."""
    kind = httpx.get(f"{server.url}/block_types/slug/custom-webhook").json()["id"]
    (schema, *_) = server.found("block_schemas", block_schemas={"block_type_id": {"any_": [kind]}})
    block = server.post(
        "block_documents/",
        name="alerts",
        block_type_id=kind,
        block_schema_id=schema["id"],
        data={"name": "alerts", "url": url, "json_data": {"text": "{{subject}}: {{body}}"}},
    )
    return block["id"]


def require_end_of_killed_run(server: Server, deployment: str, folder: Path):
    """A run that the server believes to be running is ended if no process uses its folder."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from flows.serve import end_killed_runs

    killed = server.post(f"deployments/{deployment}/create_flow_run")["id"]
    server.post(f"flow_runs/{killed}/set_state", state={"type": "RUNNING"}, force=True)

    def state() -> str:
        with temporary_settings({PREFECT_API_URL: server.url}):
            asyncio.run(end_killed_runs([UUID(deployment)]))
        return httpx.get(f"{server.url}/flow_runs/{killed}").json()["state_type"]

    with exclusive(folder):
        assert state() == "RUNNING"
    assert state() == "CRASHED"


def test_a_deployed_run_is_skipped_finished_shown_and_missed(
    server, notified, smoke_run, command, tmp_path, monkeypatch
):
    run, (url, messages) = tmp_path / "run", notified
    shutil.copytree(smoke_run.folder, run, symlinks=True)
    (run / "zoo" / SEAL).unlink()
    (tmp_path / "a-file").touch()
    (tmp_path / "nightly.toml").write_text(
        '[night]\nrecipe = "mine.toml"\nout = "run"\ncron = "0 3 * * *"\n'
        '[wrong]\nrecipe = "smoke"\nout = "a-file/run"\ninterval = 86400\n'
    )
    (tmp_path / "mine.toml").write_text(command("recipes", "smoke").out)
    monkeypatch.chdir(tmp_path)
    server.post("work_pools/", name="nights", type="process")
    result = dwszoo("deploy", "nightly.toml", "--pool", "nights")
    assert (result.code, result.err) == (0, "")
    assert result.out.startswith("night: mine.toml in run, 0 3 * * * (UTC)\nwrong: ")

    result = dwszoo("evaluate", tmp_path)
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith(f"dwszoo: {tmp_path} is not a run: ")
    assert len(result.err.splitlines()) == 1
    (seen,) = [found for found in server.found("flow_runs") if found["state_type"] in ENDED]
    assert (seen["name"], seen["state_type"]) == (str(tmp_path), "FAILED")

    alerts = (LAUNCH / "alerts.yaml").read_text()
    alerts = alerts.replace("00000000-0000-0000-0000-000000000000", notifying_block(server, url))
    (tmp_path / "alerts.yaml").write_text(alerts)
    prefect("automation", "create", "--from-file", tmp_path / "alerts.yaml")
    assert len(server.found("automations")) == 2

    ids = {found["name"]: found["id"] for found in server.found("deployments")}
    for name in ("night", "night", "wrong"):
        server.post(f"deployments/{ids[name]}/create_flow_run")
    prefect("worker", "start", "--pool", "nights", "--run-once")
    ended = [
        found
        for found in server.found("flow_runs")
        if found["state_type"] in ENDED and found["deployment_id"]
    ]
    assert sorted((found["deployment_id"], found["state_type"]) for found in ended) == sorted(
        [(ids["night"], "COMPLETED"), (ids["night"], "CANCELLED"), (ids["wrong"], "FAILED")]
    ), [found["state"]["message"] for found in ended]
    assert {found["name"] for found in ended} >= {str(run)}
    require_end_of_killed_run(server, ids["night"], run)

    (results,) = (found for found in server.found("artifacts") if found["key"] == "run-results")
    assert (run / "report" / "index.html").as_uri() in results["data"]
    assert "![curves](data:image/svg+xml;base64," in results["data"]
    events = server.post("events/filter", filter={"event": {"name": ["zoo.sealed"]}})["events"]
    assert [event["resource"]["prefect.resource.id"] for event in events] == [
        (run / "zoo").as_uri()
    ]
    wait_for(lambda: len(messages) == 2, 30)
    wrong, killed = sorted((found["text"] for found in messages), key=lambda text: "killed" in text)
    assert wrong.startswith("dwszoo: ")
    assert "deployment wrong: " in wrong
    assert "cannot write to " in wrong
    assert "was killed: the next run continues" in killed


def test_a_file_of_prefects_own_says_the_same():
    from flows.deployments import ONE, deployed
    from flows.schedule import ScheduledRun

    config = yaml.safe_load((LAUNCH / "prefect.yaml").read_text())
    (own,) = config["deployments"]
    ours = deployed(own["name"], ScheduledRun(**own["parameters"], **own["schedules"][0]))
    assert own["entrypoint"] == ours.entrypoint
    assert own["parameters"] == ours.parameters
    assert own["concurrency_limit"] == ONE.model_dump(mode="json", exclude_unset=True)
    (schedule,) = ours.schedules
    assert schedule.schedule.cron == own["schedules"][0]["cron"]


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("", "deployments need a permanent Prefect server"),
        ("http://127.0.0.1:9/api", "the Prefect server at http://127.0.0.1:9/api does not answer"),
    ],
)
def test_a_server_that_is_not_there_is_a_sentence(url, message, tmp_path, monkeypatch):
    (tmp_path / "nightly.toml").write_text(GOOD)
    monkeypatch.setenv("PREFECT_API_URL", url)
    result = dwszoo("deploy", tmp_path / "nightly.toml", "--pool", "nights")
    assert result.code == 2
    assert message in result.err
    assert len(result.err.splitlines()) == 1
