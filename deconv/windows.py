"""Windows cut out of maps around single positions, and what of them lies outside.

A window holds, for each peak, the part of a node's map that the peak depends on, places outside the map included.
Convolutions and pools run on windows without padding; before each of them, what lies outside the map is set to what
padding means there (zero, or minus infinity for a maximum). So a window gives what the whole map would.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from deconv.graph import Graph
from deconv.operations import Call, LocalResponseNorm, Operation
from deconv.receptive_field import Cone, Span
from deconv.spatial import Spatial, outside_value


def cut(maps: Tensor, image: Tensor, start: Tensor, size: tuple[int, int]) -> Tensor:
    """Windows (N, C, h, w) of maps (M, C, H, W): from image[n] at start[n] = (y, x); zero outside. Channels last."""
    height, width = maps.shape[-2:]
    rows = start[:, 0, None] + torch.arange(size[0], device=start.device)
    cols = start[:, 1, None] + torch.arange(size[1], device=start.device)
    inside = _inside(rows, height)[:, :, None] & _inside(cols, width)[:, None, :]
    places = image[:, None, None], rows.clamp(0, height - 1)[:, :, None], cols.clamp(0, width - 1)[:, None, :]
    windows = maps.permute(0, 2, 3, 1)[places]
    if not bool(inside.all()):
        windows[~inside] = 0
    return windows.permute(0, 3, 1, 2)


def _inside(places: Tensor, size: int) -> Tensor:
    return (places >= 0) & (places < size)


@dataclass(frozen=True, eq=False)
class WholeMaps:
    """The plain way: every operation on its whole map."""

    def operation(self, operation: Operation) -> Operation:
        return operation

    def read(self, position: int, source: int, value: Tensor) -> Tensor:
        return value

    def returned(self, position: int, source: int, signal: Tensor, total: Tensor | None) -> Tensor:
        """`signal`, which node `position` sends to its input `source`, added to what others sent."""
        return signal if total is None else total.add_(signal)


@dataclass(frozen=True, eq=False)
class Windows:
    """The window way, for peaks of one layer at places (N, 2) = (row, col)."""

    graph: Graph
    cone: Cone
    places: Tensor

    def span(self, position: int) -> Span:
        span = self.cone.spans[position]
        assert span is not None, "windows are taken only where the cone says so"
        return span

    def start(self, span: Span) -> Tensor:
        """(N, 2) first row and column of each peak's window."""
        stride, start = (torch.tensor(pair, device=self.places.device) for pair in (span.stride, span.start))
        return self.places * stride + start

    def operation(self, operation: Operation) -> Operation:
        return operation.unpadded() if isinstance(operation, Spatial) else operation

    def needed(self, position: int) -> Span:
        """The span of its input that node `position` reads."""
        operation = self.graph.nodes[position].operation
        span = self.span(position)
        return span.read_by(operation) if isinstance(operation, Spatial) else span

    def read(self, position: int, source: int, value: Tensor) -> Tensor:
        """The part of `source`'s window that node `position` reads, its outside set to what padding means."""
        needed, whole = self.needed(position), self.span(source)
        y, x = needed.start[0] - whole.start[0], needed.start[1] - whole.start[1]
        part = value[..., y : y + needed.size[0], x : x + needed.size[1]] if needed != whole else value
        operation = self.graph.nodes[position].operation
        if not isinstance(operation, Spatial):
            return part
        read_once = len(self.graph.consumers[source]) == 1
        return self._fill(part, source, needed, outside_value(operation), in_place=read_once)

    def _fill(self, value: Tensor, source: int, span: Span, fill: float, in_place: bool) -> Tensor:
        height, width = self.graph.nodes[source].shape[-2:]
        start = self.start(span)
        low, high = start.amin(0).tolist(), start.amax(0).tolist()
        if min(low) >= 0 and high[0] + span.size[0] <= height and high[1] + span.size[1] <= width:
            return value
        rows = _inside(start[:, 0, None] + torch.arange(span.size[0], device=start.device), height)
        cols = _inside(start[:, 1, None] + torch.arange(span.size[1], device=start.device), width)
        inside = (rows[:, :, None] & cols[:, None, :]).view(-1, *(1,) * (value.dim() - 3), *span.size)
        return value.masked_fill_(~inside, fill) if in_place else value.masked_fill(~inside, fill)

    def returned(self, position: int, source: int, signal: Tensor, total: Tensor | None) -> Tensor:
        """`signal` placed in `source`'s window and added to what others sent; nothing returns outside the map."""
        needed, whole = self.needed(position), self.span(source)
        operation = self.graph.nodes[position].operation
        if isinstance(operation, Spatial | LocalResponseNorm | Call):  # derivatives may be infinite out there
            signal = self._fill(signal, source, needed, 0.0, in_place=True)
        if needed != whole:
            y, x = needed.start[0] - whole.start[0], needed.start[1] - whole.start[1]
            below, right = whole.size[0] - needed.size[0] - y, whole.size[1] - needed.size[1] - x
            signal = F.pad(signal, (x, right, y, below))
        return signal if total is None else total.add_(signal)
