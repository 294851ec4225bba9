"""Small modules of many kinds, by what is between two convolutions: each could be mistaken by a tracer or a rule."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tests.user_networks import Forward

Middle = Callable[[Tensor], Tensor]
GENERATOR = torch.Generator().manual_seed(0)
MIX = torch.randn(4, 4, generator=GENERATOR, dtype=torch.float64)
WIDE = torch.randn(16, 16, generator=GENERATOR, dtype=torch.float64)
TAPS = torch.randn(4, 4, 3, generator=GENERATOR, dtype=torch.float64)
CUBE = torch.randn(1, 1, 3, 3, 3, generator=GENERATOR, dtype=torch.float64)
GRID = torch.rand(1, 8, 8, 2, generator=GENERATOR, dtype=torch.float64) * 2 - 1
ORDER = torch.tensor([2, 1, 0, 3])


class Round(torch.autograd.Function):
    """Straight-through rounding."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return torch.round(x)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return grads[0]


class Reversed(torch.autograd.Function):
    """The gradient reversed; what it gives is its argument itself."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, strength: float) -> Tensor:
        ctx.strength = strength
        return x

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return -ctx.strength * grads[0], None


class Pair(torch.autograd.Function):
    """Two tensors, with derivatives that are not theirs."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        return x.sin(), x * 2

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return grads[0] * 5 + grads[1]


