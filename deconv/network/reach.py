"""What the positions of a layer read of the image where geometry alone does not say: each axis by itself, as intervals.

Walking back from the layer, every node has for each row of the layer the first and the last of its own rows that reach
it, and for each column its columns. Convolutions, pools and what works element by element carry intervals back by
arithmetic. Any other operation is measured: one vector-Jacobian product at random numbers, with a signal in each of its
output rows (columns) in turn, shows which input rows (columns) they read. Operations between maps that give no map
(unfold, flatten) are measured together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor

from deconv.network.elementwise import ELEMENTWISE
from deconv.network.graph import Graph, Node, cast_operation, evaluate
from deconv.network.intervals import NOTHING, Interval, Intervals
from deconv.network.operations import Call, Detached, Input, keeps_places, keeps_positions
from deconv.network.spatial import Spatial

SIGNALS_AT_ONCE = 2**24
"""Numbers of the largest tensor while measuring."""
TRIALS = 2
MOST_NUMBERS = 2**31
"""An operation whose measuring would take more numbers than this counts as reading its whole input."""
CHANNELWISE = frozenset(
    "pad reflection_pad2d replication_pad2d flip roll slice cumsum upsample_nearest2d upsample_bilinear2d "
    "upsample_bicubic2d _upsample_nearest_exact2d _upsample_bilinear2d_aa _upsample_bicubic2d_aa adaptive_avg_pool2d "
    "adaptive_max_pool2d avg_pool2d tril triu diff".split()
)
"""Do the same to every channel, so that one will do."""
FAINT = 1e-9
"""Of the strongest derivative: what counts as none."""


def reach(graph: Graph, target: int) -> Intervals | None:
    """Return what each row and each column of node `target`, a map, reads of the image; None if it reads none."""
    carrying = set(graph.carrying(target))
    reached: dict[int, Intervals] = {}
    rows, cols = (torch.arange(size) for size in graph.nodes[target].map_size)
    reached[target] = Interval(rows, rows), Interval(cols, cols)
    for index in sorted(carrying, reverse=True):
        if index not in reached or isinstance(graph.nodes[index].operation, Input | Detached):
            continue
        for source, read in _read(graph, index, reached[index], carrying).items():
            _unite(reached, source, read)
    return reached.get(0)


def _read(graph: Graph, index: int, intervals: Intervals, carrying: set[int]) -> dict[int, Intervals]:
    """What of the nearest maps before it the node needs for some of its rows and columns."""
    node = graph.nodes[index]
    operation = node.operation
    sources = [graph.nodes[source] for source in node.inputs]
    if isinstance(operation, Spatial):
        window = operation.window
        axes = zip(intervals, window.stride, window.before, window.extent, strict=True)
        rows, cols = (interval.through_window(*numbers) for interval, *numbers in axes)
        return {node.inputs[0]: (rows, cols)}
    if _turned(node, sources) or (node.channels_last and keeps_places(operation, node.kind) and _alike(node, sources)):
        return dict.fromkeys(node.inputs, intervals)
    if all(_has_places(source) for source in sources):
        if keeps_positions(operation):
            return dict.fromkeys(node.inputs, intervals)
        if node.kind in ELEMENTWISE:
            reads: dict[int, Intervals] = {}
            for source in node.inputs:
                _unite(reads, source, _broadcast(intervals, graph.nodes[source].shape, node.shape))
            return reads
    if index not in graph.measured:
        frontier, inner = _region(graph, index, carrying)
        in_vain = len(inner) > 1 and all(_sees_all(graph, source) for source in frontier if source in carrying)
        graph.measured[index] = frontier, None if in_vain else _tables(graph, index, frontier, inner)
    frontier, tables = graph.measured[index]
    if tables is None:
        return {source: _whole(graph, source, intervals) for source in frontier if source in carrying}
    return {
        source: (intervals[0].through_table(rows), intervals[1].through_table(cols))
        for source, (rows, cols) in tables.items()
    }


def _sees_all(graph: Graph, index: int) -> bool:
    """Whether every position of a node reads the whole image, so that it does not matter which of them are read."""
    if ("all", index) not in graph.measured:
        intervals = reach(graph, index) if index else None
        sizes = graph.nodes[0].map_size
        graph.measured["all", index] = intervals is not None and all(
            bool((interval.first <= 0).all() and (interval.last >= size - 1).all())
            for interval, size in zip(intervals, sizes, strict=True)
        )
    return bool(graph.measured["all", index])


def _turned(node: Node, sources: list[Node]) -> bool:
    """Whether a node turns a map's channels to the last axis, or back."""
    if node.kind != "permute":
        return False
    return (node.channels_last and sources[0].is_map) or (node.is_map and sources[0].channels_last)


