"""One exported ATen call to one operation of `deconv.network.operations`: the table of what tracing knows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from deconv.errors import UnsupportedOperation
from deconv.network import operations as ops
from deconv.network import spatial
from deconv.network.graph import Node
from deconv.network.operations import BatchSize, Call, Operation, Slot
from deconv.network.tracing import axes, sliding
from deconv.network.tracing.exported import Lowered, Request

aten = torch.ops.aten


def lower(request: Request) -> Lowered:
    """Return (operation, inputs) for a new node; an index, a constant or a list of pieces where none is needed."""
    if not request.inputs:
        return _constant(request)
    handler = HANDLERS.get(request.name)
    if handler is not None:
        result = handler(request)
        if result is not None:
            return result
    return request.as_call(linear=False, pointwise=_same_positions(request))


def _constant(request: Request) -> Any:
    """A call that does not depend on the image (weight normalisation, say) is computed once, now."""
    call, _ = request.as_call(linear=True, pointwise=False)
    assert isinstance(call, Call)
    if any(isinstance(item, BatchSize) for value in call.arguments for item in (value, *_items(value))):
        raise UnsupportedOperation(
            f"'{request.name}' in {request.path or 'the network'} makes a constant of the batch's size; "
            "expected constants without the batch axis"
        )
    arguments = [value.contiguous() if isinstance(value, Tensor) else value for value in call.arguments]
    with torch.no_grad():  # contiguous, for the weights are kept channels last and views were traced on the user's own
        return call.function(*arguments, **call.keywords)


def _items(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else []


def _batch_norm(request: Request) -> Lowered:
    """batch_norm: the `ChannelScale` of its running statistics."""
    a = request.arguments
    if a.get("training") or a["running_var"] is None:
        raise UnsupportedOperation(
            f"'batch_norm' in {request.path or 'the network'} takes its statistics from the batch; "
            "expected running statistics (track_running_stats=True)"
        )
    scale = torch.rsqrt(a["running_var"] + a["eps"])
    if a["weight"] is not None:
        scale = scale * a["weight"]
    shift = -a["running_mean"] * scale
    return ops.ChannelScale(scale, shift if a["bias"] is None else shift + a["bias"]), request.inputs


def _clamp(request: Request) -> Lowered:
    """clamp, hardtanh: a `Rectifier` where the lower bound is zero, else None, for a call as it stands."""
    a = request.arguments
    low, high = a.get("min", a.get("min_val")), a.get("max", a.get("max_val"))
    if low == 0 and (high is None or (isinstance(high, int | float) and high > 0)):
        return ops.Rectifier(None if high is None else float(high)), request.inputs
    return None


def _rectifier(request: Request) -> Lowered:
    """relu, relu6: a `Rectifier`."""
    return ops.Rectifier(6.0 if request.name == "relu6" else None), request.inputs


def _sum(request: Request) -> Lowered:
    """add, sub: `Add` for two maps of one shape, else a linear call."""
    of_two_maps = len(request.inputs) == 2 and request.name == "add" and request.arguments["alpha"] == 1
    if of_two_maps and request.input_shape(0) == request.input_shape(1):
        return ops.Add(), request.inputs
    return request.as_call(linear=True, pointwise=_same_positions(request))


def _product(request: Request) -> Lowered:
    """mul, div: a call, linear if one side is a constant."""
    divisor_is_node = request.name == "div" and isinstance(request.arguments["other"], Slot)
    linear = len(request.inputs) == 1 and not divisor_is_node
    return request.as_call(linear=linear, pointwise=_same_positions(request))


def _same_positions(request: Request) -> bool:
    """Whether each output position depends only on the same position of each input, judged from shapes."""
    if request.name not in POINTWISE:
        return False
    if len(request.shape) < 2 or any(len(request.nodes[i].shape) < 2 for i in request.inputs):
        return False
    same = all(request.nodes[i].shape[-2:] == request.shape[-2:] for i in request.inputs)
    constants = [value for value in request.arguments.values() if isinstance(value, Tensor)]
    return same and all(c.numel() == 1 or c.shape[-2:] == (1, 1) for c in constants)


def _unchanged(request: Request) -> Lowered:
    """clone and the like: the input itself."""
    return request.inputs[0]


def _dropout(request: Request) -> Lowered:
    """dropout in eval mode: the input itself."""
    if request.arguments["train"]:
        raise UnsupportedOperation(
            f"'dropout' in {request.path or 'the network'} drops at random even in eval mode; "
            "give it training=self.training"
        )
    return request.inputs[0]


def _linear_whole(request: Request) -> Lowered:
    """Linear in the image if it is alone among the arguments; needs the map whole."""
    return request.as_call(linear=len(request.inputs) == 1, pointwise=False)


def _batch_size(request: Request) -> Lowered:
    """sym_size: the number of images."""
    if request.arguments["dim"] != 0:
        raise UnsupportedOperation(
            "the image size must be fixed while tracing; this is a bug of deconv, please report it"
        )
    return BatchSize()


POINTWISE = frozenset(
    "add sub rsub mul div neg silu sigmoid hardsigmoid hardswish gelu tanh leaky_relu elu celu selu mish softplus "
    "prelu softsign pow exp log sqrt rsqrt abs clamp clamp_min hardtanh minimum maximum threshold rrelu".split()
)
HANDLERS: dict[str, Callable[[Request], Lowered]] = {
    "conv2d": sliding.convolution,
    "max_pool2d": sliding.max_pool,
    "avg_pool2d": sliding.average_pool,
    "adaptive_avg_pool2d": sliding.adaptive_pool,
    "adaptive_max_pool2d": sliding.adaptive_pool,
    "pad": sliding.pad,
    "constant_pad_nd": sliding.pad,
    "_native_batch_norm_legit_no_training": _batch_norm,
    "batch_norm": _batch_norm,
    "relu": _rectifier,
    "relu6": _rectifier,
    "hardtanh": _clamp,
    "clamp": _clamp,
    "clamp_min": _clamp,
    "view": axes.reshape,
    "reshape": axes.reshape,
    "_unsafe_view": axes.reshape,
    "flatten": axes.reshape,
    "unflatten": axes.reshape,
    "cat": axes.concatenate,
    "channel_shuffle": lambda request: request.as_call(linear=True, pointwise=True),
    "add": _sum,
    "sub": _sum,
    "rsub": _sum,
    "mul": _product,
    "div": _product,
    "neg": lambda request: request.as_call(linear=True, pointwise=_same_positions(request)),
    "transpose": axes.along("dim0", "dim1"),
    "permute": axes.permute,
    "unsqueeze": axes.along("dim"),
    "squeeze": axes.along("dim"),
    "select": axes.along("dim"),
    "index_select": axes.along("dim"),
    "slice": axes.cut,
    "split": axes.pieces,
    "split_with_sizes": axes.pieces,
    "chunk": axes.pieces,
    "unbind": axes.pieces,
    "sym_size": _batch_size,
    **dict.fromkeys(["clone", "alias", "contiguous", "detach", "lift_fresh_copy"], _unchanged),
    **dict.fromkeys(["dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout"], _dropout),
    **dict.fromkeys(["linear", "mean", "sum", "matmul", "mm", "bmm", "conv_transpose2d", "stack"], _linear_whole),
    **dict.fromkeys(["upsample_nearest2d", "upsample_bilinear2d", "pixel_shuffle", "pixel_unshuffle"], _linear_whole),
}

VIEWS = frozenset(
    "view reshape flatten unflatten transpose permute unsqueeze squeeze select slice split split_with_sizes chunk "
    "unbind alias contiguous detach lift_fresh_copy dropout feature_dropout alpha_dropout feature_alpha_dropout".split()
)
"""Operations known above whose output may be the memory of their input."""


def gives_map(operation: Operation, inputs: list[Node], shape: tuple[int, ...]) -> bool:
    """Return whether the output is (C, H, W), channels first."""
    if len(shape) != 3:
        return False
    if isinstance(operation, ops.Input | spatial.Spatial):
        return True
    if isinstance(operation, ops.Reshape):
        return operation.spatial
    moves_axes = isinstance(operation, Call) and not operation.pointwise and str(operation.function) in MOVES_AXES
    return not moves_axes and all(node.is_map for node in inputs)


MOVES_AXES = frozenset({"aten.permute.default", "aten.transpose.int"})
