"""Small networks in the style of known families that are more than linear operations and rectifiers, by name.

Whatever a rule may hold constant goes through a module `hold`, which the oracle replaces; deconv does not know it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FAMILIES: dict[str, Callable[[], nn.Module]] = {}


def family(make: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    """Put a maker of a network under its name into the table that the tests go through."""
    FAMILIES[make.__name__] = make
    return make


class Holding(nn.Module):
    """Has a place at which a factor can be held constant."""

    def __init__(self, **modules: nn.Module):
        super().__init__()
        self.hold: nn.Module = nn.Identity()
        for name, module in modules.items():
            self.add_module(name, module)

    def __getattr__(self, name: str) -> Any:
        return super().__getattr__(name)


class Spelled(nn.Module):
    """An activation that is written as several operations; `run` is for the oracle."""

    def __init__(self, function: Callable[[Tensor], Tensor]):
        super().__init__()
        self.function = function
        self.run: Callable[..., Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x) if self.run is None else self.run(x, self.function)


class Residual(nn.Module):
    def __init__(self, *body: nn.Module):
        super().__init__()
        self.body = nn.Sequential(*body)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class SqueezeExcite(Holding):
    """One factor a channel, copied to all positions or not."""

    def __init__(self, channels: int, squash: nn.Module, copied: bool = False):
        super().__init__(
            squeeze=nn.Conv2d(channels, 3, 1), act=nn.ReLU(), excite=nn.Conv2d(3, channels, 1), squash=squash
        )
        self.copied = copied

    def forward(self, x: Any) -> Tensor:
        gate = self.squash(self.excite(self.act(self.squeeze(x.mean((2, 3), keepdim=True)))))
        gate = self.hold(gate)
        return x * gate.expand_as(x) if self.copied else gate * x


class Scale(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.gamma = nn.Parameter(torch.rand(channels, 1, 1) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class ChannelsLastNorm(nn.LayerNorm):
    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x.permute(0, 2, 3, 1), self.normalized_shape, self.weight, self.bias, self.eps).permute(
            0, 3, 1, 2
        )


class SpelledNorm(Holding):
    """Layer normalisation over channels as ConvNeXt spells it, or by var_mean and a product."""

    def __init__(self, channels: int, by_product: bool = False):
        super().__init__(weight=Scale(channels))
        self.by_product = by_product

    def forward(self, x: Tensor) -> Tensor:
        if self.by_product:
            variance, mean = torch.var_mean(x, dim=1, keepdim=True, correction=0)
            return self.weight((x - self.hold(mean)) * self.hold(torch.rsqrt(variance + 1e-3)))
        mean = x.mean(1, keepdim=True)
        deviation = torch.sqrt((x - mean).pow(2).mean(1, keepdim=True) + 1e-3)
        return self.weight((x - self.hold(mean)) / self.hold(deviation)) + 0.1


class ResponseNorm(Holding):
    """ConvNeXt V2's global response normalisation."""

    def __init__(self, channels: int):
        super().__init__()
        self.gamma, self.beta = nn.Parameter(torch.rand(1, channels, 1, 1)), nn.Parameter(torch.rand(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        strength = x.norm(p=2, dim=(2, 3), keepdim=True)
        share = self.hold(strength / (strength.mean(dim=1, keepdim=True) + 1e-6))
        return torch.addcmul(self.beta, self.gamma, x * share) + x


class RootMeanSquare(Holding):
    def forward(self, x: Tensor) -> Tensor:
        return x * self.hold(torch.rsqrt(x.pow(2).mean(1, keepdim=True) + 1e-3))


class UnitLength(Holding):
    """F.normalize."""

    def forward(self, x: Tensor) -> Tensor:
        return x / self.hold(x.norm(dim=1, keepdim=True).clamp_min(1e-6).expand_as(x))


class ChannelAndPlace(Holding):
    """CBAM: one gate over channels, then one over places."""

    def __init__(self, channels: int):
        super().__init__(
            shared=nn.Sequential(nn.Conv2d(channels, 3, 1), nn.ReLU(), nn.Conv2d(3, channels, 1)),
            place=nn.Conv2d(2, 1, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        of_channels = self.shared(F.adaptive_avg_pool2d(x, 1)) + self.shared(F.adaptive_max_pool2d(x, 1))
        x = x * self.hold(torch.sigmoid(of_channels))
        pooled = torch.cat([x.mean(1, keepdim=True), x.max(1, keepdim=True)[0]], dim=1)
        return x * self.hold(torch.sigmoid(self.place(pooled)))


class EfficientChannel(Holding):
    """ECA: a convolution along the channels makes their gate."""

    def __init__(self) -> None:
        super().__init__(conv=nn.Conv1d(1, 1, 3, padding=1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        gate = self.conv(x.mean((2, 3)).view(x.shape[0], 1, -1))
        gate = self.hold(torch.sigmoid(gate).view(x.shape[0], -1, 1, 1))
        return x * gate.expand_as(x)


class SelectiveKernel(Holding):
    """SK: two kernels, mixed by softmax weights for each channel."""

    def __init__(self, channels: int):
        super().__init__(
            small=nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU()),
            large=nn.Sequential(nn.Conv2d(channels, channels, 3, padding=2, dilation=2), nn.ReLU()),
            reduce=nn.Conv2d(channels, 3, 1),
            select=nn.Conv2d(3, 2 * channels, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        branches = torch.stack([self.small(x), self.large(x)], dim=1)
        weights = self.select(F.relu(self.reduce(branches.sum(1).mean((2, 3), keepdim=True))))
        weights = weights.view(x.shape[0], 2, x.shape[1], 1, 1)
        return (branches * self.hold(torch.softmax(weights, dim=1))).sum(1)


class SplitAttention(Holding):
    """ResNeSt: the halves of a grouped convolution, mixed by softmax weights."""

    def __init__(self, channels: int):
        super().__init__(
            conv=nn.Conv2d(channels, 2 * channels, 3, padding=1, groups=2),
            reduce=nn.Conv2d(channels, 4, 1),
            select=nn.Conv2d(4, 2 * channels, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        count, channels = x.shape[:2]
        split = F.relu(self.conv(x)).reshape(count, 2, channels, *x.shape[2:])
        weights = self.select(F.relu(self.reduce(split.sum(dim=1).mean((2, 3), keepdim=True))))
        weights = weights.view(count, 1, 2, -1).transpose(1, 2).softmax(dim=1).reshape(count, -1)
        return (split * self.hold(weights.reshape(count, 2, channels, 1, 1))).sum(dim=1)


class Attention(Holding):
    """One head over all positions, as hybrids have it; `fused` by torch's own function."""

    def __init__(self, channels: int, fused: bool = False):
        super().__init__(all=nn.Conv2d(channels, 3 * channels, 1), out=nn.Conv2d(channels, channels, 1))
        self.fused = fused

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.all(x).flatten(2).transpose(1, 2).chunk(3, dim=-1)
        if self.fused:
            mixed = F.scaled_dot_product_attention(self.hold(query), self.hold(key), value)
        else:
            weights = (query @ key.transpose(-2, -1) * x.shape[1] ** -0.5).softmax(dim=-1)
            mixed = self.hold(weights) @ value
        return self.out(mixed.transpose(1, 2).reshape(x.shape))


class HeadsOfWindows(Holding):
    """Attention of two heads within windows of 3 x 3, as MaxViT and Swin have it: images count windows and heads too.

    outermost: whether the heads come before the images along the axis that counts both.
    """

    def __init__(self, channels: int, outermost: bool = False):
        super().__init__(all=nn.Linear(channels, 3 * channels), norm=nn.LayerNorm(channels), mlp=nn.Linear(6, 6))
        self.act, self.outermost = nn.GELU(), outermost
        self.bias = nn.Parameter(torch.rand(9, 9))

    def forward(self, x: Tensor) -> Tensor:
        count, channels, rows, cols = x.shape
        windows = x.view(count, channels, rows // 3, 3, cols // 3, 3).permute(0, 2, 4, 3, 5, 1).reshape(-1, 9, channels)
        query, key, value = self.all(self.norm(windows)).reshape(-1, 9, 3, 2, channels // 2).permute(2, 0, 3, 1, 4)
        if self.outermost:
            query, key, value = (each.transpose(0, 1).flatten(0, 1) for each in (query, key, value))
        weights = self.hold((query @ key.transpose(-2, -1) + self.bias).softmax(-1))
        mixed = weights @ value
        if self.outermost:
            mixed = mixed.unflatten(0, (2, -1)).transpose(0, 1)
        windows = windows + self.act(self.mlp(mixed.transpose(1, 2).reshape(-1, 9, channels)))
        return windows.view(count, rows // 3, cols // 3, 3, 3, channels).permute(0, 5, 1, 3, 2, 4).reshape(x.shape)


class CrossCovariance(Holding):
    """XCA of EdgeNeXt: channels attend to channels, queries and keys being of unit length."""

    def __init__(self, channels: int):
        super().__init__(all=nn.Linear(channels, 3 * channels), out=nn.Linear(channels, channels))
        self.temperature = nn.Parameter(torch.rand(2, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        count, channels, rows, cols = x.shape
        sequence = x.flatten(2).transpose(1, 2)
        query, key, value = self.all(sequence).reshape(count, -1, 3, 2, channels // 2).permute(2, 0, 3, 4, 1).unbind(0)
        likeness = F.normalize(query, dim=-1) @ F.normalize(key, dim=-1).transpose(-2, -1)
        mixed = self.hold((likeness * self.temperature).softmax(-1)) @ value
        return self.out(mixed.permute(0, 3, 1, 2).reshape(count, -1, channels)).transpose(1, 2).reshape(x.shape)


class LinearAttention(Holding):
    """EfficientViT's: rectified queries and keys in place of a softmax, and a division by their sum."""

    def __init__(self, channels: int):
        super().__init__(all=nn.Conv2d(channels, 3 * channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.all(x).flatten(2).chunk(3, dim=1)
        query, key = self.hold(F.relu(query)), self.hold(F.relu(key))
        value = F.pad(value, (0, 0, 0, 1), value=1.0)
        mixed = (value @ key.transpose(-1, -2)) @ query
        return (mixed[:, :-1] / self.hold(mixed[:, -1:] + 1e-6)).view(x.shape)


class GatedUnit(Holding):
    """Half of the channels gate the others, place by place; without `squash` as in a WaveNet."""

    def __init__(self, channels: int, squash: Callable[[Tensor], Tensor] | None):
        super().__init__(conv=nn.Conv2d(channels, 2 * channels, 3, padding=1))
        self.squash = squash

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.conv(x).chunk(2, dim=1)
        if self.squash is None:
            return F.tanh(value) * self.hold(torch.sigmoid(gate))
        return value * self.hold(self.squash(gate))


def conv(inputs: int, outputs: int, kernel: int = 3, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, **options)


def stages(middle: nn.Module, make: Callable[[], nn.Module], channels: int = 6) -> nn.Sequential:
    """A convolution, an activation, the middle, and the same again: `1` and `5` are layers."""
    below, above = conv(3, channels, stride=2), conv(channels, 5)
    return nn.Sequential(below, make(), nn.MaxPool2d(2), middle, above, make())


@family
def mobilenet_v3() -> nn.Module:
    body = [conv(6, 6, groups=6), nn.BatchNorm2d(6), nn.Hardswish(), SqueezeExcite(6, nn.Hardsigmoid()), conv(6, 6, 1)]
    return stages(Residual(*body), nn.Hardswish)


@family
def efficientnet() -> nn.Module:
    return stages(nn.Sequential(conv(6, 6, groups=6), nn.SiLU(True), SqueezeExcite(6, nn.Sigmoid())), nn.SiLU)


@family
def regnet_y() -> nn.Module:
    return stages(Residual(conv(6, 6, groups=2), nn.ReLU(), SqueezeExcite(6, nn.Sigmoid(), copied=True)), nn.ReLU)


@family
def convnext() -> nn.Module:
    return stages(Residual(ChannelsLastNorm(6), conv(6, 12, 1), nn.GELU(), conv(12, 6, 1), Scale(6)), nn.GELU)


@family
def convnext_spelled() -> nn.Module:
    def gelu(x: Tensor) -> Tensor:
        return x * (1 + torch.erf(x / 2**0.5)) * 0.5

    middle = Residual(SpelledNorm(6), conv(6, 6, 1), SpelledNorm(6, by_product=True), conv(6, 6, 1))
    return stages(middle, lambda: nn.Sequential(Spelled(gelu), nn.GELU("tanh")))


@family
def convnext_v2() -> nn.Module:
    return stages(Residual(conv(6, 8, 1), nn.GELU(), ResponseNorm(8), conv(8, 6, 1)), nn.GELU)


@family
def leaky_resnet() -> nn.Module:
    body = [conv(6, 6), nn.BatchNorm2d(6), nn.LeakyReLU(0.1), conv(6, 6), nn.BatchNorm2d(6)]
    return stages(nn.Sequential(Residual(*body), nn.LeakyReLU(0.2)), lambda: nn.LeakyReLU(0.1, True))


@family
def prelu_net() -> nn.Module:
    return stages(nn.Sequential(conv(6, 6), nn.PReLU(6), conv(6, 6)), lambda: nn.PReLU(init=0.3))


@family
def exponential_units() -> nn.Module:
    return stages(nn.Sequential(conv(6, 6), nn.SELU(), conv(6, 6), nn.CELU(0.7), conv(6, 6), nn.Softplus()), nn.ELU)


@family
def darknet_mish() -> nn.Module:
    return stages(Residual(conv(6, 4, 1), nn.Mish(), conv(4, 6), nn.Mish()), nn.Mish)


@family
def tanh_net() -> nn.Module:
    return stages(nn.Sequential(conv(6, 6), nn.Sigmoid(), conv(6, 6), nn.Hardtanh(-1, 1)), nn.Tanh)


@family
def spelled_activations() -> nn.Module:
    spelled: list[Callable[[Tensor], Tensor]] = [
        lambda x: x * torch.sigmoid(x),
        lambda x: x * F.relu6(x + 3) / 6,
        lambda x: torch.where(x > 0, x, 0.1 * x),
        lambda x: torch.maximum(x, 0.2 * x),
        lambda x: x * torch.tanh(F.softplus(x)),
        lambda x: F.relu(x) + (torch.exp(x.clamp(max=0)) - 1),
        lambda x: 0.5 * x * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3))),
    ]
    middle = [module for function in spelled for module in (conv(6, 6, 1), Spelled(function))]
    return stages(nn.Sequential(*middle, conv(6, 6), nn.ReLU(), Spelled(lambda x: x**2)), nn.ReLU)


@family
def group_norm_resnet() -> nn.Module:
    return stages(Residual(conv(6, 6), nn.GroupNorm(3, 6), nn.ReLU(), conv(6, 6), nn.GroupNorm(1, 6)), nn.ReLU)


@family
def instance_norm_net() -> nn.Module:
    norms = nn.InstanceNorm2d(6, affine=True), nn.InstanceNorm2d(6), nn.InstanceNorm2d(6, track_running_stats=True)
    return stages(nn.Sequential(conv(6, 6), norms[0], nn.ReLU(), conv(6, 6), norms[1], norms[2]), nn.ReLU)


@family
def root_mean_square_norms() -> nn.Module:
    middle = [conv(6, 6), RootMeanSquare(), conv(6, 6), UnitLength(), nn.RMSNorm([6]), conv(6, 6)]
    return stages(nn.Sequential(*middle), nn.SiLU)


@family
def cbam() -> nn.Module:
    return stages(Residual(conv(6, 6), nn.ReLU(), ChannelAndPlace(6)), nn.ReLU)


@family
def eca() -> nn.Module:
    return stages(Residual(conv(6, 6), EfficientChannel()), nn.ReLU)


@family
def sknet() -> nn.Module:
    return stages(SelectiveKernel(6), nn.ReLU)


@family
def resnest() -> nn.Module:
    return stages(SplitAttention(6), nn.ReLU)


@family
def hybrid() -> nn.Module:
    return stages(nn.Sequential(Residual(Attention(6)), Residual(Attention(6, fused=True))), nn.GELU)


@family
def maxvit() -> nn.Module:
    return stages(nn.Sequential(Residual(HeadsOfWindows(6)), Residual(HeadsOfWindows(6, outermost=True))), nn.GELU)


@family
def edgenext() -> nn.Module:
    return stages(Residual(CrossCovariance(6)), nn.GELU)


@family
def swiglu() -> nn.Module:
    return stages(nn.Sequential(GatedUnit(6, F.silu), GatedUnit(6, F.gelu), GatedUnit(6, F.relu)), nn.SiLU)


@family
def efficientvit() -> nn.Module:
    return stages(Residual(LinearAttention(6)), nn.Hardswish)


@family
def gated_units() -> nn.Module:
    gates = [GatedUnit(6, torch.sigmoid), GatedUnit(6, None), GatedUnit(6, Spelled(lambda g: F.relu6(g + 3) / 6))]
    return stages(nn.Sequential(*gates), nn.SiLU)
