"""Tasks by Ray, on a laptop's cores or on a cluster (https://docs.ray.io).

Ray places the tasks, starts them again when a worker or its machine dies, and carries what they give; nothing of that
is done here. Machines may join and leave meanwhile. Images and the run's folder are files: every machine must see them
at the same paths.
"""

from __future__ import annotations

import copy
import logging
import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from logging.handlers import QueueHandler
from math import ceil
from pickle import PicklingError
from queue import SimpleQueue
from typing import Any
from weakref import WeakKeyDictionary

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # before the import: Ray would report its use over the network

import ray
import torch
from ray.exceptions import RayError, RayTaskError

from deconv.engines.engine import SHARD_SIZE, Part, Shared, Step, Task
from deconv.engines.naming import named
from deconv.engines.sending import network_from_bytes, network_to_bytes, packed, unpacked
from deconv.errors import BadInput, DeconvError, bad_value, check_count, counted, first_line
from deconv.network import Network

TASKS_AHEAD = 2
"""Tasks sent for each place there is, so that no worker waits for the next and a cluster that can grow does."""
LOOK_EVERY = 2.0
"""Seconds after which it is looked anew which machines there are."""
LEAST_GPU = 1e-4
"""The least part of a GPU that Ray counts."""
ADDED_AT_ONCE = 8
"""Parts that one merging task adds up; more, if there would be more than three levels of such tasks."""
MERGING = "merging"
"""The name of such a task."""

log = logging.getLogger("deconv")

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
    - num_gpus: GPUs of one task, or a part of one: with 0.25 four tasks share each. Ray counts them; that their memory
      is enough is not looked at.
    - num_workers: how many tasks may run at once; None for as many as there is room for, on whatever machines there
      are at that moment.
    - retries: how often a task is started again whose worker died, alone or with its machine.
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
        gpus = self.num_gpus
        if isinstance(gpus, bool) or not isinstance(gpus, int | float) or not 0 <= gpus < float("inf"):
            raise bad_value("num_gpus", gpus, "a number, 0 or more")
        if 0 < gpus < LEAST_GPU or (gpus > 1 and gpus != int(gpus)):
            raise bad_value("num_gpus", gpus, f"a whole number, or a part of one GPU, {LEAST_GPU} or more")

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
                "`ray start --head` and give its address, with RAY_AUTH_MODE=token where it asks for one, or use the "
                "engine local"
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
        self,
        do: Callable[[Shared, Task], Iterator[Step]],
        shared: Shared,
        tasks: Iterable[Task],
        name: Callable[[Task], str] = str,
    ) -> Iterator[Step]:
        """Do the tasks in whatever order; yield the last that each yields. Ray's dashboard shows them by name.

        Raises what `do` raises; BadInput for tasks that need more than this machine has, if there is no other. In a
        cluster they wait for a machine that has it to join, which is logged.
        """
        self._check_room()
        content, arrays, networks = packed(shared)
        references = [_in_store(network) for network in networks]  # in a list, so that only who needs them fetches them
        job = ray.put((do, content, arrays))
        work, needs = ray.remote(_work), self._needs() | {"num_gpus": self.num_gpus}
        remaining = named(tasks, name)
        waiting: dict[Any, str] = {}
        places, looked = self._places(), time.monotonic()
        try:
            while True:
                if time.monotonic() - looked > LOOK_EVERY:
                    places, looked = self._places(), time.monotonic()
                for task, own_name, called in islice(remaining, max(0, places - len(waiting))):
                    work_named = work.options(**needs, name=called)
                    sent = _sent_task(work_named, job, references, task, self._device, self.num_cpus_per_worker)
                    waiting[sent] = own_name
                if not waiting:
                    return
                for ready in ray.wait(list(waiting), num_returns=1, timeout=LOOK_EVERY)[0]:
                    last, warnings = _result(ready, waiting.pop(ready))
                    for record in warnings:  # a worker has no run.log
                        logging.getLogger(record.name).handle(record)
                    yield last
        finally:
            for task in waiting:
                ray.cancel(task, force=True)

    def merge(self, add: Callable[..., Part], parts: Sequence[Any]) -> Part:
        """Let workers add up the parts in groups, and groups of groups; only the sum comes back.

        A sum is a part of the next as soon as it is sent, so that few are there at a time, however many parts.
        """
        merge = ray.remote(_merge).options(**self._needs(), name=MERGING)
        at_once, places = max(ADDED_AT_ONCE, ceil(len(parts) ** (1 / 3))), self._places()  # three levels at most
        waiting: list[Any] = []

        def sums(level: Iterator[Any], sent: Callable[[list[Any]], Any]) -> Iterator[Any]:
            while group := list(islice(level, at_once)):
                while len(waiting) >= places:
                    waiting.remove(ray.wait(waiting)[0][0])
                waiting.append(sent(group))
                yield waiting[-1]

        # In one argument, since Ray keeps those of all tasks on whose results another one depends.
        level, count = sums(iter(parts), lambda group: merge.remote(add, group)), ceil(len(parts) / at_once)
        while count > 1:
            level, count = sums(level, lambda group: merge.remote(add, [], *group)), ceil(count / at_once)
        return copy.deepcopy(_result(next(level), MERGING))  # which may be written to, as Ray's own arrays may not

    def _needs(self) -> dict[str, Any]:
        return {"num_cpus": self.num_cpus_per_worker, "max_retries": self.retries}

    def _places(self) -> int:
        """Tasks to have on the way: `TASKS_AHEAD` for each that can run, as the cluster is now."""
        if self.num_workers is not None:
            return self.num_workers  # no more than that may run, so none may wait either
        return TASKS_AHEAD * max(1, sum(self._tasks_on(cpus, gpus) for cpus, gpus in _machines()))

    def _tasks_on(self, cpus: float, gpus: float) -> int:
        """How many tasks a machine can do at once. A part of a GPU is of one, never of two."""
        by_cpus = int(cpus / self.num_cpus_per_worker)
        if not self.num_gpus:
            return by_cpus
        return min(by_cpus, int(gpus) * int(1 / self.num_gpus) if self.num_gpus < 1 else int(gpus / self.num_gpus))

    def _check_room(self) -> None:
        """Raise BadInput if this machine, being alone, is too small for a task; of a cluster that is logged."""
        machines = _machines()
        if any(self._tasks_on(cpus, gpus) for cpus, gpus in machines):
            return
        cpus, gpus = (max((machine[n] for machine in machines), default=0.0) for n in range(2))
        if self.address:
            needs = counted(self.num_cpus_per_worker, "core") + (f" and {self.num_gpus:g} GPU" if self.num_gpus else "")
            log.warning("no machine of the cluster at %s has %s for a task: waiting for one", self.address, needs)
        elif self.num_gpus > gpus:
            remedy = "give num_gpus=0, or the address of a cluster that has more"
            raise bad_value("num_gpus", self.num_gpus, f"at most {gpus:g}, the GPUs that Ray sees here", remedy)
        else:
            remedy = "give fewer, or the address of a cluster of larger machines"
            raise bad_value(
                "num_cpus_per_worker", self.num_cpus_per_worker, f"at most {cpus:g}, the cores of this machine", remedy
            )


