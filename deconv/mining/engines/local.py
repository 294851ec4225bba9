"""Shard after shard in this process."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from deconv.errors import BadInput
from deconv.mining.partials import Partial
from deconv.mining.passes import Pass
from deconv.mining.tasks import Progress, Task, perform
from deconv.network import Network

SHARD_SIZE = 4096


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
        """What the last bit of an activation depends on, for the record of a shard."""
        return {"device": network.device.type, "threads": torch.get_num_threads()}

    def work(self, look: Pass, tasks: Iterable[Task]) -> Iterator[Progress]:
        """Do the tasks in order, batch by batch. Raises what `perform` raises."""
        for task in tasks:
            yield from perform(look, task)

    def merge(self, paths: Sequence[Path]) -> Partial:
        """All records together, one after another."""
        return merged(paths)


def merged(parts: Sequence[Path | Partial]) -> Partial:
    """Some records, or what others were merged to, as one."""
    whole, *rest = parts
    total = _loaded(whole)
    for part in rest:
        total.merge(_loaded(part))
    return total


def _loaded(part: Path | Partial) -> Partial:
    return Partial.load(part)[0] if isinstance(part, Path) else part


def check_counts(**counts: int | None) -> None:
    """Raise BadInput for a number below 1."""
    for name, value in counts.items():
        if value is not None and value < 1:
            raise BadInput(f"engine.{name}={value}: expected 1 or more")
