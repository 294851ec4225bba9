"""Where work in many parts is done: in this process, or by Ray on many cores or machines."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeVar, runtime_checkable

from deconv.engines.local import Local
from deconv.errors import BadInput, UnknownName, nearest
from deconv.network import Network

NAMES = ("local", "ray")

Shared = TypeVar("Shared")
Task = TypeVar("Task")
Step = TypeVar("Step")
Part = TypeVar("Part")


@runtime_checkable
class Engine(Protocol):
    """What works on tasks.

    shard_size: about how many images a task that goes through images should have.  always_in_shards: also if there is
    only one.
    """

    @property
    def shard_size(self) -> int: ...

    @property
    def always_in_shards(self) -> bool: ...

    def connected(self) -> AbstractContextManager[None]:
        """What `work` and `merge` need while they run."""

    def computes_on(self, network: Network) -> dict[str, Any]:
        """What the last bit of an activation depends on, for the record of a task."""

    def work(
        self, do: Callable[[Shared, Task], Iterator[Step]], shared: Shared, tasks: Iterable[Task]
    ) -> Iterator[Step]:
        """What `do(shared, task)` yields for each task, or only the last of it, in whatever order the tasks end.

        do: a function of a module, which yields at least once.  shared: whatever all tasks need, networks among it;
        they are there on the device that the engine works on.  Raises what `do` raises.
        """

    def merge(self, add: Callable[..., Part], parts: Sequence[Any]) -> Part:
        """All parts, and what came of some of them, added up by `add(*parts)` in groups of any size, in this order."""


def open_engine(name: str, **options: Any) -> Engine:
    """The engine `name` with its options, as configs/engine/ has them.

    Raises UnknownName for another name; BadInput for an option that cannot be, or if Ray is not installed.
    """
    if name not in NAMES:
        raise UnknownName(f"unknown engine {name!r}; expected one of {', '.join(NAMES)}{nearest(name, NAMES)}")
    if name == "local":
        return Local(**options)
    try:
        import ray  # noqa: F401
    except ImportError as error:
        raise BadInput(
            "engine=ray needs Ray, which is not installed: pip install 'deconvnet[ray]', or use engine=local"
        ) from error
    from deconv.engines.on_ray import OnRay  # after the check: it imports ray

    return OnRay(**options)
