"""Where peaks are worked on: whole maps, or windows cut out of them around single positions.

A window holds, for each peak, the part of a node's map that the peak depends on, positions outside the map included.
Convolutions and pools run on windows without padding; before each of them, what lies outside the map is set to what
padding means there (zero, or the least float for a maximum). So a window gives what the whole map would.

`WholeMaps` and `Windows` answer the same calls. In all of them `index` is that of a node and `source` that of one of
its inputs; values and signals are (N, ..., h, w), one entry for each peak.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from jaxtyping import Int, Shaped
from torch import Tensor

from deconv.network.graph import Graph
from deconv.network.operations import Call, Detached, LocalResponseNorm, Operation, SpelledRectifier
from deconv.network.receptive_field import Cone, Span
from deconv.network.spatial import MaxPool, Spatial, outside_value
from deconv.projection.table import Memory
from deconv.records import clip, lies_inside

INFINITE = LocalResponseNorm | Call | Detached | SpelledRectifier
"""What may give infinite values or derivatives of values that mean nothing."""


def cut(
    maps: Shaped[Tensor, "M C H W"], image: Int[Tensor, " N"], start: Int[Tensor, "N 2"], size: tuple[int, int]
) -> Shaped[Tensor, "N C h w"]:
    """Return windows of `size`, channels last, from maps[image[n]] at start[n] = (row, col); zero outside the map.

    image, start: best on the CPU, from which they are read.
    """
    height, width = maps.shape[-2:]
    channels_last = maps.permute(0, 2, 3, 1)
    windows = channels_last.new_empty((len(image), *size, maps.shape[1]))
    for window, m, (y, x) in zip(windows.unbind(), image.tolist(), start.tolist(), strict=True):
        (rows, window_rows), (cols, window_cols) = clip(y, y + size[0], height), clip(x, x + size[1], width)
        if (rows.stop - rows.start, cols.stop - cols.start) == size:
            window.copy_(channels_last[m, rows, cols])
        else:
            window.zero_()
            window[window_rows, window_cols] = channels_last[m, rows, cols]
    return windows.permute(0, 3, 1, 2)


@dataclass(frozen=True, eq=False)
class WholeMaps:
    """Every operation on its whole map, for peaks at `positions` (N, 2) = (row, col) of a layer."""

    graph: Graph
    positions: Tensor

    def span(self, index: int) -> Span:
        """Return the part of a node's map that is worked on: all of it, whatever the position."""
        return Span((0, 0), (0, 0), self.graph.nodes[index].map_size)

    def needed(self, index: int) -> Span:
        """Return the part of its first input that a node reads: all of it."""
        return self.span(self.graph.nodes[index].inputs[0])

    def operation(self, index: int) -> Operation:
        """Return a node's operation as it runs here: as it is."""
        return self.graph.nodes[index].operation

    def pixels_shape(self, count: int) -> tuple[int, ...]:
        """Return the shape of the pixels that come back, for `count` peaks."""
        return (count, *self.graph.nodes[0].shape)

    def input_shapes(self, index: int, count: int) -> list[torch.Size]:
        """Return the shapes of what a node reads of its inputs, for `count` peaks."""
        nodes = self.graph.nodes
        return [torch.Size((count, *nodes[source].shape)) for source in nodes[index].inputs]

    def read(self, index: int, source: int, value: Tensor) -> Tensor:
        """Return what a node reads of the value of one of its inputs: all of it."""
        return value

    def returned(self, index: int, source: int, signal: Tensor, total: Tensor | None) -> Tensor:
        """Return a signal that a node sends to one of its inputs, added to `total`, what others sent, in place."""
        return signal if total is None else total.add_(signal)

    def zero_outside(self, index: int, value: Tensor) -> Tensor:
        """Return what a node has, zero outside its map: as it is."""
        return value

    def take(self, index: int, value: Tensor, image: Tensor) -> Tensor:
        """Return, of a node's value for images (M, ...), what peaks have that lie in image[n]: (N, ...)."""
        return value[image]

    def take_memory(self, index: int, memory: Memory, image: Tensor) -> Memory:
        """Return, of what a node remembers of images, what it would remember of peaks that lie in image[n]."""
        return tuple(tensor[image] for tensor in memory)


