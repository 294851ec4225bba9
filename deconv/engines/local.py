"""Task after task in this process."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from deconv.engines.engine import SHARD_SIZE, Part, Shared, Step, Task
from deconv.errors import check_count
from deconv.network import Network

log = logging.getLogger("deconv")


@dataclass(frozen=True)
class Local:
    """Work in this process, one task after another: what a run has when nothing else is said.

    shard_size: images in a shard, about; images that fit into one shard leave no record of it behind.
    """

    shard_size: int = SHARD_SIZE

    def __post_init__(self) -> None:
        check_count("shard_size", self.shard_size)

    def connected(self) -> AbstractContextManager[None]:
        """Return a context that does nothing."""
        return nullcontext()

    def computes_on(self, network: Network) -> dict[str, Any]:
        """Return what the last bit of an activation depends on, for the record of a task."""
        return {"device": network.device.type, "threads": torch.get_num_threads()}

    def work(
        self,
        do: Callable[[Shared, Task], Iterator[Step]],
        shared: Shared,
        tasks: Iterable[Task],
        name: Callable[[Task], str] = str,
    ) -> Iterator[Step]:
        """Do the tasks in order; yield all that they yield. The name of each is logged for debugging.

        Raises what `do` raises.
        """
        for task in tasks:
            log.debug("%s", name(task))
            yield from do(shared, task)

    def merge(self, add: Callable[..., Part], parts: Sequence[Any]) -> Part:
        """Add up all parts in one go."""
        return add(*parts)
