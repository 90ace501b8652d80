"""The command `dwszoo`, which first checks that no other module shadows one of our packages.

It is not in a package, as that could be shadowed itself.
"""

import signal
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).parent
PACKAGES = ("cluster", "dwsnet", "flows", "pipeline")


def command():
    if problem := shadowed():
        raise SystemExit(f"dwszoo: {problem}")
    try:
        from flows.cli import command
    except KeyboardInterrupt:
        raise SystemExit(128 + signal.SIGINT) from None
    command()


def shadowed() -> str | None:
    """A message if Python finds another module first under the name of one of our packages."""
    for name in PACKAGES:
        spec = find_spec(name)
        places = [*(spec.submodule_search_locations or ()), spec.origin] if spec else []
        found = Path(places[0]) if places and places[0] else ROOT / name
        if not found.samefile(ROOT / name):
            return (
                f"the package {name} must be the one in {ROOT}, but Python finds {found} first: "
                "rename that, or take its folder out of PYTHONPATH"
            )
    return None


if __name__ == "__main__":
    command()