@dataclass(frozen=True, eq=False)
class Windows:
    """Every operation on the part of its map that a peak needs, for peaks at `positions` (N, 2) = (row, col)."""

    graph: Graph
    cone: Cone
    positions: Tensor

    @cached_property
    def on_cpu(self) -> Tensor:
        """The positions, copied once: asking a GPU where each window lies would make it wait each time."""
        return self.positions.cpu()

    def span(self, index: int) -> Span:
        """Return the part of a node's map that is worked on, as it moves with the position."""
        span = self.cone.spans[index]
        assert span is not None, "windows are taken only where the cone allows it"
        return span

    def needed(self, index: int) -> Span:
        """Return the part of its inputs that a node reads."""
        operation, span = self.graph.nodes[index].operation, self.span(index)
        return span.read_by(operation) if isinstance(operation, Spatial) else span

    def operation(self, index: int) -> Operation:
        """Return a node's operation as it runs here: without padding, which the windows hold already."""
        operation = self.graph.nodes[index].operation
        return operation.unpadded() if isinstance(operation, Spatial) else operation

    def pixels_shape(self, count: int) -> tuple[int, ...]:
        """Return the shape of the windows of pixels that come back, for `count` peaks."""
        return (count, self.graph.nodes[0].shape[0], *self.span(0).size)

    def input_shapes(self, index: int, count: int) -> list[torch.Size]:
        """Return the shapes of what a node reads of its inputs, for `count` peaks."""
        nodes, size = self.graph.nodes, self.needed(index).size
        return [torch.Size((count, *nodes[source].shape[:-2], *size)) for source in nodes[index].inputs]

    def read(self, index: int, source: int, value: Tensor) -> Tensor:
        """Return the part of the source's windows that a node reads, its outside set to what padding means there.

        The value itself is written to where no other node reads it.
        """
        needed, whole = self.needed(index), self.span(source)
        y, x = needed.within(whole)
        window = value[..., y : y + needed.size[0], x : x + needed.size[1]] if needed != whole else value
        return self._padded(index, source, window, is_own=len(self.graph.consumers[source]) == 1)

    def returned(self, index: int, source: int, signal: Tensor, total: Tensor | None) -> Tensor:
        """Return a signal that a node sends to one of its inputs, laid into the source's windows and added to `total`.

        Nothing returns outside the map. `total` is what other nodes sent there; it is added to in place.
        """
        needed, whole = self.needed(index), self.span(source)
        operation = self.graph.nodes[index].operation
        # outside the map what works position by position may have infinite derivatives too, or infinite inputs
        returns = isinstance(operation, Spatial | INFINITE) or not self._finite
        outside = self._outside(source, needed) if returns else None
        if outside is not None:
            signal = self._fill(signal, outside, 0.0)
        if needed != whole:
            y, x = needed.within(whole)
            below, right = whole.size[0] - needed.size[0] - y, whole.size[1] - needed.size[1] - x
            signal = F.pad(signal, (x, right, y, below))
        return signal if total is None else total.add_(signal)

    def zero_outside(self, index: int, value: Tensor) -> Tensor:
        """Return windows of what a node has, zero outside its map."""
        outside = self._outside(index, self.span(index))
        return value if outside is None else value.masked_fill(outside, 0)

    def read_of(self, index: int, source: int, value: Tensor, image: Tensor) -> Tensor:
        """Return what a node reads, for peaks that lie in image[n], of its source's value for whole images."""
        return self._padded(index, source, self._cut(value, image, self.needed(index)), is_own=True)

    def take(self, index: int, value: Tensor, image: Tensor) -> Tensor:
        """Return windows, for peaks that lie in image[n], of a node's value for whole images (M, ..., H, W)."""
        return self._cut(value, image, self.span(index))

    def take_memory(self, index: int, memory: Memory, image: Tensor) -> Memory:
        """Return, of what a node remembers of whole images, what it would remember of windows in image[n]."""
        node, needed = self.graph.nodes[index], self.needed(index)
        if isinstance(node.operation, MaxPool) and memory:
            taps = node.operation.taps(memory[0], self.graph.nodes[node.inputs[0]].shape[2])
            return (node.operation.unpadded().switches(self.take(index, taps, image), needed.size[1]),)
        return tuple(self._cut(tensor, image, needed) for tensor in memory)

    def _padded(self, index: int, source: int, window: Tensor, is_own: bool) -> Tensor:
        """What a node reads of its source, the outside set to what padding means; is_own: it may be written to."""
        operation = self.graph.nodes[index].operation
        outside = self._outside(source, self.needed(index)) if isinstance(operation, Spatial) else None
        if outside is None or not isinstance(operation, Spatial):
            return window
        return self._fill(window if is_own else window.clone(), outside, outside_value(operation, window.dtype))

    def _cut(self, value: Tensor, image: Tensor, span: Span) -> Tensor:
        maps = value.reshape(len(value), -1, *value.shape[-2:])  # channels may lie along any number of axes
        windows = cut(maps, image, span.starts(self.on_cpu), span.size)
        return windows.reshape(len(image), *value.shape[1:-2], *span.size)

    def _fill(self, value: Tensor, outside: Tensor, fill: float) -> Tensor:
        """In place. A product and a sum run three times as fast as masked_fill, but leave what is not finite."""
        if not self._finite:
            return value.masked_fill_(outside, fill)
        value.mul_(~outside)
        return value if fill == 0 else value.add_(outside * fill)

    @cached_property
    def _finite(self) -> bool:
        """Whether all values stay finite outside the maps too, where no promise is made of them."""
        operations = (self.graph.nodes[index].operation for index in self.cone.order)
        return not any(isinstance(operation, INFINITE) for operation in operations)

    @cached_property
    def _known_outside(self) -> dict[tuple[int, Span], Tensor | None]:
        """What `_outside` gave: every rule asks the same on its way back."""
        return {}

    def _outside(self, source: int, span: Span) -> Tensor | None:
        """(N, 1, h, w) bool: what of `source`'s windows lies outside its map; None if nothing does."""
        if (source, span) not in self._known_outside:
            self._known_outside[source, span] = self._find_outside(source, span)
        return self._known_outside[source, span]

    def _find_outside(self, source: int, span: Span) -> Tensor | None:
        height, width = self.graph.nodes[source].shape[-2:]
        start = span.starts(self.on_cpu)
        low, high = start.amin(0).tolist(), start.amax(0).tolist()
        if min(low) >= 0 and high[0] + span.size[0] <= height and high[1] + span.size[1] <= width:
            return None
        start = span.starts(self.positions)
        inside = lies_inside(start, span.size, (height, width))
        deeper = len(self.graph.nodes[source].shape) - 2  # axes between the batch and the rows
        return ~inside.view(-1, *(1,) * deeper, *span.size)
