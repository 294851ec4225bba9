"""Projections by autograd on the user's own module: only the backward of rectifiers (and of LRN) is replaced.

Shares no code with deconv: no tracing, no rule table, no geometry.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

RELUS = {F.relu, torch.relu, Tensor.relu, torch.relu_, Tensor.relu_}


class _Rectify(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, rule: str, ceiling: float, in_place: bool) -> Tensor:
        ctx.rule = rule
        ctx.save_for_backward((x > 0) & (x < ceiling))
        if in_place:
            ctx.mark_dirty(x)
            return x.clamp_(0, ceiling)
        return x.clamp(0, ceiling)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (mask,) = ctx.saved_tensors
        positive = grads[0].clamp_min(0)
        return positive * mask if ctx.rule == "guided" else positive, None, None, None


class _LeftOutBackwards(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, *parameters: float) -> Tensor:
        return F.local_response_norm(x, *parameters)  # type: ignore[arg-type]

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return grads[0], None, None, None, None


class RuleMode(TorchFunctionMode):
    """While it is on, rectifiers go backwards by `rule`; `seen` counts them."""

    def __init__(self, rule: str):
        super().__init__()
        self.rule = rule.removesuffix("_beyond")
        self.seen = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in RELUS:
            in_place = kwargs.get("inplace", len(args) > 1 and args[1]) or func in (torch.relu_, Tensor.relu_)
            return self._rectify(args[0], float("inf"), in_place)
        if func in (F.relu6, F.hardtanh):
            return self._rectify(args[0], 6.0, kwargs.get("inplace", args[-1] is True))
        if func is F.local_response_norm and self.rule == "deconvnet":
            return _LeftOutBackwards.apply(*args, *kwargs.values())
        return func(*args, **kwargs)

    def _rectify(self, x: Tensor, ceiling: float, in_place: bool) -> Any:
        self.seen += 1
        return _Rectify.apply(x, self.rule, ceiling, in_place)


def project_by_autograd(
    activations: Callable[[Tensor], Any],
    images: Tensor,
    peaks: Tensor,
    rule: str | BeyondMode,
    seed: Tensor | None = None,
    rectified: bool = True,
) -> tuple[Tensor, Tensor]:
    """(scores (N,), pixels (N, C, H, W)) of peaks (N, 4) = (image, channel, row, col) of `activations(images)`.

    seed: (N,) what to send back instead of the scores, whose rounding would hide how well two backward passes agree.
    rectified: whether there must be a rectifier on the way, so that the rule is not the gradient by mistake.
    """
    image, channel, row, col = peaks.T
    with torch.enable_grad():
        pixels = images[image].requires_grad_()
        if rule == "gradient":
            maps = activations(pixels * 1)
        elif isinstance(rule, BeyondMode):
            with rule:
                maps = activations(pixels * 1)
        else:
            with RuleMode(rule) as mode:
                maps = activations(pixels * 1)
            assert mode.seen or not rectified, "no rectifier was met"
        maps = maps["maps"] if isinstance(maps, dict) else maps
        maps = maps if maps.dim() == 4 else maps[:, :, None, None]
        score = maps[torch.arange(len(peaks)), channel, row, col]
        (back,) = torch.autograd.grad(score, pixels, score.detach() if seed is None else seed.to(score.dtype))
    return score.detach(), back


def relative_error(actual: Tensor, expected: Tensor) -> Tensor:
    """(N,) ||actual - expected|| / ||expected|| of each peak; where both are zero, zero."""
    difference = (actual.double() - expected.double()).flatten(1).norm(dim=1)
    return difference / expected.double().flatten(1).norm(dim=1).clamp_min(1e-30)


class _Pass(torch.autograd.Function):
    """Any function of single values, which a signal passes as a rule's `relu` says of a rectifier."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, function: Callable[[Tensor], Tensor], relu: str) -> Tensor:
        output = function(x)
        ctx.relu = relu
        ctx.save_for_backward(output > 0)
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        signal = grads[0] if ctx.relu == "none" else grads[0].clamp_min(0)
        return signal * ctx.saved_tensors[0] if ctx.relu == "both" else signal, None, None


