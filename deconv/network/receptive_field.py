"""Where in the image a position of a layer looks: the geometry of a traced graph.

Walking back from one position of a layer, every operation needs a box of its input: the convolution arithmetic of
Dumoulin and Visin 2016 (arXiv 1603.07285), per axis, united where branches meet.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from deconv.network.graph import Graph
from deconv.network.intervals import Interval
from deconv.network.operations import Detached, Operation, keeps_positions, windowable
from deconv.network.reach import reach
from deconv.network.spatial import Convolution, Spatial

Pair = tuple[int, int]


@dataclass(frozen=True)
class ReceptiveField:
    """The input pixels that can influence a position of a layer.

    Position (row, col) sees the image rows from start[0] + row * stride[0] on, size[0] of them, and columns likewise.
    All pairs are (rows, columns) in pixels of the input image; the box may reach outside the image. A unit that sees
    the whole image, as after global pooling or a linear layer, has the image's size and a stride of 0.
    starts: the first row for each row and column for each column of the layer, where no one stride says it (after
    interpolation, say); `stride` is the nearest whole number then.
    beyond: the rows and columns, at the borders, that see pixels outside their box (where padding is circular, say).

    >>> import deconv, torch
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.ReLU(), torch.nn.MaxPool2d(2))
    >>> field = deconv.Network(net.append(torch.nn.ReLU()), (3, 16, 16)).receptive_field("3")
    >>> field
    ReceptiveField(size=(4, 4), stride=(2, 2), start=(-1, -1))
    >>> field.box(row=0, col=2)
    (-1, 3, 3, 7)
    """

    size: Pair
    stride: Pair
    start: Pair
    starts: tuple[tuple[int, ...], tuple[int, ...]] | None = field(default=None, repr=False)
    beyond: tuple[frozenset[int], frozenset[int]] = field(default=(frozenset(), frozenset()), repr=False)

    def box(self, row: int, col: int) -> tuple[int, int, int, int]:
        """Return (y0, x0, y1, x1), the first pixels and one past the last, of position (row, col)."""
        if self.starts is not None:
            y, x = self.starts[0][row], self.starts[1][col]
        else:
            y, x = self.start[0] + row * self.stride[0], self.start[1] + col * self.stride[1]
        return y, x, y + self.size[0], x + self.size[1]

    def cut_to(self, image_size: Pair) -> ReceptiveField:
        """Return the same field, but the whole image along an axis on which the field is longer than the image.

        >>> ReceptiveField((427, 91), (16, 8), (-200, -40)).cut_to((224, 224))
        ReceptiveField(size=(224, 91), stride=(0, 8), start=(0, -40))
        """
        tall, wide = (size > most for size, most in zip(self.size, image_size, strict=True))
        if not (tall or wide):
            return self

        def choose(own: Pair, instead: Pair) -> Pair:
            return (instead[0] if tall else own[0], instead[1] if wide else own[1])

        starts = None
        if self.starts is not None:
            rows, cols = self.starts
            starts = ((0,) * len(rows) if tall else rows, (0,) * len(cols) if wide else cols)
        size, stride, start = choose(self.size, image_size), choose(self.stride, (0, 0)), choose(self.start, (0, 0))
        return replace(self, size=size, stride=stride, start=start, starts=starts)

    def holds(self, positions: Int[Tensor, "N 2"]) -> bool:
        """Return whether none of some positions (row, col) sees pixels outside its box."""
        return not any(row in self.beyond[0] or col in self.beyond[1] for row, col in positions.tolist())

    def boxes(self, positions: Int[Tensor, "N 2"]) -> Int[Tensor, "N 4"]:
        """Return the `box` of each of some positions (row, col), on the CPU."""
        stride, start, size = (torch.tensor(pair) for pair in (self.stride, self.start, self.size))
        corner = positions.cpu() * stride + start
        if self.starts is not None:
            rows, cols = (torch.tensor(axis) for axis in self.starts)
            corner = torch.stack([rows[positions[:, 0].cpu()], cols[positions[:, 1].cpu()]], dim=1)
        return torch.cat([corner, corner + size], dim=1)


@dataclass(frozen=True)
class Span:
    """The part of one node's map that a position of the target needs.

    Along each axis, position i needs `size` positions from start + i * stride on; all pairs are (rows, columns).
    """

    stride: Pair
    start: Pair
    size: Pair

    def united(self, other: Span) -> Span | None:
        """Return the smallest span that holds both; None if they move apart as the position moves."""
        if self.stride != other.stride:
            return None
        start = (min(self.start[0], other.start[0]), min(self.start[1], other.start[1]))
        ends = [max(self.start[axis] + self.size[axis], other.start[axis] + other.size[axis]) for axis in (0, 1)]
        return Span(self.stride, start, (ends[0] - start[0], ends[1] - start[1]))

    def starts(self, positions: Int[Tensor, "N 2"]) -> Int[Tensor, "N 2"]:
        """Return the first row and column that the target's positions (row, col) need."""
        axes = zip(positions.unbind(1), self.stride, self.start, strict=True)
        return torch.stack([position * stride + start for position, stride, start in axes], dim=1)

    def within(self, whole: Span) -> Pair:
        """Return the row and column at which this span begins in another that holds it."""
        return self.start[0] - whole.start[0], self.start[1] - whole.start[1]

    def read_by(self, operation: Spatial) -> Span:
        """Return the span of the operation's input, self being that of its output."""
        window = operation.window
        (step_y, step_x), (before_y, before_x) = window.stride, window.before
        (extent_y, extent_x) = window.extent
        return Span(
            stride=(self.stride[0] * step_y, self.stride[1] * step_x),
            start=(self.start[0] * step_y - before_y, self.start[1] * step_x - before_x),
            size=((self.size[0] - 1) * step_y + extent_y, (self.size[1] - 1) * step_x + extent_x),
        )


