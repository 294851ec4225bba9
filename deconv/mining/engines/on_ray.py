"""The same shards as Ray tasks, on a laptop's cores or on a cluster (https://docs.ray.io).

Ray places the tasks, starts them again when a worker dies, and carries what they give; nothing of that is done here.
Images and the run's folder are files: every machine must see them at the same paths.
"""

from __future__ import annotations

import copy
import copyreg
import io
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from itertools import islice
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # before the import: Ray would report its use over the network

import ray
import torch
from ray.exceptions import RayError, RayTaskError
from torch._ops import OpOverload

from deconv.errors import BadInput, DeconvError, first_line
from deconv.mining.engines.local import SHARD_SIZE, check_counts, merged
from deconv.mining.partials import Partial
from deconv.mining.passes import Pass
from deconv.mining.tasks import Done, Progress, Task, perform
from deconv.network import Network

log = logging.getLogger("deconv")

TASKS_AHEAD = 2
"""Tasks sent for each place there is, so that no worker waits for the next."""
MERGED_AT_ONCE = 8
"""Records that one merging task adds up."""

_sent: WeakKeyDictionary[Network, tuple[Any, Any]] = WeakKeyDictionary()
"""Of the driver: the networks in Ray's store, each with the cluster it was sent to."""
_loaded: dict[Any, Network] = {}
"""Of a worker: the network it works with, loaded once in its life unless another is asked for."""


@dataclass(frozen=True)
class OnRay:
    """Shards as Ray tasks.

    address: of a cluster, "auto" for the one that this machine belongs to, None to start Ray on this machine alone.
    num_cpus_per_worker: cores, and threads, of one task.  num_gpus: GPUs of one task, or a part of one.
    num_workers: how many tasks may run at once; None for as many as there is room for.
    retries: how often a task is started again whose worker died.
    """

    shard_size: int = SHARD_SIZE
    address: str | None = None
    num_cpus_per_worker: int = 1
    num_gpus: int | float = 0
    num_workers: int | None = None
    retries: int = 3

    def __post_init__(self) -> None:
        check_counts(
            shard_size=self.shard_size, num_cpus_per_worker=self.num_cpus_per_worker, num_workers=self.num_workers
        )
        for name in ("num_gpus", "retries"):
            if getattr(self, name) < 0:
                raise BadInput(f"engine.{name}={getattr(self, name)}: expected 0 or more")

    always_in_shards = True  # shards are what is sent away

    @contextmanager
    def connected(self) -> Iterator[None]:
        """Ray started or joined, and left again unless it was there before. Raises BadInput if none answers."""
        if ray.is_initialized():
            yield
            return
        alone: dict[str, Any] = {} if self.address else {"include_dashboard": False}
        try:
            ray.init(address=self.address, logging_level=logging.ERROR, log_to_driver=False, **alone)
        except (ConnectionError, RayError, ValueError, RuntimeError) as error:
            raise BadInput(
                f"no Ray cluster can be used at engine.address={self.address} ({first_line(error)}); start one with "
                "`ray start --head`, or leave the address out to use this machine alone"
            ) from error
        try:
            yield
        finally:
            ray.shutdown()

    def computes_on(self, network: Network) -> dict[str, Any]:
        """What the last bit of an activation depends on, for the record of a shard."""
        return {"device": self._device, "threads": self.num_cpus_per_worker}

    @property
    def _device(self) -> str:
        return "cuda" if self.num_gpus else "cpu"

    def work(self, look: Pass, tasks: Iterable[Task]) -> Iterator[Progress]:
        """Do the tasks in whatever order; each is told when it is done. Raises what `perform` raises."""
        network = [_in_store(look.network)]  # in a list, so that a worker fetches it once and not with every task
        rest = ray.put({part.name: getattr(look, part.name) for part in fields(look) if part.name != "network"})
        do = ray.remote(_perform).options(**self._needs(), num_gpus=self.num_gpus)
        left = iter(tasks)
        waiting: list[Any] = []
        try:
            while True:
                for task in islice(left, max(0, self._places() - len(waiting))):
                    waiting.append(do.remote(network, rest, task.alone(), self._device, self.num_cpus_per_worker))
                if not waiting:
                    return
                (ready,), waiting = ray.wait(waiting, num_returns=1)
                done = _result(ready)
                for _, key, reason in done.unreadable:  # a worker has no run.log
                    log.warning("skipped %s: %s", key, reason)
                yield Progress(done.mined, done)
        finally:
            for task in waiting:
                ray.cancel(task, force=True)

    def merge(self, paths: Sequence[Path]) -> Partial:
        """All records together, added up by workers in groups, and groups of groups: one of them comes back."""
        add = ray.remote(_merge).options(**self._needs())
        level: list[Any] = [path.absolute() for path in paths]
        while True:
            groups = [level[at : at + MERGED_AT_ONCE] for at in range(0, len(level), MERGED_AT_ONCE)]
            level = [add.remote(*group) for group in groups]
            if len(level) == 1:
                return copy.deepcopy(_result(level[0]))  # which may be written to, as Ray's own arrays may not

    def _needs(self) -> dict[str, Any]:
        return {"num_cpus": self.num_cpus_per_worker, "max_retries": self.retries}

    def _places(self) -> int:
        """Tasks to have on the way: `TASKS_AHEAD` for each that can run, as the cluster is now."""
        if self.num_workers is not None:
            return self.num_workers  # no more than that may run, so none may wait either
        there = ray.cluster_resources()
        rooms = [there.get("CPU", 0) / self.num_cpus_per_worker]
        if self.num_gpus:
            rooms.append(there.get("GPU", 0) / self.num_gpus)
        return TASKS_AHEAD * max(1, int(min(rooms)))


def _perform(network: list[Any], rest: dict[str, Any], task: Task, device: str, threads: int) -> Done:
    """A shard, in a worker."""
    torch.set_num_threads(threads)
    *_, last = perform(Pass(_from_store(network[0], device), **rest), task)
    assert last.done is not None
    return last.done


def _in_store(network: Network) -> Any:
    cluster = ray.get_runtime_context().get_job_id(), ray.get_runtime_context().get_node_id()
    if network not in _sent or _sent[network][0] != cluster:
        file = io.BytesIO()
        torch.save(network, file)  # not pickle's form alone, since this can be loaded onto another device
        _sent[network] = cluster, ray.put(file.getvalue())
    return _sent[network][1]


def _from_store(network: Any, device: str) -> Network:
    if (network, device) not in _loaded:
        _loaded.clear()
        _loaded[network, device] = torch.load(io.BytesIO(ray.get(network)), map_location=device, weights_only=False)
    return _loaded[network, device]


def _operation(name: str, overload: str) -> Any:
    space, _, short = name.partition("::")
    return getattr(getattr(getattr(torch.ops, space), short), overload)


# A traced network holds such functions, which pickle does not know; they are there by name in every process.
copyreg.pickle(OpOverload, lambda function: (_operation, (function._schema.name, function._overloadname)))


def _merge(*parts: Path | Partial) -> Partial:
    return merged(copy.deepcopy(parts))  # Ray's own arrays may not be written to


def _result(ready: Any) -> Any:
    """What a task gives. Its own errors come as they were raised there, Ray's as one line."""
    try:
        return ray.get(ready)
    except RayTaskError as error:
        raise error.cause from None
    except RayError as error:
        raise DeconvError(
            f"a worker of Ray failed ({first_line(error)}); what it had finished is kept: start again to go on"
        ) from error
