"""A forward pass over images that differ from one image in a box each: only what the box reaches is computed again.

Every node's value for the unchanged image is given. Of each changed image a node has only the box of its map that may
differ; it computes that from the boxes of its inputs and, around them, from the unchanged values. All boxes of a batch
have the size of the largest; the values by which a smaller box grows are computed again, to the same. Where a box
covers most of its map, the node and all that reads it are computed whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from deconv.network.graph import Graph, Node, run
from deconv.network.operations import Operation, windowable
from deconv.network.spatial import Spatial, outside_value
from deconv.records import clip

Size = tuple[int, int]

MOST = 0.6
"""Share of a map above which a box is not worth its copying; on SqueezeNet and ResNet 0.6 and 0.8 take as long."""


@dataclass(frozen=True, eq=False)
class Box:
    """The part of one node's value that may differ in N changed images.

    value: (N, ..., h, w).  start: (N, 2) int64, the row and column of each in the map; None where value is whole.
    """

    value: Tensor
    start: Tensor | None

    @property
    def size(self) -> Size:
        return self.value.shape[-2], self.value.shape[-1]


def forward_changed(
    graph: Graph,
    unchanged: Mapping[int, Tensor],
    patches: Float[Tensor, "N C h w"],
    start: Int[Tensor, "N 2"],
    targets: Iterable[int],
) -> dict[int, Tensor]:
    """Return {target: (N, *shape)} for the image with patches[n] laid over it at start[n] = (row, column).

    unchanged: the values (1, *shape) of the image at all nodes that the targets need, as `evaluate` gives them.
    The patches must lie within the image. Equal to running each changed image whole, to the rounding of sums.
    """

    def compute(index: int, boxes: list[Box]) -> Box:
        node = graph.nodes[index]
        return _compute(node, [(unchanged[source], box) for source, box in zip(node.inputs, boxes, strict=True)])

    boxes = run(graph, Box(patches, start), targets, compute)
    return {target: _whole(unchanged[target], box) for target, box in boxes}


def _compute(node: Node, inputs: list[tuple[Tensor, Box]]) -> Box:
    """The node's box, from the unchanged value and the box of each of its inputs."""
    operation = node.operation
    reached = _reached(operation, [box for _, box in inputs], node.shape)
    if reached is None:
        return Box(operation.forward(*(_whole(*pair) for pair in inputs)), None)  # type: ignore[union-attr]
    start, size = reached
    if not isinstance(operation, Spatial):
        return Box(operation.forward(*(_read(*pair, start, size, 0.0) for pair in inputs)), start)  # type: ignore[union-attr]
    window, (height, width) = operation.window, size
    step, before = torch.tensor(window.stride), torch.tensor(window.before)
    needed = (
        (height - 1) * window.stride[0] + window.extent[0],
        (width - 1) * window.stride[1] + window.extent[1],
    )
    read = _read(*inputs[0], start * step - before, needed, outside_value(operation, inputs[0][0].dtype))
    return Box(operation.unpadded().forward(read), start)


def _reached(operation: Operation, boxes: list[Box], shape: tuple[int, ...]) -> tuple[Tensor, Size] | None:
    """The first position (N, 2) and the common size of what changes in a map of `shape`; None to compute it whole."""
    if not windowable(operation) or any(box.start is None for box in boxes):
        return None
    starts, sizes = [], []
    for axis in (0, 1):
        ends = [_reached_along(operation, box, axis) for box in boxes]
        positions = shape[-2 + axis]
        first = torch.stack([low for low, _ in ends]).amin(0).clamp(0, positions - 1)
        last = torch.stack([high for _, high in ends]).amax(0).clamp(0, positions - 1)
        length = max(int((last - first).max()) + 1, 1)
        starts.append(first.clamp(max=positions - length))
        sizes.append(length)
    if sizes[0] * sizes[1] > MOST * shape[-2] * shape[-1]:
        return None
    return torch.stack(starts, dim=1), (sizes[0], sizes[1])


def _reached_along(operation: Operation, box: Box, axis: int) -> tuple[Tensor, Tensor]:
    """(N,) first and last position of the output, along an axis, that read some of the box."""
    assert box.start is not None
    first, last = box.start[:, axis], box.start[:, axis] + box.size[axis] - 1
    if not isinstance(operation, Spatial):
        return first, last
    step, before = operation.window.stride[axis], operation.window.before[axis]
    reach = operation.window.extent[axis] - 1
    return -((reach - before - first) // step), (last + before) // step  # the first is a division rounded up


def _read(unchanged: Tensor, box: Box, start: Tensor, size: Size, outside: float) -> Tensor:
    """The changed images' values (N, ..., *size) from start[n] on; `outside` where that leaves the map."""
    if box.start is not None and box.size == size and torch.equal(box.start, start):
        return box.value
    values = _like(box.value, size).fill_(outside)
    for n, corner in enumerate(start.tolist()):
        _lay(unchanged[0], [0, 0], values[n], corner)
        _lay(box.value[n], [0, 0] if box.start is None else box.start[n].tolist(), values[n], corner)
    return values


def _whole(unchanged: Tensor, box: Box) -> Tensor:
    """The changed images' values at every position (N, ..., H, W)."""
    if box.start is None:
        return box.value
    size = (unchanged.shape[-2], unchanged.shape[-1])
    return _read(unchanged, box, torch.zeros_like(box.start), size, 0.0)


def _like(value: Tensor, size: Size) -> Tensor:
    made = value.new_empty((*value.shape[:-2], *size))
    return made.to(memory_format=torch.channels_last) if made.dim() == 4 else made


def _lay(value: Tensor, start: list[int], onto: Tensor, corner: list[int]) -> None:
    """Copy what a value (..., h, w) that begins at `start` and a window that begins at `corner` have in common."""
    top, left = corner[0] - start[0], corner[1] - start[1]
    rows, window_rows = clip(top, top + onto.shape[-2], value.shape[-2])
    cols, window_cols = clip(left, left + onto.shape[-1], value.shape[-1])
    onto[..., window_rows, window_cols] = value[..., rows, cols]
