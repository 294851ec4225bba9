"""Switches that are chosen instead of recorded: random, or the centre of each pooling window.

They depend on channel and place alone, so that windows and whole maps give the same.
"""

from __future__ import annotations

from functools import lru_cache
from zlib import crc32

import torch
from torch import Tensor

from deconv.network.graph import Graph
from deconv.network.spatial import MaxPool
from deconv.projection.windows import WholeMaps, Windows, cut

CHOSEN = ("random", "centre")


def chosen_switches(
    graph: Graph, position: int, count: int, choice: str, seed: int, maps: WholeMaps | Windows
) -> Tensor:
    """Switches (count, C, h, w) of the max-pooling at `position`, for whole maps or windows, whatever won there."""
    node = graph.nodes[position]
    pool, source = node.operation, graph.nodes[node.inputs[0]]
    assert isinstance(pool, MaxPool)
    taps = _taps(pool, source.shape[-2:], node.shape, choice, f"{seed}/{position}")
    if isinstance(maps, WholeMaps):
        return pool.switches(taps, source.shape[-1]).expand(count, -1, -1, -1).contiguous()
    span = maps.span(position)
    windows = cut(taps, torch.zeros(count, dtype=torch.int64), maps.start(span), span.size)
    return pool.unpadded().switches(windows.to(maps.places.device), maps.needed(position).size[1])


@lru_cache(maxsize=32)
def _taps(pool: MaxPool, size: tuple[int, ...], pooled: tuple[int, ...], choice: str, key: str) -> Tensor:
    """(1, C, H_out, W_out) numbers of taps that lie inside the map of `size`."""
    axes = []
    for axis in (0, 1):
        low, high = _taps_inside(pool, axis, size[axis], pooled[axis + 1])
        if choice == "centre":
            wanted = torch.full_like(low, pool.window.kernel[axis] // 2).clamp(low, high)
        else:
            wanted = low + (_uniform(pooled, f"{key}/{axis}") * (high - low + 1)).long()
        axes.append(wanted)
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
