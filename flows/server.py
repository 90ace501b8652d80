"""The Prefect server that a run reports to: the user's own, or a temporary one."""

import ipaddress
import logging
import os
import urllib.request
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from cluster.orphans import end_children_with_me
from cluster.scratch import scratch_folder
from flows.temporary_server import QUIET, one_line, temporary_server
from pipeline.errors import InputError

LOOPBACK = "localhost,127.0.0.1,::1"
PROXIES = ("http_proxy", "https_proxy", "all_proxy")
ANSWER_SECONDS = httpx.Timeout(8.0, connect=2.0)
"""Time limit of the user's own server for an answer; Prefect tries four times to connect."""
DRAIN_SECONDS = 5.0
"""Time limit for sending a server the last events."""
logger = logging.getLogger(__name__)


@contextmanager
def prefect_server(serves: bool = False) -> Iterator[Callable[[], bool]]:
    """A server for the block: the one at PREFECT_API_URL, perhaps of a profile, or a temporary one.

    Yields a function to call before the server is needed, which waits until it answers. If it does
    not, the function returns False after a warning for a temporary server, and raises InputError
    for the user's own.

    A server that `serves` starts runs on schedules, has Prefect's pages, and logs.
    """
    if serves:
        os.environ.setdefault("PREFECT_LOGGING_LEVEL", "INFO")
    end_children_with_me()
    hosts = urllib.request.getproxies_environment().get("no")
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = f"{hosts},{LOOPBACK}" if hosts else LOOPBACK
    if url := own_url():
        if is_here(url):
            drop_unusable_proxies()
        with last_reports():
            yield lambda: require_answer(url)
        return
    drop_unusable_proxies()
    with scratch_folder() as home, temporary_server(home, serves) as is_up, last_reports():
        yield is_up


@contextmanager
def own_server() -> Iterator[Callable[[], bool] | None]:
    """Like `prefect_server`, but yields None unless PREFECT_API_URL or a profile names a server."""
    home = Path(os.environ.get("PREFECT_HOME", "~/.prefect")).expanduser()
    may_have = os.environ.get("PREFECT_API_URL") or (home / "profiles.toml").exists()
    if may_have and own_url():
        with prefect_server() as is_up:
            yield is_up
    else:
        yield None


def perform(verb: Callable[..., Any], is_up: Callable[[], bool] | None, *arguments: Any) -> Any:
    """Run a verb, as a flow if a server is up; returns its result.

    The server may go away: the work does not need it.
    """
    if is_up is not None:
        from flows import flows  # imports Prefect, while its server starts

        if is_up():
            try:
                return getattr(flows, verb.__name__)(*arguments)
            except Exception as error:
                if answers():
                    raise
                logger.warning(
                    "Prefect's server does not answer any more (%s): the run continues without it",
                    error,
                )
    return verb(*arguments)


@contextmanager
def last_reports() -> Iterator[None]:
    """After the block, send Prefect's pending events, without waiting long if it is gone."""
    try:
        yield
    finally:
        from prefect.events.worker import EventsWorker

        logging.getLogger(EventsWorker.__name__).setLevel(logging.CRITICAL)
        EventsWorker.drain_all(timeout=DRAIN_SECONDS)


def own_url() -> str | None:
    """The URL of the user's server, if any. Raises InputError if Prefect cannot read its settings.

    Settings are read only once, including those that keep it quiet.
    """
    os.environ |= {name: os.environ.get(name, value) for name, value in QUIET.items()}
    logging.getLogger("prefect").setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Failed to")  # create a home, which it does not need
            from prefect.settings import PREFECT_API_URL

            return PREFECT_API_URL.value() or None
    except (ValueError, OSError) as error:
        raise InputError(
            f"Prefect cannot read its settings ({one_line(error)}): correct the variable "
            "PREFECT_..., or the file that it comes from: profiles.toml, prefect.toml, "
            "pyproject.toml or .env"
        ) from error


def is_here(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def drop_unusable_proxies():
    """Unset proxies of kinds unknown to httpx, which break even clients that would not use them."""
    for name, proxy in list(os.environ.items()):
        if name.lower() in PROXIES and proxy:
            try:
                httpx.HTTPTransport(proxy=proxy if "://" in proxy else f"http://{proxy}").close()
            except (ValueError, ImportError, httpx.InvalidURL):
                del os.environ[name]


def require_answer(url: str) -> bool:
    """True. Raises InputError unless a server of this version at `url` accepts our credentials."""
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

    try:
        with (
            temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}),
            get_client({"timeout": ANSWER_SECONDS}, sync_client=True) as client,
        ):
            client.read_flows(limit=1)
            client.raise_for_api_version_mismatch()
    except (
        httpx.HTTPError,
        httpx.InvalidURL,
        ImportError,
        OSError,
        RuntimeError,
        ValueError,
    ) as error:
        raise InputError(
            f"the Prefect server at {url} does not answer as one ({one_line(error)}): start it, "
            "correct PREFECT_API_URL and its credentials, or unset it for a temporary server"
        ) from error
    return True


def answers() -> bool:
    """Whether Prefect's current server, the user's or a temporary one, answers."""
    try:
        return require_answer(own_url() or "")
    except InputError:
        return False