@dataclass(frozen=True)
class Cone:
    """Everything that one position of a layer can depend on.

    target: the index of the layer's node.  order: its ancestors and itself, in running order.
    spans: {node index: its span}; None for a node that is needed whole.
    windowable: whether every operation in between gives the same on windows as on whole maps.
    """

    target: int
    order: tuple[int, ...]
    spans: dict[int, Span | None]
    windowable: bool


def cone(graph: Graph, target: int) -> Cone:
    """Return the cone of node `target`, walking back from one of its positions to the image."""
    order = graph.ancestors([target])
    single = Span((1, 1), (0, 0), (1, 1)) if graph.nodes[target].is_map else None
    spans: dict[int, Span | None] = {target: single}
    for index in reversed(order):
        operation = graph.nodes[index].operation
        for source in graph.nodes[index].inputs:
            spans[source] = _merge(spans, source, _needed(operation, spans[index]))
    alike = all(windowable(graph.nodes[index].operation) for index in order)
    return Cone(target, tuple(order), spans, alike and None not in spans.values())


def _needed(operation: Operation, span: Span | None) -> Span | None:
    """The span of the operation's inputs, given that of its output."""
    if span is None or not keeps_positions(operation):
        return None
    return span.read_by(operation) if isinstance(operation, Spatial) else span


def _merge(spans: dict[int, Span | None], source: int, needed: Span | None) -> Span | None:
    """What of `source` is needed by all its readers so far and by one more."""
    if source not in spans:
        return needed
    known = spans[source]
    return None if known is None or needed is None else known.united(needed)


def receptive_field(graph: Graph, target: int) -> ReceptiveField:
    """Return the receptive field of node `target` at the traced image size: the support of its derivative.

    Where convolutions, pools, constant padding and operations on single positions are all there is, it is exact at
    every position. Elsewhere (`deconv.network.reach`) it is that of the positions in the middle half of the map; at the
    borders, where padding mirrors or what leaves the map comes in again on the other side, a position may see more.
    """
    span = _span_of_derivative(graph, target)
    if span is not None:
        return ReceptiveField(span.size, span.stride, span.start)
    intervals = reach(graph, target) if graph.nodes[target].is_map else None
    if intervals is None:
        return whole_image(graph)
    image = graph.nodes[0].map_size
    rows, cols = (_fitted(interval, size) for interval, size in zip(intervals, image, strict=True))
    starts = None if rows.starts is None and cols.starts is None else (_starts(rows), _starts(cols))
    beyond = _beyond(rows, intervals[0], image[0]), _beyond(cols, intervals[1], image[1])
    size, stride, start = (rows.size, cols.size), (rows.stride, cols.stride), (rows.start, cols.start)
    return ReceptiveField(size, stride, start, starts, beyond)


