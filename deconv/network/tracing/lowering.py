"""One recorded ATen call to one operation of `deconv.network.operations`: the table of what tracing knows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from deconv.network import operations as ops
from deconv.network.elementwise import COMPARISONS, ELEMENTWISE, NONLINEAR_ELEMENTWISE
from deconv.network.operations import Operation, Slot
from deconv.network.tracing import axes, sliding
from deconv.network.tracing.affine import is_affine
from deconv.network.tracing.layouts import is_linear, laid_alike
from deconv.network.tracing.requests import Lowered, Request

aten = torch.ops.aten


def lower(request: Request) -> Lowered:
    """(operation, inputs) for a new node; a position or list of pieces where no new node is needed."""
    if request.name in SELECTIONS and request.is_aten and not is_elementwise(request):
        return request.as_selection()
    if request.is_laid and request.name not in UNCHANGED:
        if is_elementwise(request) and laid_alike(request):
            request = replace(request, lays=(), gives=None)
        else:
            linear = is_linear(request)
            call = request.as_call(linear=linear, pointwise=False)
            return request.as_call(linear=linear or _tried_affine(request, call[0]), pointwise=False)
    handler = HANDLERS.get(request.name) if request.is_aten else None
    if handler is None and request.name.startswith("upsample_"):
        handler = _linear_whole
    result = handler(request) if handler is not None else None
    if result is not None:
        return result
    call = request.as_call(linear=False, pointwise=_same_positions(request))
    if _tried_affine(request, call[0]):
        return request.as_call(linear=True, pointwise=_same_positions(request))
    return call


def _tried_affine(request: Request, call: Operation) -> bool:
    return request.name not in NONLINEAR and is_affine(call, request)


def _batch_norm(request: Request) -> Lowered | None:
    a = request.arguments
    if a.get("training") or a["running_var"] is None:
        raise request.refused(
            "takes its statistics from the batch; expected running statistics (track_running_stats=True)"
        )
    constants = (a["running_mean"], a["running_var"], a["weight"], a["bias"])
    if any(c is not None and not isinstance(c, Tensor) for c in constants):
        return None
    if any(c is not None and c.dtype != request.dtype for c in constants):
        return request.as_call(linear=True, pointwise=len(request.shape) == 3)
    scale = torch.rsqrt(a["running_var"] + a["eps"])
    if a["weight"] is not None:
        scale = scale * a["weight"]
    shift = -a["running_mean"] * scale
    return ops.ChannelScale(scale, shift if a["bias"] is None else shift + a["bias"]), request.inputs


def _hard_tanh(request: Request) -> Lowered | None:
    low, high = request.arguments["min_val"], request.arguments["max_val"]
    if low == 0 and isinstance(high, int | float) and high > 0:
        return ops.Rectifier(float(high)), request.inputs
    return None


def _clamp(request: Request) -> Lowered | None:
    """clamp, clip: the positive part, whose derivative at the bounds is not the same in every version of torch."""
    low, high = request.arguments.get("min"), request.arguments.get("max")
    if isinstance(low, int | float) and low == 0 and (high is None or (isinstance(high, int | float) and high > 0)):
        call, inputs = request.as_call(linear=False, pointwise=True)
        return ops.SpelledRectifier(None if high is None else float(high), ((call, (0,)),)), inputs
    return None


def _rectifier(request: Request) -> Lowered:
    return ops.Rectifier(6.0 if request.name == "relu6" else None), request.inputs


def _sum(request: Request) -> Lowered:
    """add, sub: of two maps, or of a map and a constant."""
    of_two_maps = len(request.inputs) == 2 and request.name == "add" and request.arguments["alpha"] == 1
    if of_two_maps and request.input_shape(0) == request.input_shape(1) and _one_type(request):
        return ops.Add(), request.inputs
    return request.as_call(linear=_one_type(request), pointwise=_same_positions(request))


def _one_type(request: Request) -> bool:
    return all(request.dtypes[source].is_floating_point for source in request.inputs)


def _product(request: Request) -> Lowered:
    """mul, div: linear if one side is a constant."""
    divisor_is_node = request.name in ("div", "divide") and isinstance(request.arguments["other"], Slot)
    rounded = request.arguments.get("rounding_mode") is not None
    linear = len(request.inputs) == 1 and not divisor_is_node and not rounded
    return request.as_call(linear=linear, pointwise=_same_positions(request))


def _same_positions(request: Request) -> bool:
    """Whether output place (y, x) depends only on place (y, x) of each input, judged from shapes."""
    if not is_elementwise(request) or request.name == "index_put":
        return False
    if len(request.shape) < 2 or any(len(request.nodes[i].shape) < 2 for i in request.inputs):
        return False
    same = all(request.nodes[i].shape[-2:] == request.shape[-2:] for i in request.inputs)
    return same and all(isinstance(c, Tensor) and (c.numel() == 1 or c.shape[-2:] == (1, 1)) for c in request.constants)


def is_elementwise(request: Request) -> bool:
    """Whether every element of the result depends on that element alone of each input."""
    if request.name in ("max", "min"):  # of two maps, not along an axis
        return "other" in request.arguments
    if request.name == "index_put":  # x[x < 0] = 0
        indices = request.arguments["indices"]
        masks = [request.inputs[i.number] for i in indices if isinstance(i, Slot)]
        return len(indices) == 1 == len(masks) and request.dtypes[masks[0]] == torch.bool
    return request.name in ELEMENTWISE


def _expanded(request: Request) -> Lowered:
    """expand_as: of the other map only the shape matters."""
    nodes = all(isinstance(request.arguments[name], Slot) for name in ("self", "other"))
    if not nodes or len(request.input_shape()) != len(request.shape):
        return _linear_whole(request)
    arguments = {"self": Slot(0), "size": [-1, *request.shape]}
    alone = replace(request, function=aten.expand.default, arguments=arguments, inputs=request.inputs[:1])
    return alone.as_call(linear=True, pointwise=False)


def _unchanged(request: Request) -> Lowered:
    return request.inputs[0] if request.inputs else request.as_call(linear=True, pointwise=False)


def _detached(request: Request) -> Lowered:
    return request.as_call(linear=True, pointwise=True)


def _cast(request: Request) -> Lowered | None:
    source = request.input_dtype()
    if not source.is_floating_point or not request.dtype.is_floating_point:
        return request.as_call(linear=False, pointwise=True)
    return request.inputs[0] if source == request.dtype else (ops.Cast(request.dtype, source), request.inputs)


def _dropout(request: Request) -> Lowered:
    if request.arguments["train"]:
        raise request.refused("drops at random even in eval mode; expected training=self.training")
    return request.inputs[0]


def _copied(request: Request) -> Lowered:
    above = request.arguments["1"]
    if isinstance(above, Slot):
        source = request.inputs[above.number]
        if request.nodes[source].shape == request.shape and request.dtypes[source] == request.dtype:
            return source
    return request.as_call(linear=True, pointwise=False)


def _stacked(request: Request) -> Lowered:
    return request.as_call(linear=_one_type(request), pointwise=False)


def _linear_whole(request: Request) -> Lowered:
    """Linear in the image if it is alone among the arguments; needs the map whole."""
    return request.as_call(linear=len(request.inputs) == 1, pointwise=False)


def _unpooled(request: Request) -> Lowered:
    """max_unpool2d: its indices say where each value goes, as switches do."""
    return request.as_call(linear=isinstance(request.arguments["self"], Slot), pointwise=False)


def _along_axes(request: Request) -> Lowered:
    """flip, roll, cumsum: linear along some axes, the images' not among them."""
    axis = request.arguments.get("dims", request.arguments.get("dim"))
    touched = axis if isinstance(axis, list) else [] if axis is None else [axis]
    rank = len(request.shape) + 1
    if not touched or any(a % rank == 0 for a in touched):
        raise request.refused("moves values across the images of a batch; expected them to stay apart")
    return request.as_call(linear=True, pointwise=rank >= 3 and all(a % rank < rank - 2 for a in touched))


