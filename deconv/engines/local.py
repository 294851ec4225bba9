"""Task after task in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from deconv.errors import BadInput
from deconv.network import Network

SHARD_SIZE = 4096

Shared = TypeVar("Shared")
Task = TypeVar("Task")
Step = TypeVar("Step")
Part = TypeVar("Part")


@dataclass(frozen=True)
class Local:
    """The engine that a run has when nothing else is said. shard_size: images in a shard, about."""

    shard_size: int = SHARD_SIZE

    def __post_init__(self) -> None:
        check_counts(shard_size=self.shard_size)

    always_in_shards = False  # images that fit into one shard leave no shard behind

    def connected(self) -> AbstractContextManager[None]:
        """Nothing to connect to."""
        return nullcontext()

    def computes_on(self, network: Network) -> dict[str, Any]:
        """What the last bit of an activation depends on, for the record of a task."""
        return {"device": network.device.type, "threads": torch.get_num_threads()}

    def work(
        self, do: Callable[[Shared, Task], Iterator[Step]], shared: Shared, tasks: Iterable[Task]
    ) -> Iterator[Step]:
        """Do the tasks in order; all that they yield. Raises what `do` raises."""
        for task in tasks:
            yield from do(shared, task)

    def merge(self, add: Callable[..., Part], parts: Sequence[Any]) -> Part:
        """All parts in one go."""
        return add(*parts)


def check_counts(**counts: int | None) -> None:
    """Raise BadInput for a number below 1."""
    for name, value in counts.items():
        if value is not None and value < 1:
            raise BadInput(f"engine.{name}={value}: expected 1 or more")
