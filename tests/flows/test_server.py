"""Prefect's server: odd environments, and servers that do not start, die, or are not Prefect."""

import http.server
import os
import socket
import subprocess
import sys
import threading
from contextlib import AbstractContextManager
from pathlib import Path

import httpx
import pytest

from flows import server
from flows.server import drop_unusable_proxies, is_here, require_answer
from pipeline.errors import InputError


def the_server_is_at(url: str) -> AbstractContextManager:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    return temporary_settings({PREFECT_API_URL: url})


TRIAL = """
import sys

import psutil

from flows.server import perform, prefect_server
from flows.tracker import stage

with prefect_server() as is_up:
    from prefect.client.orchestration import get_client

    from flows import flows

    if sys.argv[1] == "at the start":
        psutil.Process().children()[-1].kill()
    work, killing = [], []

    @stage
    def step(name):
        work.append(name)
        if name in killing:
            psutil.Process().children()[-1].kill()

    def trial(folder):
        'Three steps.'
        work.clear()
        for name in ("first", "second", "third"):
            step(name)
        return list(work)

    flows.trial = flows.flow_of(trial, "folder")
    tracked = is_up()
    print(tracked, perform(trial, lambda: tracked, "here"))
    if tracked:
        with get_client(sync_client=True) as client:
            print([found.state.name for found in client.read_flow_runs()])
        killing.append(sys.argv[1])
        print(perform(trial, lambda: tracked, "here"))
    sys.stdout.flush()
import os
import socket

os._exit(0)
"""


def trial(when: str, folder: Path, environment: dict[str, str]) -> subprocess.CompletedProcess:
    """A flow of three steps on a temporary server, which is killed at a given moment: at the start,
    or in a step of the next run of the flow."""
    return subprocess.run(
        [sys.executable, "-c", TRIAL, when],
        env=os.environ | environment,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=100,
    )


HOSTILE = {
    name: value
    for proxy, value in {
        "http_proxy": "http://127.0.0.1:9",
        "https_proxy": "127.0.0.1:9",
        "all_proxy": "socks://127.0.0.1:9",
    }.items()
    for name in (proxy, proxy.upper())
} | {
    "no_proxy": "",
    "NO_PROXY": "",
    "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",
    "PREFECT_SERVER_API_AUTH_STRING": "somebody:secret",
    "PREFECT_API_SSL_CERT_FILE": "/nowhere",
    "PREFECT_API_URL": "",
}


def test_a_temporary_server_needs_nothing_of_what_is_set_for_others_and_no_work_ends_with_it(
    tmp_path,
):
    database = tmp_path / "home" / "prefect.db"
    database.parent.mkdir()
    database.write_bytes(b"of another version")
    profile = (
        '[profiles.odd]\nPREFECT_SERVER_DATABASE_CONNECTION_URL = "sqlite+aiosqlite:////proc/x"\n'
    )
    (database.parent / "profiles.toml").write_text(f'active = "odd"\n{profile}')
    (tmp_path / "prefect.toml").write_text('[client]\nmax_retries = 9\n[api]\nkey = "odd"\n')
    result = trial("second", tmp_path, HOSTILE | {"PREFECT_HOME": str(database.parent)})
    steps = "['first', 'second', 'third']"
    assert result.stdout == f"True {steps}\n['Completed']\n{steps}\n", result.stderr
    assert "does not answer any more" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert database.read_bytes() == b"of another version"


def test_work_does_not_need_the_server(tmp_path):
    result = trial("at the start", tmp_path, {})
    assert result.stdout == "False ['first', 'second', 'third']\n", result.stderr
    assert "Prefect's temporary server did not start" in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("error", [RuntimeError("no API"), httpx.ConnectError("no API")])