def field_at(graph: Graph, target: int, positions: Int[Tensor, "N 2"]) -> ReceptiveField:
    """Return the field of node `target`, or the whole image where one of the positions sees pixels outside its box."""
    field = receptive_field(graph, target)
    return field if field.holds(positions) else whole_image(graph)


def whole_image(graph: Graph) -> ReceptiveField:
    """Return the field of a unit that sees all of the image."""
    return ReceptiveField(graph.nodes[0].map_size, (0, 0), (0, 0))


def _span_of_derivative(graph: Graph, target: int) -> Span | None:
    """The span of the image that a position's derivative reaches; None where geometry alone does not say."""
    if not graph.nodes[target].is_map:
        return None
    spans: dict[int, Span | None] = {target: Span((1, 1), (0, 0), (1, 1))}
    for index in reversed(graph.carrying(target)):
        operation = graph.nodes[index].operation
        for source in () if isinstance(operation, Detached) else graph.nodes[index].inputs:
            spans[source] = _merge(spans, source, _needed(operation, spans[index]))
    return spans.get(0)


@dataclass(frozen=True)
class _Axis:
    """A receptive field along one axis; `starts` for each position where no stride says it, of `positions`."""

    size: int
    stride: int
    start: int
    positions: int
    starts: tuple[int, ...] | None = None


def _starts(axis: _Axis) -> tuple[int, ...]:
    return axis.starts or tuple(axis.start + position * axis.stride for position in range(axis.positions))


def _beyond(axis: _Axis, interval: Interval, image_size: int) -> frozenset[int]:
    """The positions that see pixels of the image outside their box."""
    start = torch.tensor(_starts(axis))
    outside = (interval.first.clamp_min(0) < start) | (interval.last.clamp_max(image_size - 1) >= start + axis.size)
    return frozenset((outside & (interval.first <= interval.last)).nonzero().flatten().tolist())


def _fitted(interval: Interval, image_size: int) -> _Axis:
    """The field along an axis from what each position reads, judged by the positions in the middle."""
    count = len(interval.first)
    seen = interval.first <= interval.last
    middle = torch.arange(count // 4, max(count - count // 4, count // 4 + 1))
    middle = middle[seen[middle]]
    if not len(middle):
        return _Axis(image_size, 0, 0, count)
    first, last = interval.first[middle], interval.last[middle]
    sizes = last - first + 1
    if bool((sizes != sizes[0]).any()):  # what grows along the map is told by its largest
        sizes = (interval.last - interval.first + 1)[seen]
    size = min(int(sizes.max()), image_size) if len(sizes) > len(middle) else int(sizes.max())
    if bool((first <= 0).all() and (last >= image_size - 1).all()):
        return _Axis(image_size, 0, 0, count)
    steps = first.diff()
    if not len(steps):
        return _Axis(size, 1 if count > 1 else 0, int(first[0]) - (int(middle[0]) if count > 1 else 0), count)
    if bool((steps == steps[0]).all()) and steps[0] != 0 and bool((middle.diff() == 1).all()):
        stride = int(steps[0])
        return _Axis(size, stride, int(first[0]) - int(middle[0]) * stride, count)
    mean = float(first[-1] - first[0]) / float(middle[-1] - middle[0])
    known = interval.first.where(seen, 0)
    return _Axis(size, max(1, round(abs(mean))), int(known[0]), count, tuple(known.tolist()))


def first_convolution(graph: Graph, target: int) -> Convolution | None:
    """Return the layer's own convolution if it is the only spatial operation before the layer, else None."""
    operations = [graph.nodes[index].operation for index in graph.ancestors([target])]
    spatial = [operation for operation in operations if isinstance(operation, Spatial)]
    return spatial[0] if len(spatial) == 1 and isinstance(spatial[0], Convolution) else None


def first_filters(graph: Graph, target: int) -> Float[Tensor, "units channels kh kw"] | None:
    """Return the filters of the layer's `first_convolution` as they are drawn, float32 on the CPU; else None."""
    convolution = first_convolution(graph, target)
    return None if convolution is None else convolution.weight.float().cpu()
