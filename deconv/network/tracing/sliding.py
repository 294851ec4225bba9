"""Lowering of the calls that slide a window over a map, or frame it: convolution, pools, padding."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from deconv.network import spatial
from deconv.network.spatial import Window
from deconv.network.tracing.requests import Lowered, Request


def convolution(request: Request) -> Lowered | None:
    a = request.arguments
    weight, bias = a["weight"], a["bias"]
    if not isinstance(weight, Tensor) or not (bias is None or isinstance(bias, Tensor)):
        return None  # weights that depend on the image: not a linear operation of it
    if weight.is_complex():
        return request.as_call(linear=True, pointwise=False)
    weight = weight.detach().contiguous(memory_format=torch.channels_last)
    bias = None if bias is None else bias.detach()
    dilation = _pair(a["dilation"])
    if a["padding"] == "valid":
        before = after = (0, 0)
    elif a["padding"] == "same":
        total = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
        before = (total[0] // 2, total[1] // 2)
        after = (total[0] - before[0], total[1] - before[1])
    else:
        before = after = _pair(a["padding"])
    padding = (before[0], after[0], before[1], after[1])
    return spatial.Convolution(weight, bias, _pair(a["stride"]), padding, dilation, a["groups"]), request.inputs


def max_pool(request: Request) -> Lowered:
    if request.pick == 1:  # the indices of what won
        return request.as_call(linear=False, pointwise=False)
    a = request.arguments
    kernel = _pair(a["kernel_size"])
    window = Window(kernel, _pair(a["stride"], kernel), _pair(a["padding"]), _pair(a["dilation"]))
    return spatial.MaxPool(window, a["ceil_mode"]), request.inputs


def average_pool(request: Request) -> Lowered:
    a = request.arguments
    kernel = _pair(a["kernel_size"])
    window = Window(kernel, _pair(a["stride"], kernel), _pair(a["padding"]), (1, 1))
    divisor = a["divisor_override"]
    uniform = divisor is not None or _every_window_counts_the_same(window, a, request)
    return spatial.AveragePool(window, a["ceil_mode"], a["count_include_pad"], divisor, uniform), request.inputs


def _every_window_counts_the_same(window: Window, a: dict[str, Any], request: Request) -> bool:
    padded = window.before != (0, 0)
    overhang = any(
        (out - 1) * s - p + k > size + p
        for out, s, p, k, size in zip(
            request.shape[-2:], window.stride, window.before, window.kernel, request.input_shape()[-2:], strict=True
        )
    )
    return (a["count_include_pad"] or not padded) and not overhang


def adaptive_pool(request: Request) -> Lowered:
    size, wanted = request.input_shape()[-2:], request.shape[-2:]
    if request.pick == 1:  # the indices of what won
        return request.as_call(linear=False, pointwise=False)
    if size == wanted:
        return request.inputs[0]
    is_mean = request.name == "adaptive_avg_pool2d"
    if any(n % m for n, m in zip(size, wanted, strict=True)):
        return request.as_call(linear=True, pointwise=False) if is_mean else request.as_selection()
    step = (size[0] // wanted[0], size[1] // wanted[1])
    window = Window(step, step, (0, 0), (1, 1))
    return (spatial.AveragePool(window) if is_mean else spatial.MaxPool(window, False)), request.inputs


def pad(request: Request) -> Lowered:
    a = request.arguments
    frame = list(a["pad"])
    if a.get("mode", "constant") != "constant":
        return request.as_call(linear=True, pointwise=False)
    if len(frame) > 4 or len(request.shape) != 3:
        return request.as_call(linear=True, pointwise=False)
    left, right, top, bottom = (frame + [0, 0])[:4]
    return spatial.Pad((top, bottom, left, right), float(a.get("value") or 0.0)), request.inputs


def _pair(value: Any, default: Any = None) -> tuple[int, int]:
    items = list(value) if isinstance(value, list | tuple) else [value]
    if not items:
        return _pair(default)
    return (items[0], items[-1])
