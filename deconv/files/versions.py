"""The versions of what a run's numbers come from, asked of the installation: nothing is imported to tell them."""

from __future__ import annotations

import platform
from functools import cache
from importlib import metadata

DISTRIBUTIONS = ("torch", "torchvision", "numpy", "scipy", "pillow", "matplotlib")
"""What every installation has; a record would not be the same with an extra installed meanwhile."""


def versions() -> dict[str, str]:
    """Return the versions that decide a run's numbers: deconv, python and the libraries below it."""
    own = {"deconv": _version("deconvnet"), "python": platform.python_version()}
    return own | {name: _version(name) for name in DISTRIBUTIONS}


@cache
def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "not installed"
