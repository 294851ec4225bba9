"""A forward pass over images that differ from one image in a box each: only what the box reaches is computed again.

Every node's value for the unchanged image is there. Of each changed image a node has only the box of its map that may
differ; it computes that from the boxes of its inputs and, around them, from the unchanged values. All boxes of a batch
have the size of the largest: enlarging one computes some unchanged values again, which gives the same. Where a box
covers most of its map, the node and all that reads it are computed whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from deconv.network.graph import Graph
from deconv.network.operations import Operation, windowable
from deconv.network.spatial import Spatial, outside_value

Size = tuple[int, int]

MOST = 0.6
"""Share of a map above which a box is not worth its copying; on SqueezeNet and ResNet 0.6 and 0.8 take as long."""


@dataclass(frozen=True, eq=False)
class Part:
    """Of N changed images the part of one node's value that may differ.

    value: (N, ..., h, w). start: (N, 2) int64, the row and column of each in the map; None where value is whole.
    """

    value: Tensor
    start: Tensor | None

    @property
    def size(self) -> Size:
        return self.value.shape[-2], self.value.shape[-1]


def forward_changed(
    graph: Graph, unchanged: Mapping[int, Tensor], patches: Tensor, start: Tensor, targets: Iterable[int]
) -> dict[int, Tensor]:
    """{target: (N, *shape)} for the image with patches[n] (C, h, w) laid over it at start[n] = (row, column).

    unchanged: the values (1, *shape) of the image at all nodes that the targets need, as `evaluate` gives them.
    The patches lie within the image. Equal to running each changed image whole, to the rounding of sums.
    """
    wanted = set(targets)
    order = graph.ancestors(wanted)
    last_reader = {source: position for position in order for source in graph.nodes[position].inputs}
    parts = {0: Part(patches, start)}
    for position in order[1:]:
        inputs = graph.nodes[position].inputs
        parts[position] = _compute(graph, position, [(unchanged[source], parts[source]) for source in inputs])
        for source in set(inputs) - wanted:
            if last_reader[source] == position:
                del parts[source]
    return {position: _whole(unchanged[position], parts[position]) for position in wanted}


def _compute(graph: Graph, position: int, inputs: list[tuple[Tensor, Part]]) -> Part:
    node = graph.nodes[position]
    operation = node.operation
    box = _box(operation, [part for _, part in inputs], node.shape)
    if box is None:
        return Part(operation.forward(*(_whole(*given) for given in inputs)), None)  # type: ignore[union-attr]
    start, size = box
    if not isinstance(operation, Spatial):
        return Part(operation.forward(*(_read(*given, start, size, 0.0) for given in inputs)), start)  # type: ignore[union-attr]
    window, (height, width) = operation.window, size
    step, before = torch.tensor(window.stride), torch.tensor(window.before)
    needed = (
        (height - 1) * window.stride[0] + window.extent[0],
        (width - 1) * window.stride[1] + window.extent[1],
    )
    read = _read(*inputs[0], start * step - before, needed, outside_value(operation))
    return Part(operation.unpadded().forward(read), start)


def _box(operation: Operation, parts: list[Part], shape: tuple[int, ...]) -> tuple[Tensor, Size] | None:
    """The first place (N, 2) and the common size of what changes in a map of `shape`; None to compute it whole."""
    if not windowable(operation) or any(part.start is None for part in parts):
        return None
    starts, sizes = [], []
    for axis in (0, 1):
        ends = [_reached(operation, part, axis) for part in parts]
        places = shape[-2 + axis]
        first = torch.stack([a for a, _ in ends]).amin(0).clamp(0, places - 1)
        last = torch.stack([b for _, b in ends]).amax(0).clamp(0, places - 1)
        length = max(int((last - first).max()) + 1, 1)
        starts.append(first.clamp(max=places - length))
        sizes.append(length)
    if sizes[0] * sizes[1] > MOST * shape[-2] * shape[-1]:
        return None
    return torch.stack(starts, dim=1), (sizes[0], sizes[1])


def _reached(operation: Operation, part: Part, axis: int) -> tuple[Tensor, Tensor]:
    """(N,) first and last place of the output, along an axis, that read some of the part."""
    assert part.start is not None
    first, last = part.start[:, axis], part.start[:, axis] + part.size[axis] - 1
    if not isinstance(operation, Spatial):
        return first, last
    step, before = operation.window.stride[axis], operation.window.before[axis]
    reach = operation.window.extent[axis] - 1
    return -((reach - before - first) // step), (last + before) // step  # the first is a division rounded up


def _read(unchanged: Tensor, part: Part, start: Tensor, size: Size, outside: float) -> Tensor:
    """The changed images' values (N, ..., *size) from start[n] on; `outside` where that leaves the map."""
    if part.start is not None and part.size == size and torch.equal(part.start, start):
        return part.value
    read = _like(part.value, size).fill_(outside)
    before = unchanged[0]
    for n, corner in enumerate(start.tolist()):
        _lay(before, (0, 0), read[n], corner)
        _lay(part.value[n], (0, 0) if part.start is None else part.start[n].tolist(), read[n], corner)
    return read


def _whole(unchanged: Tensor, part: Part) -> Tensor:
    """The changed images' values at every place (N, ..., H, W)."""
    if part.start is None:
        return part.value
    size = (unchanged.shape[-2], unchanged.shape[-1])
    return _read(unchanged, part, torch.zeros_like(part.start), size, 0.0)


def _like(value: Tensor, size: Size) -> Tensor:
    made = value.new_empty((*value.shape[:-2], *size))
    return made.to(memory_format=torch.channels_last) if made.dim() == 4 else made


def _lay(value: Tensor, at: tuple[int, int] | list[int], onto: Tensor, corner: list[int]) -> None:
    """Copy what a value (..., h, w) that begins at `at` and a window that begins at `corner` have in common."""
    rows, window_rows = _common(at[0], value.shape[-2], corner[0], onto.shape[-2])
    cols, window_cols = _common(at[1], value.shape[-1], corner[1], onto.shape[-1])
    onto[..., window_rows, window_cols] = value[..., rows, cols]


def _common(start: int, length: int, other: int, other_length: int) -> tuple[slice, slice]:
    """The places that [start, + length) and [other, + other_length) share, counted from the start of each."""
    first, end = max(start, other), min(start + length, other + other_length)
    end = max(first, end)
    return slice(first - start, end - start), slice(first - other, end - other)
