"""Tasks by Ray, on a laptop's cores or on a cluster (https://docs.ray.io).

Ray places the tasks, starts them again when a worker dies, and carries what they give; nothing of that is done here.
Images and the run's folder are files: every machine must see them at the same paths.
"""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from logging.handlers import QueueHandler
from pickle import PicklingError
from queue import SimpleQueue
from typing import Any
from weakref import WeakKeyDictionary

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # before the import: Ray would report its use over the network

import ray
import torch
from ray.exceptions import RayError, RayTaskError

from deconv.engines.engine import SHARD_SIZE, Part, Shared, Step, Task
from deconv.engines.sending import network_from_bytes, network_to_bytes, packed, unpacked
from deconv.errors import BadInput, DeconvError, bad_value, check_count, first_line
from deconv.network import Network

TASKS_AHEAD = 2
"""Tasks sent for each place there is, so that no worker waits for the next."""
ADDED_AT_ONCE = 8
"""Parts that one merging task adds up."""

_sent: WeakKeyDictionary[Network, tuple[Any, Any]] = WeakKeyDictionary()
"""The driver's: the networks in Ray's store, each with the cluster it was sent to."""
_loaded: dict[Any, Network] = {}
"""A worker's: the networks of the work it does, each loaded once."""


@dataclass(frozen=True)
class OnRay:
    """Work done by Ray.

    - shard_size: images in a shard, about: shards are what is sent to workers, also if there is only one.
    - address: a cluster's; "auto" for the one that this machine belongs to, None to start Ray on this machine alone.
    - num_cpus_per_worker: cores, and threads, of one task.
    - num_gpus: GPUs of one task, or a fraction of one.
    - num_workers: how many tasks may run at once; None for as many as there is room for.
    - retries: how often a task is started again whose worker died.
    """

    shard_size: int = SHARD_SIZE
    address: str | None = None
    num_cpus_per_worker: int = 1
    num_gpus: int | float = 0
    num_workers: int | None = None
    retries: int = 3

    def __post_init__(self) -> None:
        check_count("shard_size", self.shard_size)
        check_count("num_cpus_per_worker", self.num_cpus_per_worker)
        if self.num_workers is not None:
            check_count("num_workers", self.num_workers)
        check_count("retries", self.retries, least=0)
        if not isinstance(self.num_gpus, int | float) or self.num_gpus < 0:
            raise bad_value("num_gpus", self.num_gpus, "a number, 0 or more")

    @contextmanager
    def connected(self) -> Iterator[None]:
        """Start or join Ray, and leave it again unless it was there before. Raises BadInput if none answers."""
        if ray.is_initialized():
            yield
            return
        alone: dict[str, Any] = {} if self.address else {"include_dashboard": False}
        try:
            # "local", since without an address Ray would join whatever it finds on this machine
            ray.init(address=self.address or "local", logging_level=logging.ERROR, log_to_driver=False, **alone)
        except Exception as error:  # Ray raises no less when its processes take too long to start
            raise BadInput(
                f"no Ray cluster can be used at address {self.address} ({first_line(error)}); start one with "
                "`ray start --head` and give its address, or use the engine local"
            ) from error
        try:
            yield
        finally:
            ray.shutdown()

    def computes_on(self, network: Network) -> dict[str, Any]:
        """Return what the last bit of an activation depends on, for the record of a task."""
        return {"device": self._device, "threads": self.num_cpus_per_worker}

    @property
    def _device(self) -> str:
        return "cuda" if self.num_gpus else "cpu"

    def work(
        self, do: Callable[[Shared, Task], Iterator[Step]], shared: Shared, tasks: Iterable[Task]
    ) -> Iterator[Step]:
        """Do the tasks in whatever order; yield the last that each yields. Raises what `do` raises."""
        content, networks = packed(shared)
        references = [_in_store(network) for network in networks]  # in a list, so that only who needs them fetches them
        job = ray.put((do, content))
        work = ray.remote(_work).options(**self._needs(), num_gpus=self.num_gpus)
        remaining = iter(tasks)
        waiting: list[Any] = []
        try:
            while True:
                for task in islice(remaining, max(0, self._places() - len(waiting))):
                    waiting.append(_sent_task(work, job, references, task, self._device, self.num_cpus_per_worker))
                if not waiting:
                    return
                (ready,), waiting = ray.wait(waiting, num_returns=1)
                last, warnings = _result(ready)
                for record in warnings:  # a worker has no run.log
                    logging.getLogger(record.name).handle(record)
                yield last
        finally:
            for task in waiting:
                ray.cancel(task, force=True)

    def merge(self, add: Callable[..., Part], parts: Sequence[Any]) -> Part:
        """Let workers add up the parts in groups, and groups of groups; only the sum comes back."""
        merge = ray.remote(_merge).options(**self._needs())
        level = list(parts)
        while True:
            groups = [level[at : at + ADDED_AT_ONCE] for at in range(0, len(level), ADDED_AT_ONCE)]
            level = [merge.remote(add, *group) for group in groups]
            if len(level) == 1:
                return copy.deepcopy(_result(level[0]))  # which may be written to, as Ray's own arrays may not

    def _needs(self) -> dict[str, Any]:
        return {"num_cpus": self.num_cpus_per_worker, "max_retries": self.retries}

    def _places(self) -> int:
        """Tasks to have on the way: `TASKS_AHEAD` for each that can run, as the cluster is now."""
        if self.num_workers is not None:
            return self.num_workers  # no more than that may run, so none may wait either
        cluster = ray.cluster_resources()
        rooms = [cluster.get("CPU", 0) / self.num_cpus_per_worker]
        if self.num_gpus:
            rooms.append(cluster.get("GPU", 0) / self.num_gpus)
        return TASKS_AHEAD * max(1, int(min(rooms)))


