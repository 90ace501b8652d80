"""Versions of installed packages, read from their metadata without importing them."""

import platform

from cluster.nodes import installed

PACKAGE = "dwszoo"
SHOWN = ("torch", "ray", "deepspeed", "prefect")
"""Packages whose versions matter most."""


def versions() -> dict[str, str]:
    """Versions of this package, Python and `SHOWN`; "none" if one is not installed."""
    return {
        PACKAGE: installed(PACKAGE),
        "Python": platform.python_version(),
        **{name: installed(name) for name in SHOWN},
    }
