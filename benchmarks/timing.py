"""Two works timed in turn, A B A B, so that a noisy machine hits both; and what machine it was."""

from __future__ import annotations

import gc
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

Work = Callable[[], object]

SHORTEST_LAP = 0.2
"""Seconds; shorter works are run again until this is full, so that the clock and the caches do not decide."""


@dataclass(frozen=True)
class Lap:
    """Seconds of one run of a work, by the clock and by the processor time of all threads of this process."""

    wall: float
    cpu: float


@dataclass(frozen=True)
class Pair:
    """Laps of ours and of a peer, taken in turn; `ours_items` and `peer_items` are how much each lap did."""

    ours: list[Lap]
    peer: list[Lap]
    ours_items: int = 1
    peer_items: int = 1

    def ratios(self, kind: str = "wall") -> list[float]:
        """The peer's time an item over ours, pair by pair."""
        scale = self.ours_items / self.peer_items
        return [scale * getattr(b, kind) / getattr(a, kind) for a, b in zip(self.ours, self.peer, strict=True)]

    def ours_each(self) -> float:
        """Our median seconds an item."""
        return statistics.median(lap.wall for lap in self.ours) / self.ours_items

    def peer_each(self) -> float:
        """The peer's median seconds an item."""
        return statistics.median(lap.wall for lap in self.peer) / self.peer_items


def compare(ours: Work, peer: Work, repeats: int, ours_items: int = 1, peer_items: int = 1) -> Pair:
    """Both once to warm up, then `repeats` laps of each in turn. Numbers must have been checked before."""
    ours()
    peer()
    laps = [(clock(ours), clock(peer)) for _ in range(repeats)]
    return Pair([a for a, _ in laps], [b for _, b in laps], ours_items, peer_items)


def clock(work: Work) -> Lap:
    """One lap: the mean of as many runs as fill SHORTEST_LAP, a device's queue emptied before and after."""
    gc.collect()
    _wait_for_device()
    wall, cpu, runs = time.perf_counter(), time.process_time(), 0
    while not runs or time.perf_counter() - wall < SHORTEST_LAP:
        work()
        _wait_for_device()
        runs += 1
    return Lap((time.perf_counter() - wall) / runs, (time.process_time() - cpu) / runs)


def fastest(choices: Iterable[tuple[str, Work, int]]) -> str:
    """The name of the work with the least time an item, of (name, work, items); the better of two laps after a warm-up.

    For settings of a peer, so that it is met at its best.
    """
    times: dict[str, float] = {}
    for name, work, items in choices:
        work()
        times[name] = min(clock(work).wall, clock(work).wall) / items
    return min(times, key=lambda name: times[name])


def machine() -> dict[str, object]:
    """What the numbers were taken on; load: processes that wanted to run, over the last minute."""
    about: dict[str, object] = {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "amx": has_amx(),
        "load": round(os.getloadavg()[0], 2),
        "system": platform.platform(),
    }
    if torch.cuda.is_available():
        about["cuda"] = torch.cuda.get_device_name()
    return about


def has_amx() -> bool:
    """Whether the processor multiplies bfloat16 matrices in tiles (AMX)."""
    return "amx_bf16" in _cpuinfo("flags")


def _processor() -> str:
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def _cpuinfo(field: str) -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(field)), "")


def _wait_for_device() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