RECTIFIERS = RELUS | {F.relu6}
ACTIVATIONS: set[Any] = {
    *(F.silu, F.gelu, F.hardswish, F.leaky_relu, F.prelu, F.elu, F.selu, F.celu, F.mish, F.softplus, F.hardtanh),
    *(torch.tanh, Tensor.tanh, F.tanh),
}
SQUASHES: set[Any] = {torch.sigmoid, F.hardsigmoid}


class BeyondMode(TorchFunctionMode):
    """While it is on, rectifiers, activations and norms go backwards by a rule's options.

    squashes: whether sigmoids are activations, and not what makes gates.
    """

    def __init__(self, relu: str, activation: str, norm: str, squashes: bool):
        super().__init__()
        self.passed = (RECTIFIERS | ACTIVATIONS | (SQUASHES if squashes else set())) if relu != "forward" else set()
        if activation == "derivative":
            self.passed = self.passed & RECTIFIERS
        self.relu, self.hold_norms = relu, norm == "constant"

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = {name: value for name, value in (kwargs or {}).items() if name != "inplace"}
        if func in self.passed:
            return _Pass.apply(args[0], lambda x: func(x.clone(), *args[1:], **kwargs), self.relu)
        if func in NORMS and self.hold_norms:
            return NORMS[func](*args, **kwargs)
        return func(*args, **kwargs)


def _standardised(x: Tensor, axes: Any, eps: float) -> Tensor:
    mean, variance = x.mean(axes, keepdim=True).detach(), x.var(axes, correction=0, keepdim=True).detach()
    return (x - mean) / (variance + eps) ** 0.5


def _along_channels(values: Tensor | None, like: Tensor) -> Any:
    return 1 if values is None else values.view(1, -1, *(1,) * (like.dim() - 2))


