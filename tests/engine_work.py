"""Work that knows nothing of mining, in a module that Ray's workers can import."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from deconv.network import Network


def compare_networks(shared: dict[str, Any], task: int) -> Iterator[tuple[int, list[str], bool]]:
    """The hashes of two networks, and whether a third is the first itself; a warning, and something before the end."""
    networks: list[Network] = [shared["first"], *shared["others"]]
    yield -1, [], False
    logging.getLogger("deconv").warning("task %d was here", task)
    yield task, [network.weights_hash for network in networks[:2]], networks[2] is networks[0]


def where(shared: float, task: int) -> Iterator[tuple[int, str]]:
    """Yield the task and the id of the machine that does it, after that many seconds."""
    import ray  # here, since what needs it is left out where it is not installed

    time.sleep(shared)
    yield task, ray.get_runtime_context().get_node_id()


def called(shared: None, task: int) -> Iterator[str]:
    """Yield what the process calls itself meanwhile."""
    yield Path("/proc/self/cmdline").read_text().strip("\0 ")


def nested(*parts: tuple[str, int]) -> tuple[str, int]:
    """All texts in order, and how many sums deep that is."""
    return " ".join(text for text, _ in parts), 1 + max(depth for _, depth in parts)
