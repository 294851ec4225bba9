"""What an engine is: it works on tasks, wherever that may be, and adds up what they give."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeVar, runtime_checkable

from deconv.network import Network

SHARD_SIZE = 4096

Shared = TypeVar("Shared")
Task = TypeVar("Task")
Step = TypeVar("Step")
Part = TypeVar("Part")


@runtime_checkable
class Engine(Protocol):
    """Works on tasks. shard_size: about how many images a task that goes through images should have."""

    @property
    def shard_size(self) -> int: ...

    def connected(self) -> AbstractContextManager[None]:
        """Return what must be entered while `work` and `merge` run."""

    def computes_on(self, network: Network) -> dict[str, Any]:
        """Return what the last bit of an activation depends on, for the record of a task."""

    def work(
        self,
        do: Callable[[Shared, Task], Iterator[Step]],
        shared: Shared,
        tasks: Iterable[Task],
        name: Callable[[Task], str] = str,
    ) -> Iterator[Step]:
        """Yield what `do(shared, task)` yields for each task, or only the last of it, in whatever order the tasks end.

        - do: a function of a module, which yields at least once.
        - shared: whatever all tasks need, networks among it; they are there on the device that the engine works on.
          Large arrays in it may not be written to.
        - name: what a task is called where people look on: a few words, such as "comparing fire5 units 3, 7, 12".

        Raises what `do` raises.
        """

    def merge(self, add: Callable[..., Part], parts: Sequence[Any]) -> Part:
        """Return the sum of all parts: `add(*parts)` adds up groups of them, and of what came of groups, in order."""