def _alike(node: Node, sources: list[Node]) -> bool:
    return all(source.channels_last and source.map_size == node.map_size for source in sources)


def _has_places(node: Any) -> bool:
    return node.is_map or len(node.shape) == 2  # one channel taken out of a map


def _unite(reads: dict[int, Intervals], source: int, read: Intervals) -> None:
    """Add what is read of a source to what is known to be read of it."""
    rows, cols = reads.get(source, (None, None))
    reads[source] = read[0].united(rows), read[1].united(cols)


def _broadcast(intervals: Intervals, shape: tuple[int, ...], output: tuple[int, ...]) -> Intervals:
    """The same of an input that may have one row or column for all of the output's."""

    def along(axis: int) -> Interval:
        interval = intervals[axis]
        if shape[axis - 2] == output[axis - 2]:
            return interval
        zero = torch.zeros_like(interval.first)
        return Interval(zero, zero).where(interval.first <= interval.last)

    return along(0), along(1)


def _whole(graph: Graph, source: int, intervals: Intervals) -> Intervals:
    height, width = graph.nodes[source].map_size
    rows, cols = intervals
    return (
        Interval(torch.zeros_like(rows.first), torch.full_like(rows.last, height - 1)),
        Interval(torch.zeros_like(cols.first), torch.full_like(cols.last, width - 1)),
    )


def _region(graph: Graph, index: int, carrying: set[int]) -> tuple[list[int], list[int]]:
    """The nearest maps before a node, and the nodes from there on up to itself, both in running order."""
    frontier, inner, pending = set(), {index}, list(graph.nodes[index].inputs)
    while pending:
        source = pending.pop()
        if source not in carrying:
            frontier.add(source)  # a detached value, or an index: taken as it is
        elif graph.nodes[source].is_map or graph.nodes[source].channels_last or source == 0:
            frontier.add(source)
        elif source not in inner:
            inner.add(source)
            pending.extend(graph.nodes[source].inputs)
    return sorted(frontier), sorted(inner)


def _tables(graph: Graph, index: int, frontier: list[int], inner: list[int]) -> dict[int, Intervals] | None:
    """Measured: what each row and column of the node reads of the frontier's maps. None if it cannot be measured."""
    node = graph.nodes[index]
    maps = [source for source in frontier if graph.nodes[source].is_map or graph.nodes[source].channels_last]
    if len(node.shape) != 3 or not maps:
        return None
    alone = len(maps) == 1 == len(inner)
    if node.kind == "conv_transpose2d" and alone:
        return {maps[0]: _transposed(node)}
    shape, shapes = node.shape, {source: graph.nodes[source].shape for source in frontier}
    if (
        node.kind in CHANNELWISE
        and alone
        and node.is_map
        and graph.nodes[maps[0]].is_map
        and shape[0] == shapes[maps[0]][0]
    ):
        shape, shapes[maps[0]] = (1, *shape[1:]), (1, *shapes[maps[0]][1:])
    if sum(node.map_size) * max(prod(each) for each in (shape, *shapes.values())) > MOST_NUMBERS:
        return None
    operations = {n: cast_operation(graph.nodes[n].operation, torch.float64, "cpu") for n in inner}

    def output(values: Sequence[Tensor]) -> Tensor:
        results = dict(zip(frontier, values, strict=True))
        for n in inner:
            results[n] = operations[n].forward(*(results[source] for source in graph.nodes[n].inputs))
        return results[index]

    generator = torch.Generator().manual_seed(0)
    try:
        points = _points(graph, shapes, generator)
        lasts = [graph.nodes[source].channels_last for source in frontier]
        measured = [_measure(output, points, (shape, node.channels_last), lasts, axis, generator) for axis in (0, 1)]
    except (RuntimeError, NotImplementedError, IndexError):
        return None
    place = {source: number for number, source in enumerate(frontier)}
    return {source: (measured[0][place[source]], measured[1][place[source]]) for source in maps}


