"""A Prefect server that runs for as long as the command that started it."""

import contextlib
import logging
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import httpx

from flows.database import cache_database, restore_database

START_SECONDS = 25.0
"""Time limit of a temporary server to start."""
RESTART_SECONDS = 5.0
"""How often to check whether it has ended."""
QUIET = {
    # The command itself reports what went wrong.
    "PREFECT_LOGGING_LEVEL": "CRITICAL",
    "PREFECT_INTERNAL_LOGGING_LEVEL": "CRITICAL",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
}

ALONE = {"PREFECT__SERVER_EPHEMERAL": "1", "PREFECT_UI_ENABLED": "0"}
"""Settings of a server that one run reports to: neither schedules nor pages."""

logger = logging.getLogger(__name__)


@contextmanager
def temporary_server(home: Path, serves: bool) -> Iterator[Callable[[], bool]]:
    """A server with its own database in `home`, on a free port and in its own session.

    Ctrl-C in a terminal does not reach it, so that it can be told that the run was interrupted. One
    that `serves` is restarted if it ends, with the same database and socket: requests meanwhile
    wait.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/api"
        use_defaults(home, url)
        restore_database(home)
        start = partial(start_server, home, listener.fileno(), serves)
        processes, ends = [start()], threading.Event()

        def keep():
            while not ends.wait(RESTART_SECONDS):
                if processes[-1].poll() is not None:
                    processes.append(start())

        if serves:
            keeper = threading.Thread(target=keep, daemon=True)
            keeper.start()
        else:
            listener.close()  # so that requests to a server that has ended fail at once
        try:
            yield lambda: is_up(url, home)
        finally:
            if serves:
                ends.set()
                keeper.join()
            end(processes[-1])


def start_server(home: Path, listener: int, serves: bool) -> subprocess.Popen:
    """Start the server; `listener` is the descriptor of its listening socket."""
    command = ["-m", "uvicorn", "--factory", "prefect.server.api.server:create_app"]
    with open(home / "server.log", "ab") as log:
        return subprocess.Popen(
            [sys.executable, *command, "--fd", str(listener), "--log-level", "error"],
            cwd=home,
            env=os.environ | ({} if serves else ALONE),
            pass_fds=[listener],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def end(process: subprocess.Popen):
    process.terminate()
    try:
        process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def use_defaults(home: Path, url: str):
    """Use Prefect's defaults here and in the server: the user's settings are for another one."""
    from prefect.context import refresh_global_settings_context

    for name in [name for name in os.environ if name.upper().startswith("PREFECT_")]:
        if name not in QUIET:
            del os.environ[name]
    os.environ |= {
        "PREFECT_HOME": str(home),
        "PREFECT_API_URL": url,
        # The server is on this machine: if it does not answer, it is gone.
        "PREFECT_CLIENT_MAX_RETRIES": "1",
        "PREFECT_API_REQUEST_TIMEOUT": "20",
    }
    with contextlib.chdir(home):  # where there is no prefect.toml and no .env
        refresh_global_settings_context()


def is_up(url: str, home: Path) -> bool:
    """Wait until the server answers or has ended."""
    try:
        httpx.get(f"{url}/health", timeout=START_SECONDS, trust_env=False).raise_for_status()
    except httpx.HTTPError as error:
        lines = (home / "server.log").read_text(errors="replace").split("\n")
        reason = next((line for line in reversed(lines) if line.strip()), one_line(error))
        logger.warning(
            "Prefect's temporary server did not start (%s): the run continues without it", reason
        )
        return False
    cache_database(home)
    return True


def one_line(error: Exception) -> str:
    """The message of an error in a single line, without links to more information."""
    message = " ".join(str(error).split()).partition(" For ")[0]
    return message.rstrip(" -") or type(error).__name__