class Doubled(torch.autograd.Function):
    """In place, with setup_context."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return grads[0] * 7


rounded_elsewhere = Round.apply


def no_grad_gate(x: Tensor) -> Tensor:
    with torch.no_grad():
        gate = x.sigmoid()
    return x * gate


def gate_in_inference_mode(x: Tensor) -> Tensor:
    with torch.inference_mode():
        gate = x.sigmoid() * 2
    return x * gate.clone()


def scaled_unseen(x: Tensor) -> Tensor:
    """The numbers change, the derivative does not."""
    with torch.no_grad():
        x.mul_(3)
        x[:, 1].add_(1)
    return x * 2


def scaled_by_data(x: Tensor) -> Tensor:
    x.data.mul_(3)
    return x * 2


def signs_through_an_alias(x: Tensor) -> Tensor:
    alias = x.detach()
    alias.sign_()
    return x + alias


def read_unseen_first(x: Tensor) -> Tensor:
    """What is written is read for the first time where gradients are off."""
    y = x.clone()
    y[:, 1] = x[:, 0] * 2
    with torch.no_grad():
        strength = y.abs()
    return y * 2 + strength


def channel_written(x: Tensor) -> Tensor:
    y = x.clone()
    y[:, 1] = x[:, 0] * 2
    return y


def rows_written_into_zeros(x: Tensor) -> Tensor:
    y = torch.zeros_like(x)
    y[:, :, ::2] = x[:, :, 1::2]
    return y


def channels_written_one_by_one(x: Tensor) -> Tensor:
    y = torch.ones(x.shape[0], 4, *x.shape[2:], dtype=x.dtype)
    for channel in range(3):
        y[:, channel] = x[:, 3 - channel]
    return y


def window_scaled_in_place(x: Tensor) -> Tensor:
    x[:, :, 2:5, 3:9] *= 3
    return x


def view_written_through(x: Tensor) -> Tensor:
    view = x[:, 1:3]
    view.add_(1).relu_()
    return x * 2


def view_added_to_its_base(x: Tensor) -> Tensor:
    view = x[:, :2]
    x[:, 2:].add_(view)
    view.add_(x[:, 2:])
    return x + torch.cat([view, view], 1)


def unpooled(x: Tensor) -> Tensor:
    pooled, switches = F.max_pool2d(x, 2, return_indices=True)
    return F.max_unpool2d(pooled, switches, [2, 2])


def standardised(x: Tensor) -> Tensor:
    std, mean = torch.std_mean(x, 1, keepdim=True)
    return (x - mean) / (std + 1)


DETACHED: dict[str, Middle] = {
    "straight through": lambda x: x + (torch.round(x) - x).detach(),
    "a detached gate": lambda x: x * x.sigmoid().detach(),
    "a detached gate of the whole image": lambda x: x * x.mean((2, 3), keepdim=True).sigmoid().detach(),
    "no_grad": no_grad_gate,
    "inference mode": gate_in_inference_mode,
    "in place without gradients": scaled_unseen,
    "in place by data": scaled_by_data,
    "in place through an alias": signs_through_an_alias,
    "read without gradients first": read_unseen_first,
    "a checkpoint": lambda x: checkpoint(torch.sin, x, use_reentrant=False),
    ".data": lambda x: x * x.data.sigmoid(),
    "a Function": lambda x: Round.apply(x),
    "a Function bound elsewhere": rounded_elsewhere,
    "a Function that gives its argument": lambda x: Reversed.apply(x, 0.5),
    "a Function of two outputs": lambda x: sum(Pair.apply(x)),
    "a Function in two parts": lambda x: Doubled.apply(x),
}
DERIVED: dict[str, Middle] = {
    "a leaky where": lambda x: torch.where(x > 0, x, 0.1 * x),
    "masked_fill": lambda x: x.masked_fill(x < -0.5, 0.3),
    "the larger of two maps": lambda x: torch.maximum(x, x.flip(3)),
    "the smaller of two maps": lambda x: torch.min(x, -x),
    "abs": torch.abs,
    "a sorted map": lambda x: x.sort(1).values,
    "topk": lambda x: torch.cat([x.topk(2, 1)[0], x.topk(2, 1)[0]], 1),
    "the strongest channel": lambda x: x.max(1, keepdim=True)[0] * x,
    "std_mean": standardised,
    "softmax": lambda x: x.softmax(1),
    "a constant divided by a map": lambda x: torch.tensor(2.0) / (x.abs() + 1),
    "a constant divided by a map, by its other name": lambda x: torch.divide(torch.tensor(2.0), x.abs() + 1),
    "instance norm": lambda x: F.instance_norm(x),
    "a product with itself": lambda x: x.cumprod(2),
    "an assertion": lambda x: x if not torch.isnan(x).any() else x * 0,
}
SELECTING: dict[str, Middle] = {
    "amax": lambda x: x.amax(1, keepdim=True) + x,
    "amin of rows": lambda x: x.amin(2, keepdim=True).expand_as(x),
    "maxout": lambda x: x.view(-1, 2, 2, 16, 16).max(2).values.repeat(1, 2, 1, 1),
    "the strongest of windows": lambda x: x.reshape(-1, 2, 16, 16).amax(1).view(-1, 2, 16, 16).repeat(1, 2, 1, 1),
    "adaptive max": lambda x: F.adaptive_max_pool2d(x, 5),
    "adaptive max with indices": lambda x: F.adaptive_max_pool2d(x, 4, return_indices=True)[0],
    "max_pool1d": lambda x: F.max_pool1d(x.flatten(2), 4).view(-1, 4, 8, 8),
}
LINEAR: dict[str, Middle] = {
    "BGR": lambda x: x[:, [2, 1, 0, 3]],
    "index_select": lambda x: x.index_select(1, torch.tensor([1, 1, 0, 2])),
    "gather": lambda x: x.gather(1, ORDER.view(1, 4, 1, 1).expand(x.shape)),
    "flip": lambda x: x.flip(3),
    "roll": lambda x: x.roll((1, 2), (2, 3)),
    "repeat": lambda x: x[:, :2].repeat(1, 2, 1, 1),
    "expand": lambda x: x[:, :1].expand(-1, 4, -1, -1),
    "tile": lambda x: x[:, :2].tile((1, 2, 1, 1)),
    "unfold and fold": lambda x: F.fold(F.unfold(x, 3, padding=1), (16, 16), 3, padding=1),
    "einsum": lambda x: torch.einsum("nchw,dc->ndhw", x, MIX),
    "tensordot": lambda x: torch.tensordot(x, MIX, dims=([1], [0])).permute(0, 3, 1, 2),
    "a matrix on the left": lambda x: WIDE @ x,
    "a matrix on the right": lambda x: x @ WIDE,
    "bicubic": lambda x: F.interpolate(x, scale_factor=2, mode="bicubic"),
    "nearest-exact": lambda x: F.interpolate(x, scale_factor=1.5, mode="nearest-exact"),
    "area": lambda x: F.interpolate(x, size=(9, 20), mode="area"),
    "avg_pool1d": lambda x: F.avg_pool1d(x.flatten(2), 2).view(-1, 4, 16, 8),
    "conv1d": lambda x: F.conv1d(x.flatten(2), TAPS, padding=1).view(-1, 4, 16, 16),
    "conv3d": lambda x: F.conv3d(x.unsqueeze(1), CUBE, padding=1).squeeze(1),
    "grid_sample": lambda x: F.grid_sample(x, GRID.expand(x.shape[0], -1, -1, -1), align_corners=False),
    "cumsum": lambda x: x.cumsum(3),
    "reflected": lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect"),
    "circular": lambda x: F.pad(x, (1, 1, 1, 1), mode="circular"),
    "replicated": lambda x: F.pad(x, (1, 1, 1, 1), mode="replicate"),
    "rot90": lambda x: x.rot90(1, (2, 3)),
    "diff": lambda x: x.diff(dim=3),
    "kron": lambda x: torch.kron(x, torch.ones(2, 2, dtype=x.dtype)),
    "fft": lambda x: torch.fft.rfft2(x).real,
    "tril": lambda x: x.tril(),
    "lerp": lambda x: torch.lerp(x, x.flip(1), 0.3),
    "stack": lambda x: torch.stack([x, x], 2).flatten(1, 2)[:, ::2],
    "every second": lambda x: x[:, :, ::2, 1::2],
    "a cast there and back": lambda x: x.float().double(),
    "unpooled": unpooled,
    "a channel written": channel_written,
    "rows written": rows_written_into_zeros,
    "channels written": channels_written_one_by_one,
    "a view added to its base": view_added_to_its_base,
    "a window scaled": window_scaled_in_place,
}
RECTIFIERS: dict[str, Middle] = {
    "clip": lambda x: x.clip(min=0),
    "clamp": lambda x: x.clamp(0),
    "clamp_": lambda x: x.clamp_(min=0),
    "threshold": lambda x: F.threshold(x, 0, 0),
    "maximum": lambda x: torch.maximum(x, torch.zeros_like(x)),
    "max": lambda x: torch.max(x, torch.zeros(1, dtype=x.dtype)),
    "fmax": lambda x: torch.fmax(x, x * 0),
    "a mask": lambda x: x * (x > 0),
    "a mask of numbers": lambda x: (x >= 0).to(x.dtype) * x,
    "where": lambda x: torch.where(x > 0, x, 0),
    "where not": lambda x: torch.where(x <= 0, torch.zeros_like(x), x),
    "masked_fill": lambda x: x.masked_fill(x < 0, 0),
    "written": lambda x: x.clone().index_put_((x < 0,), torch.zeros((), dtype=x.dtype)),
    "half of the sum with abs": lambda x: (x + x.abs()) / 2,
    "minimum": lambda x: -torch.minimum(-x, torch.zeros_like(x)),
    "leaky by nothing": lambda x: F.leaky_relu(x, 0.0),
    "relu6": F.relu6,
    "hardtanh to 6": lambda x: F.hardtanh(x, 0.0, 6.0),
    "clamp to 6": lambda x: x.clamp(0, 6),
    "relu and at most 6": lambda x: x.relu().clamp(max=6),
}


def between(middle: Middle) -> nn.Module:
    """The middle between two convolutions of four channels, float64, eval."""
    torch.manual_seed(0)
    layers: dict[str, nn.Module] = {"a": nn.Conv2d(3, 4, 3, padding=1), "b": nn.Conv2d(4, 4, 1)}
    return Forward(lambda m, x: m.b(middle(m.a(x))), **layers).double().eval()