def _sent_task(work: Any, *arguments: Any) -> Any:
    """Send a task to a worker. Raises BadInput for one that does not pickle."""
    try:
        return work.remote(*arguments)
    except (TypeError, PicklingError) as error:  # Ray's own message is a page that draws the object
        raise BadInput(
            f"a task cannot be sent to Ray's workers ({first_line(error.__cause__ or error)}); expected images that "
            "pickle: a Dataset that holds no lock, generator or connection, or use the engine local"
        ) from error


def _work(
    job: tuple[Callable[..., Iterator[Any]], bytes], networks: list[Any], task: Any, device: str, threads: int
) -> tuple[Any, list[logging.LogRecord]]:
    """Do a task, in a worker: return the last that it yields, and what was warned of meanwhile."""
    torch.set_num_threads(threads)
    do, content = job
    with _warnings() as heard:
        *_, last = do(unpacked(content, _from_store(networks, device)), task)
    return last, [heard.get() for _ in range(heard.qsize())]


@contextmanager
def _warnings() -> Iterator[SimpleQueue[logging.LogRecord]]:
    heard: SimpleQueue[logging.LogRecord] = SimpleQueue()
    handler = QueueHandler(heard)
    handler.setLevel(logging.WARNING)
    log = logging.getLogger("deconv")
    log.addHandler(handler)
    try:
        yield heard
    finally:
        log.removeHandler(handler)


def _in_store(network: Network) -> Any:
    cluster = ray.get_runtime_context().get_job_id(), ray.get_runtime_context().get_node_id()
    if network not in _sent or _sent[network][0] != cluster:
        _sent[network] = cluster, ray.put(network_to_bytes(network))
    return _sent[network][1]


def _from_store(networks: Sequence[Any], device: str) -> list[Network]:
    """Return the networks; those that were loaded before are kept, those of other work are let go."""
    keys = [(reference, device) for reference in networks]
    for done in _loaded.keys() - set(keys):
        del _loaded[done]
    for reference, _ in keys:
        if (reference, device) not in _loaded:
            _loaded[reference, device] = network_from_bytes(ray.get(reference), device)
    return [_loaded[key] for key in keys]


def _merge(add: Callable[..., Part], *parts: Any) -> Part:
    return add(*copy.deepcopy(parts))  # Ray's own arrays may not be written to


def _result(ready: Any) -> Any:
    """Return what a task gives. Its own errors come as they were raised there, Ray's as one line."""
    try:
        return ray.get(ready)
    except RayError as error:
        failure = error.cause if isinstance(error, RayTaskError) else error
    if not isinstance(failure, RayError):
        raise failure from None
    raise DeconvError(
        f"a worker of Ray failed ({first_line(failure)}); what it had finished is kept: start again to go on"
    ) from failure
