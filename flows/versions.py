"""The versions at work, read from the metadata of what is installed: nothing of it is imported."""

import platform

from cluster.nodes import installed

PACKAGE = "dwszoo"
SHOWN = ("torch", "ray", "deepspeed", "prefect")
"""Packages whose versions decide what works."""


def versions() -> dict[str, str]:
    """Of this package, of Python and of what it builds on; "none" where one is not installed."""
    return {
        PACKAGE: installed(PACKAGE),
        "Python": platform.python_version(),
        **{name: installed(name) for name in SHOWN},
    }