def _transposed(node: Node) -> Intervals:
    """What a transposed convolution's outputs read: output i tap k reads input j where i = j * stride - padding + k."""
    assert isinstance(node.operation, Call)
    _, weight, _, stride, padding, _, _, dilation = node.operation.arguments
    axes = []
    for axis in (0, 1):
        step, before, apart = (value[axis] if len(value) > 1 else value[0] for value in (stride, padding, dilation))
        place = torch.arange(node.shape[1 + axis]) + before
        extent = (weight.shape[2 + axis] - 1) * apart
        read = Interval(-((extent - place) // step), place // step)
        axes.append(read.where(read.first <= read.last))
    return axes[0], axes[1]


def _points(graph: Graph, shapes: dict[int, tuple[int, ...]], generator: torch.Generator) -> list[Tensor]:
    """Random numbers (1, *shape) for each of the frontier's values; real ones where whole numbers are among them."""
    chooses = [source for source in shapes if isinstance(graph.nodes[source].operation, Detached)]
    known: dict[int, Tensor] = {}
    if chooses:
        constants = [v for node in graph.nodes for v in vars(node.operation).values() if isinstance(v, Tensor)]
        weight = next((v for v in constants if v.is_floating_point()), torch.zeros(0))
        image = torch.randn((1, *graph.nodes[0].shape), generator=generator).to(weight.device, weight.dtype)
        with torch.no_grad():
            known = evaluate(graph, image, chooses)
    return [
        _exact(known[source].cpu())
        if source in known
        else torch.randn((1, *shape), generator=generator, dtype=torch.float64)
        for source, shape in shapes.items()
    ]


def _exact(value: Tensor) -> Tensor:
    return value.double() if value.is_floating_point() else value


def _measure(
    output: Callable[[Sequence[Tensor]], Tensor],
    points: list[Tensor],
    given: tuple[tuple[int, ...], bool],
    lasts: list[bool],
    axis: int,
    generator: torch.Generator,
) -> list[Interval]:
    """What each row (axis 0) or column (1) of the output reads of each input's; nothing of what is no map.

    given: the output's shape, and whether its channels come last.  lasts: of which inputs they do.
    """
    shape, last = given
    line_axis = axis if last else 1 + axis
    count = shape[line_axis]
    largest = max([*(point.numel() for point in points), *[torch.Size(shape).numel()]])
    at_once = max(1, SIGNALS_AT_ONCE // largest)
    reads: list[list[Tensor]] = [[] for _ in points]
    for lines in torch.arange(count).split(at_once):
        seen = [torch.zeros(0) for _ in points]
        for trial in range(TRIALS):
            leaves = [_leaf(point, len(lines), trial) for point in points]
            signal = torch.zeros((len(lines), *shape), dtype=torch.float64)
            for n, line in enumerate(lines.tolist()):
                signal[n].select(line_axis, line).normal_(generator=generator)
            with torch.inference_mode(False), torch.enable_grad():
                derived = iter(
                    torch.autograd.grad(
                        output(leaves),
                        [leaf for leaf in leaves if leaf.requires_grad],
                        signal,
                        allow_unused=True,
                        materialize_grads=True,
                    )
                )
            for number, leaf in enumerate(leaves):
                back = next(derived).abs() if leaf.requires_grad else torch.zeros(leaf.shape)
                strength = _along(back, axis - 1 if lasts[number] else axis)
                seen[number] = strength if not trial else seen[number] + strength
        for number, strength in enumerate(seen):
            reads[number].append(strength)
    return [_interval(torch.cat(strengths)) for strengths in reads]


def _leaf(point: Tensor, count: int, trial: int) -> Tensor:
    leaf = point.expand(count, *point.shape[1:]).clone()
    if not leaf.is_floating_point():
        return leaf
    return (leaf if not trial else -leaf.flip(0) * 1.5).requires_grad_()


def _along(back: Tensor, axis: int) -> Tensor:
    """(N, lines) how strongly each signal comes back to each row or column of an input; none where it has none."""
    if back.dim() < 3:
        return torch.zeros(len(back), 1)
    others = [d for d in range(1, back.dim()) if d != back.dim() - 2 + axis]
    return back.amax(dim=others) if others else back


def _interval(strength: Tensor) -> Interval:
    read = strength > FAINT * strength.amax().clamp_min(1e-300)
    lines = torch.arange(strength.shape[1])
    return Interval(lines.where(read, NOTHING).amin(1), lines.where(read, -NOTHING).amax(1))
