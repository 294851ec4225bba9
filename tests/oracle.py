"""Projections by autograd on the user's own module: only the backward of rectifiers (and of LRN) is replaced.

Shares no code with deconv: no tracing, no rule table, no geometry.
"""

from __future__ import annotations

from collections.abc import Callable
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
        self.rule = rule
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
    activations: Callable[[Tensor], Any], images: Tensor, peaks: Tensor, rule: str, seed: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """(scores (N,), pixels (N, C, H, W)) of peaks (N, 4) = (image, channel, row, col) of `activations(images)`.

    seed: (N,) what to send back instead of the scores, whose rounding would hide how well two backward passes agree.
    """
    image, channel, row, col = peaks.T
    with torch.enable_grad():
        pixels = images[image].requires_grad_()
        if rule == "gradient":
            maps = activations(pixels * 1)
        else:
            with RuleMode(rule) as mode:
                maps = activations(pixels * 1)
            assert mode.seen, "no rectifier was met"
        maps = maps["maps"] if isinstance(maps, dict) else maps
        maps = maps if maps.dim() == 4 else maps[:, :, None, None]
        score = maps[torch.arange(len(peaks)), channel, row, col]
        (back,) = torch.autograd.grad(score, pixels, score.detach() if seed is None else seed.to(score.dtype))
    return score.detach(), back


def relative_error(actual: Tensor, expected: Tensor) -> Tensor:
    """(N,) ||actual - expected|| / ||expected|| of each peak; where both are zero, zero."""
    difference = (actual.double() - expected.double()).flatten(1).norm(dim=1)
    return difference / expected.double().flatten(1).norm(dim=1).clamp_min(1e-30)