NONLINEAR = (
    NONLINEAR_ELEMENTWISE
    | COMPARISONS
    | frozenset(
        "softmax log_softmax layer_norm group_norm instance_norm native_layer_norm native_group_norm rms_norm "
        "scaled_dot_product_attention sort topk argsort argmax argmin amax amin max min median mode kthvalue std var "
        "std_mean var_mean norm linalg_vector_norm cumprod cummax cummin logcumsumexp logsumexp prod "
        "max_pool2d_with_indices adaptive_max_pool2d fractional_max_pool2d lp_pool2d glu bilinear cosine_similarity "
        "cdist lstm gru".split()
    )
)
"""Known not to be affine, or only where whole numbers decide: not worth the test."""

SELECTIONS = frozenset("amax amin max min max_pool1d max_pool3d".split())
"""What chooses one of several numbers as it is (max and min along an axis, not of two maps)."""
COPYING = frozenset("clone alias contiguous lift_fresh_copy lift_fresh".split())
DROPOUTS = frozenset("dropout feature_dropout alpha_dropout feature_alpha_dropout".split())
UNCHANGED = COPYING | DROPOUTS
"""What gives its input as it is, wherever the images lie in it."""

HANDLERS: dict[str, Callable[[Request], Lowered | None]] = {
    "conv2d": sliding.convolution,
    "max_pool2d": sliding.max_pool,
    "max_pool2d_with_indices": sliding.max_pool,
    "max_unpool2d": _unpooled,
    "avg_pool2d": sliding.average_pool,
    "adaptive_avg_pool2d": sliding.adaptive_pool,
    "adaptive_max_pool2d": sliding.adaptive_pool,
    "pad": sliding.pad,
    "constant_pad_nd": sliding.pad,
    "_native_batch_norm_legit_no_training": _batch_norm,
    "batch_norm": _batch_norm,
    "relu": _rectifier,
    "relu6": _rectifier,
    "hardtanh": _hard_tanh,
    "clamp": _clamp,
    "clamp_min": _clamp,
    "clip": _clamp,
    "view": axes.reshape,
    "reshape": axes.reshape,
    "_unsafe_view": axes.reshape,
    "flatten": axes.reshape,
    "unflatten": axes.reshape,
    "view_as": axes.reshape,
    "reshape_as": axes.reshape,
    "cat": axes.concatenate,
    "concat": axes.concatenate,
    "concatenate": axes.concatenate,
    "copy": _copied,
    "stack": _stacked,
    "expand_as": _expanded,
    "channel_shuffle": lambda request: request.as_call(linear=True, pointwise=True),
    "add": _sum,
    "sub": _sum,
    "rsub": _sum,
    "mul": _product,
    "div": _product,
    "multiply": _product,
    "divide": _product,
    "neg": lambda request: request.as_call(linear=True, pointwise=_same_positions(request)),
    "transpose": axes.along("dim0", "dim1"),
    "swapaxes": axes.along("axis0", "axis1"),
    "movedim": axes.moved,
    "permute": axes.permute,
    "unsqueeze": axes.along("dim"),
    "squeeze": axes.squeeze,
    "select": axes.along("dim"),
    "index_select": axes.along("dim"),
    "index": axes.index,
    "flip": _along_axes,
    "roll": _along_axes,
    "cumsum": _along_axes,
    "diff": _along_axes,
    "slice": axes.cut,
    "narrow": axes.along("dim"),
    "split": axes.pieces,
    "split_with_sizes": axes.pieces,
    "chunk": axes.pieces,
    "unbind": axes.pieces,
    "detach": _detached,
    **dict.fromkeys(["to", "_to_copy", "type_as"], _cast),
    **dict.fromkeys(COPYING, _unchanged),
    **dict.fromkeys(DROPOUTS, _dropout),
    **dict.fromkeys(["linear", "mean", "sum", "matmul", "mm", "bmm"], _linear_whole),
    **dict.fromkeys(["conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "conv1d", "conv3d"], _linear_whole),
    **dict.fromkeys(
        ["pixel_shuffle", "pixel_unshuffle", "avg_pool1d", "avg_pool3d", "im2col", "col2im"], _linear_whole
    ),
    **dict.fromkeys(["repeat", "expand", "tile", "repeat_interleave", "rot90"], _linear_whole),
    **dict.fromkeys(["unfold", "reflection_pad2d", "replication_pad2d", "adaptive_avg_pool1d"], _linear_whole),
}
