"""The processes of a local cluster without which Ray cannot work."""

from pathlib import Path

ESSENTIAL = {"raylet", "gcs_server"}


def require_ray():
    """Raises ConnectionError if a local cluster, perhaps while it starts, has lost such a process.

    Ray itself notices up to a minute later, and then ends this process.
    """
    from ray._private import worker

    node = worker._global_node
    ended = {kind for kind, _ in node.dead_processes()} if node is not None else ended_children()
    if missing := ended & ESSENTIAL:
        raise ConnectionError(
            f"Ray's {' and '.join(sorted(missing))} on this machine ended (killed, or out of "
            "memory): run the same command again to continue"
        )


def ended_children() -> set[str]:
    """Names of programs that this process has started, and that have ended without its notice.

    Empty except on Linux.
    """
    found = set()
    for thread in Path("/proc/self/task").glob("*/children"):
        for child in contents(thread).split():
            name, _, state = contents(Path(f"/proc/{child}/stat")).rpartition(")")
            if state.startswith(" Z"):
                found.add(name.partition("(")[2])
    return found


def contents(file: Path) -> str:
    """Of a file below /proc; empty if its thread or process is gone by now."""
    try:
        return file.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