def _layer_norm(x: Tensor, shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Tensor:
    held = _standardised(x, tuple(range(-len(shape), 0)), eps)
    return held if weight is None else held * weight + (0 if bias is None else bias)


def _rms_norm(x: Tensor, shape: Any, weight: Any = None, eps: float | None = None) -> Tensor:
    square = (x**2).mean(tuple(range(-len(shape), 0)), keepdim=True)
    held = x / (square + (torch.finfo(x.dtype).eps if eps is None else eps)).sqrt().detach()
    return held if weight is None else held * weight


def _group_norm(x: Tensor, groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Tensor:
    held = _standardised(x.reshape(len(x), groups, -1), 2, eps).view(x.shape)
    scaled = held if weight is None else held * _along_channels(weight, x)
    return scaled if bias is None else scaled + _along_channels(bias, x)


def _instance_norm(
    x: Tensor,
    running_mean: Any,
    running_var: Any,
    weight: Any,
    bias: Any,
    use_input_stats: bool,
    momentum: float,
    eps: float,
) -> Tensor:
    if use_input_stats:
        return _group_norm(x, x.shape[1], weight, bias, eps)
    return (x - _along_channels(running_mean, x)) / (_along_channels(running_var, x) + eps) ** 0.5


def _unit_length(x: Tensor, p: float = 2.0, dim: int = 1, eps: float = 1e-12, out: None = None) -> Tensor:
    return x / x.norm(p, dim, keepdim=True).clamp_min(eps).detach()


NORMS: dict[Any, Callable[..., Tensor]] = {
    F.layer_norm: _layer_norm,
    F.rms_norm: _rms_norm,
    F.group_norm: _group_norm,
    F.instance_norm: _instance_norm,
    F.normalize: _unit_length,
}


class Detach(torch.nn.Module):
    """Takes the place of what is held constant."""

    def forward(self, x: Tensor) -> Tensor:
        return x.detach()


def run_plainly(x: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    """The function with autograd's derivative, whatever mode is on."""
    with torch._C.DisableTorchFunction():
        return function(x)


def run_passing(relu: str) -> Callable[..., Tensor]:
    """Run a function that a signal passes as `relu` says."""
    return lambda x, function: _Pass.apply(x, lambda value: run_plainly(value, function), relu)


SIGMOIDS: set[Any] = {torch.sigmoid, torch.sigmoid_, Tensor.sigmoid, Tensor.sigmoid_, F.sigmoid, F.hardsigmoid}
SOFTMAXES: set[Any] = {torch.softmax, Tensor.softmax, F.softmax}
MOVES: set[Any] = {
    *(torch.chunk, Tensor.chunk, torch.split, Tensor.split, Tensor.view, Tensor.reshape, torch.flatten, Tensor.flatten),
    *(Tensor.unsqueeze, Tensor.squeeze, Tensor.transpose, Tensor.permute, Tensor.expand, Tensor.expand_as),
    *(Tensor.float, Tensor.double, Tensor.to),
}
PRODUCTS: set[Any] = {torch.mul, Tensor.mul, Tensor.mul_, Tensor.__mul__, Tensor.__rmul__, Tensor.__imul__}
MATRIX_PRODUCTS: set[Any] = {torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.bmm, Tensor.bmm}
QUOTIENTS: set[Any] = {torch.div, Tensor.div, Tensor.div_, Tensor.__truediv__, Tensor.__itruediv__}
POWERS: set[Any] = {torch.pow, Tensor.pow, Tensor.__pow__, torch.square, Tensor.square}
BOUNDING: set[Any] = {F.relu6, F.hardtanh, torch.tanh, Tensor.tanh, F.tanh}


class HoldingMode(BeyondMode):
    """While it is on, any module goes backwards as by `deconvnet_beyond` (relu "backward") or `guided_beyond` ("both").

    What is held constant is told by what is computed, without a graph: what a softmax gives; of a product the factor
    that is the same at several positions or channels, or else the one that comes from an activation, the more so from a
    bounded one (tanh, ReLU6), and most from a sigmoid, in matrix products too; what a value is divided by; queries and
    keys.
    """

    def __init__(self, relu: str, spelled: Iterable[torch.nn.Module] = ()):
        """spelled: activations that are modules of several operations."""
        super().__init__(relu, activation="rectify", norm="constant", squashes=False)
        self.passed = self.passed | POWERS | SIGMOIDS
        self.spelled = list(spelled)

    def __enter__(self) -> Any:
        for module in self.spelled:
            plain = module.forward
            module.forward = partial(run_passing(self.relu), function=plain)
        return super().__enter__()

    def __exit__(self, *ended: Any) -> None:
        for module in self.spelled:
            del module.forward
        super().__exit__(*ended)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in SOFTMAXES:
            return func(*args, **(kwargs or {})).detach()
        if func is F.scaled_dot_product_attention:
            return func(args[0].detach(), args[1].detach(), *args[2:], **(kwargs or {}))
        if func in PRODUCTS | QUOTIENTS and isinstance(args[0], Tensor) and isinstance(args[1], Tensor):
            first, second = (_different_numbers(factor) for factor in args[:2])
            if first == second and func in PRODUCTS and args[0].requires_grad and args[1].requires_grad:
                first, second = (-getattr(factor, "gating", 0) for factor in args[:2])
            if func in QUOTIENTS or second < first:
                args = (args[0], args[1].detach(), *args[2:])
            elif first < second:
                args = (args[0].detach(), args[1], *args[2:])
        if func in MATRIX_PRODUCTS:  # of linear attention
            first, second = (getattr(factor, "gating", 0) for factor in args[:2])
            args = (args[0].detach() if first > second else args[0], args[1].detach() if second > first else args[1])
        limits = {
            "min_val": -1.0,
            "max_val": 1.0,
            **dict(zip(("min_val", "max_val"), args[1:], strict=False)),
            **(kwargs or {}),
        }
        with_ceiling = func is F.relu6 or (func is F.hardtanh and (limits["min_val"], limits["max_val"]) == (0.0, 6.0))
        if func in RELUS or with_ceiling:
            ceiling = 6.0 if with_ceiling else float("inf")
            rule = "guided" if self.relu == "both" else "deconvnet"
            output: Any = _Rectify.apply(args[0], rule, ceiling, False)
        else:
            output = super().__torch_function__(func, types, args, kwargs)
        if func in RECTIFIERS | ACTIVATIONS | SIGMOIDS:
            output.gating = 3 if func in SIGMOIDS else 2 if func in BOUNDING else 1
        if func in MOVES and hasattr(args[0], "gating"):
            moved: Any
            for moved in [output] if isinstance(output, Tensor) else output:
                moved.gating = args[0].gating
        return output


def _different_numbers(x: Tensor) -> int:
    """How many numbers a tensor has, copies by `expand` not counted."""
    return math.prod(size for size, stride in zip(x.shape, x.stride(), strict=True) if stride or size == 1)
