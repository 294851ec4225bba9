"""Switches that are chosen instead of recorded: random, or the centre of each pooling window.

They depend on channel and position alone, so that windows and whole maps give the same.
"""

from __future__ import annotations

from functools import lru_cache
from zlib import crc32

import torch
from jaxtyping import Int
from torch import Tensor

from deconv.network.graph import Graph
from deconv.network.spatial import MaxPool
from deconv.projection.tapered import Maps

CHOSEN = ("random", "centre")


def chosen_switches(graph: Graph, pool: int, choice: str, seed: int, maps: Maps) -> Int[Tensor, "N C h w"]:
    """Return the switches of the max-pooling at index `pool` for each peak of `maps`, whatever won there."""
    node = graph.nodes[pool]
    operation, source = node.operation, graph.nodes[node.inputs[0]]
    assert isinstance(operation, MaxPool)
    taps = _taps(operation, source.map_size, node.shape, choice, f"{seed}/{pool}").to(maps.positions.device)
    of_peaks = maps.take(pool, taps, torch.zeros(len(maps.positions), dtype=torch.int64, device=taps.device))
    here = maps.operation(pool)
    assert isinstance(here, MaxPool)
    return here.switches(of_peaks, maps.needed(pool).size[1])


@lru_cache(maxsize=32)
def _taps(pool: MaxPool, size: tuple[int, ...], pooled: tuple[int, ...], choice: str, key: str) -> Tensor:
    """(1, C, H_out, W_out) the numbers of taps that lie inside the map of `size`; `pooled` is (C, H_out, W_out)."""
    axes = []
    for axis in (0, 1):
        low, high = _taps_inside(pool, axis, size[axis], pooled[axis + 1])
        if choice == "centre":
            axes.append(torch.full_like(low, pool.window.kernel[axis] // 2).clamp(low, high))
        else:
            axes.append(low + (_uniform(pooled, f"{key}/{axis}") * (high - low + 1)).long())
    return (axes[0] * pool.window.kernel[1] + axes[1]).expand(1, *pooled)


def _taps_inside(pool: MaxPool, axis: int, size: int, pooled: int) -> tuple[Tensor, Tensor]:
    """First and last tap inside the map, for each output along an axis; rows stand upright, (H_out, 1)."""
    w = pool.window
    first = torch.arange(pooled) * w.stride[axis] - w.before[axis]
    low = (-first).clamp_min(0).add(w.dilation[axis] - 1).div(w.dilation[axis], rounding_mode="floor")
    high = (size - 1 - first).div(w.dilation[axis], rounding_mode="floor").clamp_max(w.kernel[axis] - 1)
    shape = (-1, 1) if axis == 0 else (1, -1)
    return low.view(shape), high.view(shape)


def _uniform(shape: tuple[int, ...], key: str) -> Tensor:
    """Numbers in [0, 1) that depend on the key alone."""
    generator = torch.Generator().manual_seed(crc32(key.encode()))  # of a seed, torch's generator reads 32 bits
    return torch.rand(shape, generator=generator, dtype=torch.float64)
