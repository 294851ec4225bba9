"""Windows near a peak, where they are small, and whole maps below, where windows would be larger than these.

The deeper the network, the fewer of its windows are smaller than the maps: of the last layers of a ResNet the field is
larger than the image, but five blocks before the layer its windows still are a part of the maps. `Tapered` answers the
same calls as `WholeMaps` and `Windows`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import prod

import torch
from jaxtyping import Inexact, Int
from torch import Tensor

from deconv.network.graph import Graph
from deconv.network.operations import Operation, windowable
from deconv.network.receptive_field import Cone, Span
from deconv.projection.table import Memory
from deconv.projection.windows import WholeMaps, Windows
from deconv.records import clip


def lay(
    maps: Inexact[Tensor, "N ... H W"], windows: Inexact[Tensor, "N ... h w"], start: Int[Tensor, "N 2"]
) -> Inexact[Tensor, "N ... H W"]:
    """Add windows to maps, in place, at start[n] = (row, col); what lies outside the map is left out."""
    height, width = maps.shape[-2:]
    size = windows.shape[-2:]
    for whole, window, (y, x) in zip(maps, windows, start.tolist(), strict=True):
        (rows, window_rows), (cols, window_cols) = clip(y, y + size[0], height), clip(x, x + size[1], width)
        whole[..., rows, cols] += window[..., window_rows, window_cols]
    return maps


def windowed_nodes(graph: Graph, cone: Cone) -> frozenset[int]:
    """Return the nodes near the target whose windows are smaller than their maps, with all that reads them."""
    readers: dict[int, list[int]] = {}
    windowed: set[int] = set()
    for index in reversed(cone.order):
        node, span = graph.nodes[index], cone.spans[index]
        smaller = span is not None and prod(span.size) < prod(node.shape[-2:])
        if smaller and windowable(node.operation) and windowed.issuperset(readers.get(index, ())):
            windowed.add(index)
        for source in node.inputs:
            readers.setdefault(source, []).append(index)
    return frozenset(windowed)


@dataclass(frozen=True, eq=False)
class Tapered:
    """`Windows` for the nodes of `windowed`, which nothing else reads, and `WholeMaps` for those below.

    Where these are all of the cone, or none, it is the one or the other.
    """

    graph: Graph
    cone: Cone
    positions: Tensor
    windowed: frozenset[int]

    @cached_property
    def _windows(self) -> Windows:
        return Windows(self.graph, self.cone, self.positions)

    @property
    def on_cpu(self) -> Tensor:
        """The positions on the CPU."""
        return self._windows.on_cpu

    @cached_property
    def _whole(self) -> WholeMaps:
        return WholeMaps(self.graph, self.positions)

    def _of(self, index: int) -> Windows | WholeMaps:
        return self._windows if index in self.windowed else self._whole

    def _borders(self, index: int, source: int) -> bool:
        """Whether a node is worked on in windows, and one of its inputs whole."""
        return index in self.windowed and source not in self.windowed

    def span(self, index: int) -> Span:
        """Return the part of a node's map that is worked on, as it moves with the position."""
        return self._of(index).span(index)

    def needed(self, index: int) -> Span:
        """Return the part of its first input that a node reads."""
        return self._of(index).needed(index)

    def operation(self, index: int) -> Operation:
        """Return a node's operation as it runs here."""
        return self._of(index).operation(index)

    def pixels_shape(self, count: int) -> tuple[int, ...]:
        """Return the shape of the pixels that come back, for `count` peaks."""
        return self._of(0).pixels_shape(count)

    def input_shapes(self, index: int, count: int) -> list[torch.Size]:
        """Return the shapes of what a node reads of its inputs, for `count` peaks."""
        return self._of(index).input_shapes(index, count)

    def read(self, index: int, source: int, value: Tensor) -> Tensor:
        """Return what a node reads of the value of one of its inputs, its outside set to what padding means there."""
        if not self._borders(index, source):
            return self._of(index).read(index, source, value)
        return self._windows.read_of(index, source, value, torch.arange(len(value)))

    def returned(self, index: int, source: int, signal: Tensor, total: Tensor | None) -> Tensor:
        """Return a signal that a node sends to one of its inputs, added to `total`, what others sent, in place."""
        if not self._borders(index, source):
            return self._of(index).returned(index, source, signal, total)
        needed = self.needed(index)
        whole = signal.new_zeros((*signal.shape[:-2], *self.graph.nodes[source].shape[-2:])) if total is None else total
        return lay(whole, signal, needed.starts(self.on_cpu))

    def zero_outside(self, index: int, value: Tensor) -> Tensor:
        """Return what a node has, zero outside its map."""
        return self._of(index).zero_outside(index, value)

    def take(self, index: int, value: Tensor, image: Tensor) -> Tensor:
        """Return, of a node's value for images (M, ...), what peaks have that lie in image[n]: (N, ...)."""
        return self._of(index).take(index, value, image)

    def take_memory(self, index: int, memory: Memory, image: Tensor) -> Memory:
        """Return, of what a node remembers of images, what it would remember of peaks that lie in image[n]."""
        return self._of(index).take_memory(index, memory, image)


Maps = WholeMaps | Windows | Tapered


def places(maps: Maps, target: int) -> tuple[Int[Tensor, " N"], Int[Tensor, " N"], Int[Tensor, " N"]]:
    """Return which of the target's values, and its row and column there, the position of each peak is."""
    row, col = (maps.positions - maps.span(target).starts(maps.positions)).unbind(1)
    return torch.arange(len(row), device=row.device), row, col
