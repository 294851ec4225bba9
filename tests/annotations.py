"""Annotations that are not checked for a moment, so that a test meets a mistake as a user does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import jaxtyping


@contextmanager
def jaxtyping_off() -> Iterator[None]:
    """Leave annotations unchecked while the block runs: users have no import hook."""
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)
