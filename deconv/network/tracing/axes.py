"""Lowering of the calls that move, cut or join axes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from deconv.network import operations as ops
from deconv.network.operations import PerImage, Slot
from deconv.network.tracing.requests import Lowered, Request, reshape_of

aten = torch.ops.aten


def reshape(request: Request) -> Lowered:
    if "dtype" in request.arguments:  # the same bytes as other numbers
        return request.as_call(linear=False, pointwise=False)
    return reshape_of(request.input_shape(), request.shape), request.inputs[:1]


def concatenate(request: Request) -> Lowered:
    rank = len(request.shape) + 1
    all_nodes = all(isinstance(item, Slot) for item in request.arguments["tensors"])
    axis = request.arguments["dim"] % rank
    if axis == 0:
        raise request.refused("joins batches; expected one")
    if all_nodes and axis == 1 and len(request.inputs) == len(request.arguments["tensors"]):
        return ops.Concatenate(), request.inputs
    return request.as_call(linear=True, pointwise=all_nodes and axis < rank - 2)


def along(*names: str) -> Callable[[Request], Lowered]:
    """An operation along some axes only: linear, and place by place if those axes are not the last two."""

    def handle(request: Request) -> Lowered:
        if len(request.inputs) > 1 or not isinstance(next(iter(request.arguments.values())), Slot):
            return request.as_call(linear=False, pointwise=False)  # it chooses by what the image says
        rank = len(request.input_shape()) + 1 + (request.name == "unsqueeze")
        touched = [axis % rank for name in names for axis in _as_list(request.arguments.get(name))]
        return request.as_call(linear=True, pointwise=_leaves_last_two(request, touched, rank))

    return handle


def _leaves_last_two(request: Request, touched: list[int], rank: int) -> bool:
    """Whether the last two of `rank` axes are none of those that a call touches, and as long as before."""
    alike = request.input_shape()[-2:] == request.shape[-2:] and len(request.shape) >= 2
    return alike and all(axis < rank - 2 for axis in touched)


def squeeze(request: Request) -> Lowered:
    """All axes of size one but that of the images, which a batch of one has too."""
    if "dim" in request.arguments:
        return along("dim")(request)
    return reshape_of(request.input_shape(), request.shape), request.inputs


def moved(request: Request) -> Lowered:
    touched = [*_as_list(request.arguments["source"]), *_as_list(request.arguments["destination"])]
    rank = len(request.shape) + 1
    return request.as_call(linear=True, pointwise=all(axis % rank < rank - 2 for axis in touched))


def index(request: Request) -> Lowered:
    """x[:, [2, 1, 0]]: linear where the indices are constants."""
    indices = request.arguments["indices"]
    constant = len(request.inputs) == 1 and isinstance(request.arguments["self"], Slot)
    if not constant or any(isinstance(i, PerImage) for i in indices):
        return request.as_call(linear=False, pointwise=False)
    if indices and indices[0] is not None:
        raise request.refused("picks images of a batch; expected them to stay apart")
    rank = len(request.input_shape()) + 1
    touched = [axis for axis, chosen in enumerate(indices) if chosen is not None]
    return request.as_call(linear=True, pointwise=_leaves_last_two(request, touched, rank))


def _as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [] if value is None else [value]


def permute(request: Request) -> Lowered:
    dims = [d % len(request.arguments["dims"]) for d in request.arguments["dims"]]
    rank = len(dims)
    return request.as_call(linear=True, pointwise=dims[-2:] == [rank - 2, rank - 1])


def cut(request: Request) -> Lowered:
    axis, start, end = (request.arguments[name] for name in ("dim", "start", "end"))
    axis %= len(request.shape) + 1
    size = None if axis == 0 else request.input_shape()[axis - 1]
    if request.arguments["step"] == 1 and not start and (end is None or size is None or end >= size):
        return request.inputs[0]
    return along("dim")(request)


def pieces(request: Request) -> list[Request]:
    """split, chunk, unbind: one request a piece, lowered when getitem asks for it."""
    axis = request.arguments["dim"] % (len(request.input_shape()) + 1)
    if axis == 0:
        raise request.refused("cuts the batch into its images; expected them to stay together")
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
        name, function = "select", aten.select.int
        arguments = {"self": Slot(0), "dim": axis, "index": start}
    else:
        shape[axis - 1] = end - start
        name, function = "slice", aten.slice.Tensor
        arguments = {"self": Slot(0), "dim": axis, "start": start, "end": end, "step": 1}
    return replace(request, function=function, name=name, arguments=arguments, shape=tuple(shape), pick=None)
