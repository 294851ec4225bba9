"""Lowering of the calls that move, cut or join axes.

Shapes are those of the traced graph, without the batch: axis 1 of a call is entry 0 of a shape.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from deconv.network import operations as ops
from deconv.network.operations import Slot
from deconv.network.tracing.exported import Lowered, Request

aten = torch.ops.aten


def reshape(request: Request) -> Lowered:
    """view, flatten and the like: (N, *before) to (N, *after); spatial where the last two axes stay as they are."""
    before, after = request.input_shape(), request.shape
    spatial = len(before) >= 3 and len(after) >= 3 and before[-2:] == after[-2:]
    return ops.Reshape(after, spatial), request.inputs


def concatenate(request: Request) -> Lowered:
    """cat: `Concatenate` of nodes along the channels; along another axis, or with constants, a linear call."""
    rank = len(request.shape) + 1
    all_nodes = all(isinstance(item, Slot) for item in request.arguments["tensors"])
    axis = request.arguments["dim"] % rank
    if all_nodes and axis == 1:
        return ops.Concatenate(), request.inputs
    return request.as_call(linear=True, pointwise=axis < rank - 2)


def along(*names: str) -> Callable[[Request], Lowered]:
    """Return the lowering of a linear call along the axes that `names` hold; pointwise if not the last two are."""

    def handle(request: Request) -> Lowered:
        rank = len(request.input_shape()) + 1 + (request.name == "unsqueeze")
        touched = [axis % rank for name in names for axis in _as_list(request.arguments.get(name))]
        kept = request.input_shape()[-2:] == request.shape[-2:] and len(request.shape) >= 2
        return request.as_call(linear=True, pointwise=kept and all(axis < rank - 2 for axis in touched))

    return handle


def _as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [] if value is None else [value]


def permute(request: Request) -> Lowered:
    """permute: a linear call, pointwise if the last two axes stay the last two."""
    dims = [d % len(request.arguments["dims"]) for d in request.arguments["dims"]]
    rank = len(dims)
    return request.as_call(linear=True, pointwise=dims[-2:] == [rank - 2, rank - 1])


def cut(request: Request) -> Lowered:
    """slice: its input itself where it takes the whole axis, else a linear call."""
    axis, start, end = (request.arguments[name] for name in ("dim", "start", "end"))
    size = None if axis == 0 else request.input_shape()[axis - 1]
    if request.arguments["step"] == 1 and not start and (end is None or size is None or end >= size):
        return request.inputs[0]
    return along("dim")(request)


def pieces(request: Request) -> list[Request]:
    """split, chunk, unbind: one request for each piece, lowered when getitem takes the piece."""
    axis = request.arguments["dim"] % (len(request.input_shape()) + 1)
    size = request.input_shape()[axis - 1]
    starts = [0]
    if request.name == "unbind":
        widths = [1] * size
    else:
        width: Any = request.arguments.get("split_size", request.arguments.get("split_sizes"))
        width = -(-size // request.arguments["chunks"]) if request.name == "chunk" else width
        widths = list(width) if isinstance(width, list) else [width] * (-(-size // width))
    for width in widths:
        starts.append(min(starts[-1] + width, size))
    return [_piece(request, axis, start, end) for start, end in zip(starts, starts[1:], strict=False)]


def _piece(request: Request, axis: int, start: int, end: int) -> Request:
    shape = list(request.input_shape())
    if request.name == "unbind":
        del shape[axis - 1]
        arguments = {"self": Slot(0), "dim": axis, "index": start}
        return Request(aten.select.int, "select", request.path, arguments, request.inputs, request.nodes, tuple(shape))
    shape[axis - 1] = end - start
    arguments = {"self": Slot(0), "dim": axis, "start": start, "end": end, "step": 1}
    return Request(aten.slice.Tensor, "slice", request.path, arguments, request.inputs, request.nodes, tuple(shape))
