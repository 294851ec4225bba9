"""Where in the image a place of a layer looks: the geometry of a traced graph.

Walking back from one position of a layer, every operation needs a box of its input: the convolution arithmetic of
Dumoulin and Visin 2016 (arXiv 1603.07285), per axis, united where branches meet.
"""

from __future__ import annotations

from dataclasses import dataclass

from deconv.network.graph import Graph
from deconv.network.operations import keeps_places, windowable
from deconv.network.spatial import Convolution, Spatial

Pair = tuple[int, int]


@dataclass(frozen=True)
class ReceptiveField:
    """Position (i, j) sees image rows [start_y + i * stride_y, start_y + i * stride_y + size_h), columns likewise.

    Pixels; all pairs are (rows, columns); unclipped: the box may reach outside the image.
    A unit that sees the whole image (after global pooling or a linear layer) has the image's size and stride 0.
    """

    size: Pair
    stride: Pair
    start: Pair

    def box(self, row: int, col: int) -> tuple[int, int, int, int]:
        """(y0, x0, y1, x1) of position (row, col), ends excluded."""
        y, x = self.start[0] + row * self.stride[0], self.start[1] + col * self.stride[1]
        return y, x, y + self.size[0], x + self.size[1]


@dataclass(frozen=True)
class Span:
    """The part of one node's map that a position i of the target needs: [start + i * stride, ... + size), both axes."""

    stride: Pair
    start: Pair
    size: Pair

    def united(self, other: Span) -> Span | None:
        """The smallest span that holds both; None if they move apart as the position moves."""
        if self.stride != other.stride:
            return None
        start = (min(self.start[0], other.start[0]), min(self.start[1], other.start[1]))
        end = [max(a + n, b + m) for a, n, b, m in zip(self.start, self.size, other.start, other.size, strict=True)]
        return Span(self.stride, start, (end[0] - start[0], end[1] - start[1]))

    def read_by(self, operation: Spatial) -> Span:
        """The span of the operation's input, self being that of its output."""
        window = operation.window
        axes = []
        for axis in (0, 1):
            step, extent = window.stride[axis], window.extent[axis]
            start = self.start[axis] * step - window.before[axis]
            axes.append((self.stride[axis] * step, start, (self.size[axis] - 1) * step + extent))
        (a, b, c), (d, e, f) = axes
        return Span((a, d), (b, e), (c, f))


@dataclass(frozen=True)
class Cone:
    """Everything that one position of a layer can depend on.

    spans: {node position: its span}; None for a node that is needed whole.
    windowable: every operation on the way gives the same on windows as on whole maps.
    """

    target: int
    order: tuple[int, ...]
    spans: dict[int, Span | None]
    windowable: bool


def cone(graph: Graph, target: int) -> Cone:
    """Walk back from one position of node `target` to the image."""
    order = graph.ancestors([target])
    single = Span((1, 1), (0, 0), (1, 1)) if graph.nodes[target].is_map else None
    spans: dict[int, Span | None] = {target: single}
    local = single is not None
    for position in reversed(order):
        node = graph.nodes[position]
        local = local and windowable(node.operation)
        for source in node.inputs:
            needed = _needed(node.operation, spans[position], graph.nodes[source].is_map)
            spans[source] = _merge(spans, source, needed)
    return Cone(target, tuple(order), spans, local and all(span is not None for span in spans.values()))


def _needed(operation: object, span: Span | None, source_is_map: bool) -> Span | None:
    if span is None or not keeps_places(operation):  # type: ignore[arg-type]
        return None
    return span.read_by(operation) if isinstance(operation, Spatial) else span


def _merge(spans: dict[int, Span | None], source: int, needed: Span | None) -> Span | None:
    if source not in spans:
        return needed
    known = spans[source]
    return None if known is None or needed is None else known.united(needed)


def receptive_field(graph: Graph, target: int) -> ReceptiveField:
    """The receptive field of node `target` at the traced image size."""
    span = cone(graph, target).spans.get(0)
    if span is None:
        return ReceptiveField(graph.nodes[0].shape[-2:], (0, 0), (0, 0))  # type: ignore[arg-type]
    return ReceptiveField(span.size, span.stride, span.start)


def first_convolution(graph: Graph, target: int) -> Convolution | None:
    """The layer's own convolution, if it is the only spatial operation between the layer and the image."""
    convolutions = [graph.nodes[p].operation for p in graph.ancestors([target])]
    spatial = [op for op in convolutions if isinstance(op, Spatial)]
    return spatial[0] if len(spatial) == 1 and isinstance(spatial[0], Convolution) else None
