"""Where work in many parts is done: in this process, or by Ray on many cores or machines."""

from __future__ import annotations

from typing import Any

from deconv.engines.engine import Engine
from deconv.engines.local import Local
from deconv.errors import BadInput, check_choice

__all__ = ["Engine", "Local", "open_engine"]

NAMES = ("local", "ray")


def open_engine(name: str, **options: Any) -> Engine:
    """Return the engine "local" or "ray" with its options.

    Raises UnknownName for another name; BadInput for an option that cannot be used, or if Ray is not installed.
    """
    if check_choice("engine", name, NAMES) == "local":
        return Local(**options)
    try:
        import ray  # noqa: F401
    except ImportError as error:
        raise BadInput(
            "the engine ray needs Ray, which is not installed: pip install 'deconvnet[ray]', or use the engine local"
        ) from error
    from deconv.engines.on_ray import OnRay  # after the check: it imports ray

    return OnRay(**options)