def test_an_error_of_prefect_counts_only_while_the_server_answers(error, monkeypatch):
    """A client that finds no server raises a RuntimeError."""

    from flows import flows

    def work(folder):
        return folder

    def tracked(folder):
        raise error

    monkeypatch.setattr(flows, "work", tracked, raising=False)
    monkeypatch.setattr(server, "answers", lambda: True)
    with pytest.raises(type(error)):
        server.perform(work, lambda: True, "here")
    monkeypatch.setattr(server, "answers", lambda: False)
    warnings = []
    monkeypatch.setattr(server.logger, "warning", lambda text, why: warnings.append(text % why))
    assert server.perform(work, lambda: True, "here") == "here"
    (warning,) = warnings
    assert warning.endswith("does not answer any more (no API): the run continues without it")


@pytest.mark.parametrize(
    ("settings", "profile", "found"),
    [
        ({}, 'PREFECT_API_URL = "http://somewhere/api"', "http://somewhere/api"),
        ({"PREFECT_API_URL": "http://here/api"}, 'PREFECT_API_URL = "http://x"', "http://here/api"),
        ({"PREFECT_SERVER_DATABASE_TIMEOUT": "soon"}, "", "Prefect cannot read its settings"),
        ({}, "this is no TOML", "Prefect cannot read its settings"),
        ({"PREFECT_HOME": "/proc/nowhere"}, "", "None"),
    ],
)
def test_where_the_users_server_is(settings, profile, found, tmp_path):
    (tmp_path / "profiles.toml").write_text(f'active = "odd"\n[profiles.odd]\n{profile}\n')
    code = (
        "from flows.server import *\n"
        "try:\n    print(own_url())\nexcept InputError as error: print(error)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PREFECT_HOME": str(tmp_path)} | settings,
        capture_output=True,
        text=True,
    )
    assert result.stdout.startswith(found)
    assert len(result.stdout.splitlines()) == 1
    assert result.stderr == ""


@pytest.fixture
def answering():
    """A function that starts HTTP servers with a constant answer."""
    started = []

    def start(status: int) -> str:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(status)
                self.end_headers()
                self.wfile.write(b"<html>hello</html>")

            do_POST = do_GET  # noqa: N815

            def log_message(self, *ignored):
                pass

        started.append(http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=started[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{started[-1].server_port}/api"

    yield start
    for one in started:
        one.shutdown()
        one.server_close()


@pytest.mark.parametrize(
    ("status", "said"), [(401, "401"), (404, "404"), (500, "500"), (503, "503"), (200, "Expecting")]
)
def test_a_server_that_answers_otherwise_is_a_sentence(status, said, answering):
    url = answering(status)
    with (
        the_server_is_at(url),
        pytest.raises(InputError, match=said) as raised,
    ):
        require_answer(url)
    assert url in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/api", "nonsense"])
def test_a_url_where_nobody_answers_is_a_sentence(url):
    with (
        the_server_is_at(url),
        pytest.raises(InputError, match="does not answer as one"),
    ):
        require_answer(url)


def test_a_server_that_is_silent_is_a_sentence(monkeypatch):
    monkeypatch.setattr(server, "ANSWER_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/api"
        with the_server_is_at(url), pytest.raises(InputError, match="timed"):
            require_answer(url)


def test_only_proxies_that_nobody_could_use_are_dropped(monkeypatch):
    proxies = {"http_proxy": "proxy:3128", "HTTPS_PROXY": "http://proxy", "ALL_PROXY": "socks://x"}
    for name, value in proxies.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("all_proxy", "http://proxy:port")
    drop_unusable_proxies()
    assert [os.environ.get(name) for name in proxies] == ["proxy:3128", "http://proxy", None]
    assert "all_proxy" not in os.environ


def test_what_is_on_this_machine():
    here = ["http://localhost:4200/api", "http://127.0.0.1/api", "http://[::1]:4200/api"]
    assert all(map(is_here, here))
    assert not any(map(is_here, ["https://api.prefect.cloud/api", "nonsense", "http://10.0.0.1"]))
