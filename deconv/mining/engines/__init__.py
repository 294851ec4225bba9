"""Where the shards of a pass are worked on: in this process, or by Ray on many cores or machines."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from deconv.errors import BadInput, UnknownName, nearest
from deconv.mining.engines.local import Local
from deconv.mining.partials import Partial
from deconv.mining.passes import Pass
from deconv.mining.tasks import Progress, Task
from deconv.network import Network

NAMES = ("local", "ray")


@runtime_checkable
class Engine(Protocol):
    """What works on shards.

    shard_size: about how many images a shard has.  always_in_shards: also if there is only one.
    """

    @property
    def shard_size(self) -> int: ...

    @property
    def always_in_shards(self) -> bool: ...

    def connected(self) -> AbstractContextManager[None]:
        """What `work` and `merge` need while they run."""

    def computes_on(self, network: Network) -> dict[str, Any]:
        """What the last bit of an activation depends on, for the record of a shard."""

    def work(self, look: Pass, tasks: Iterable[Task]) -> Iterator[Progress]:
        """Do the tasks, in any order, each record whole or not at all. Raises what `tasks.perform` does."""

    def merge(self, paths: Sequence[Path]) -> Partial:
        """All these records together."""


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
    from deconv.mining.engines.on_ray import OnRay  # after the check: it imports ray

    return OnRay(**options)