def _machines() -> list[tuple[float, float]]:
    """The cores and GPUs of each machine that is there now."""
    living = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [(has.get("CPU", 0.0), has.get("GPU", 0.0)) for has in living]


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
    job: tuple[Callable[..., Iterator[Any]], bytes, list[Any]],
    networks: list[Any],
    task: Any,
    device: str,
    threads: int,
) -> tuple[Any, list[logging.LogRecord]]:
    """Do a task, in a worker: return the last that it yields, and what was warned of meanwhile."""
    if device == "cuda" and not torch.cuda.is_available():
        raise BadInput(
            f"num_gpus: torch sees none of the GPUs that Ray has on {socket.gethostname()}; expected CUDA wherever Ray "
            "has GPUs: install its driver and a torch for it, or give num_gpus=0"
        )
    torch.set_num_threads(threads)
    do, content, arrays = job
    with _warnings() as heard:
        *_, last = do(unpacked(content, arrays, _from_store(networks, device)), task)
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


def _merge(add: Callable[..., Part], parts: list[Any], *sums: Any) -> Part:
    return add(*copy.deepcopy([*parts, *sums]))  # Ray's own arrays may not be written to


def _result(ready: Any, name: str) -> Any:
    """Return what a task gives. Its own errors come as they were raised there, Ray's as one line."""
    try:
        return ray.get(ready)
    except RayError as error:
        failure = error.cause if isinstance(error, RayTaskError) else error
    if not isinstance(failure, RayError):
        raise failure from None
    raise DeconvError(
        f"a worker of Ray failed at {name!r} ({first_line(failure)}); what was finished is kept: start again to go on"
    ) from failure
