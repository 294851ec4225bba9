"""Networks as people write them, by name: each has something that a tracer or a rule could get wrong."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from tests.random_networks import Shuffle

CARRIED: dict[str, Callable[[], nn.Module]] = {}


def carried(make: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    """Put a maker of a network under its name into the table that the first test goes through."""
    CARRIED[make.__name__] = make
    return make


class Forward(nn.Module):
    """Some modules and a forward function over them."""

    def __init__(self, forward: Callable[[Any, Tensor], Any], **modules: nn.Module):
        super().__init__()
        for name, module in modules.items():
            self.add_module(name, module)
        self.written = forward

    def forward(self, x: Tensor) -> Any:
        return self.written(self, x)


def conv(inputs: int = 4, outputs: int = 4, kernel: int = 3, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, **options)


def stack(*modules: nn.Module, channels: int = 3) -> nn.Sequential:
    """The modules between two convolutions, each with a rectifier."""
    return nn.Sequential(conv(channels), nn.ReLU(), *modules, nn.ReLU(), conv(), nn.ReLU(True))


@carried
def residual_sum_on_a_shared_tensor() -> nn.Module:
    def forward(m: Any, x: Tensor) -> Tensor:
        h = m.one(x)
        return m.last(m.two(h + 2 * F.relu(h)))

    return Forward(forward, one=conv(3), two=conv(), last=nn.ReLU())


@carried
def in_place_rectifier_on_a_shared_tensor() -> nn.Module:
    def forward(m: Any, x: Tensor) -> Tensor:
        h = m.one(x)
        return m.last(m.two(h + 2 * F.relu(h, inplace=True)))

    return Forward(forward, one=conv(3), two=conv(), last=nn.ReLU(True))


@carried
def in_place_rectifier_after_a_view_was_taken() -> nn.Module:
    """The view sees the rectified values, the copy those before."""

    def forward(m: Any, x: Tensor) -> Tensor:
        h = m.one(x)
        view, copy = h[:, :2], h[:, 2:].clone()
        F.relu(h, inplace=True)
        return m.last(m.two(torch.cat([view, copy], 1)))

    return Forward(forward, one=conv(3), two=conv(), last=nn.ReLU())


@carried
def rectifier_beside_views_of_its_input() -> nn.Module:
    def forward(m: Any, x: Tensor) -> Tensor:
        h = m.one(x)
        first, second = h.chunk(2, 1)
        return m.last(m.two(torch.cat([F.relu(h)[:, :2], first - second], 1)))

    return Forward(forward, one=conv(3), two=conv(), last=nn.ReLU())


@carried
def every_spelling_of_the_rectifier() -> nn.Module:
    def forward(m: Any, x: Tensor) -> Tensor:
        h = torch.relu(m.one(x))
        h = F.relu6(m.two(h) * 4) + F.hardtanh(m.three(h) * 4, 0, 6)
        return m.four(h.relu() - 1).relu_()

    return Forward(forward, one=conv(3), two=conv(), three=conv(), four=conv())


@carried
def sums_with_weights_and_differences() -> nn.Module:
    def forward(m: Any, x: Tensor) -> Tensor:
        h = m.relu(m.one(x))
        g = torch.add(h, m.two(h), alpha=-0.5)
        return m.last(m.three((1 - g) / 2 - h + (h + h)))

    return Forward(forward, one=conv(3), two=conv(padding=1), three=conv(), relu=nn.ReLU(), last=nn.ReLU())


@carried
def a_module_used_twice() -> nn.Module:
    def forward(m: Any, x: Tensor) -> Tensor:
        h = m.relu(m.one(x))
        return m.relu(m.two(m.relu(m.two(h))))

    return Forward(forward, one=conv(3), two=conv(), relu=nn.ReLU(True))


@carried
def grouped_dilated_depthwise() -> nn.Module:
    depthwise = conv(4, 8, groups=4, padding=1, bias=False)
    return stack(
        conv(groups=2, dilation=2, padding=2), nn.ReLU6(), depthwise, nn.BatchNorm2d(8), nn.ReLU(), conv(8, 4, 1)
    )


@carried
def pools_in_ceil_mode() -> nn.Module:
    return stack(nn.MaxPool2d(3, 2, 1, ceil_mode=True), conv(kernel=2), nn.ReLU(), nn.MaxPool2d(2, 3, ceil_mode=True))


@carried
def dilated_max_pool() -> nn.Module:
    return stack(nn.MaxPool2d((3, 2), (1, 2), (1, 0), dilation=(2, 1)))


@carried
def paddings_of_all_sides() -> nn.Module:
    return stack(nn.ZeroPad2d((0, 3, 2, 1)), conv(kernel=4, padding="same"), nn.ConstantPad2d((1, -1, -2, 0), 0.7))


@carried
def padding_that_mirrors() -> nn.Module:
    return stack(conv(padding=1, padding_mode="reflect"), nn.ReplicationPad2d(1), nn.ReflectionPad2d((1, 0, 0, 2)))


@carried
def average_pools_that_count_the_padding() -> nn.Module:
    return stack(nn.AvgPool2d(3, 2, 1), conv(kernel=1), nn.ReLU(), nn.AvgPool2d(2, 2, ceil_mode=True))


@carried
def average_pools_that_do_not() -> nn.Module:
    odd = nn.AvgPool2d((2, 3), (2, 1), (1, 1), count_include_pad=False, ceil_mode=True)
    return stack(odd, conv(kernel=1), nn.ReLU(), nn.AvgPool2d(2, 1, divisor_override=3))


@carried
def adaptive_pools() -> nn.Module:
    return stack(nn.AdaptiveAvgPool2d((9, 7)), nn.AdaptiveMaxPool2d((3, 7)), nn.AdaptiveAvgPool2d((3, None)))


@carried
def local_response_norm() -> nn.Module:
    return stack(nn.LocalResponseNorm(3, 1, 0.75, 2.0), conv(), nn.ReLU(), nn.LocalResponseNorm(2, 0.9))


@carried
def local_response_norm_as_a_function() -> nn.Module:
    def forward(m: Any, x: Tensor) -> Tensor:
        return m.relu(m.two(F.local_response_norm(m.relu(m.one(x)), 3, alpha=0.7, beta=0.5, k=1)))

    return Forward(forward, one=conv(3), two=conv(), relu=nn.ReLU())


@carried
def one_norm_used_twice() -> nn.Module:
    def forward(m: Any, x: Tensor) -> Tensor:
        return m.relu(m.two(m.norm(m.relu(m.one(m.norm(x))))))

    return Forward(forward, one=conv(3), two=conv(), relu=nn.ReLU(), norm=nn.LocalResponseNorm(3, 0.8))


@carried
def channel_shuffle() -> nn.Module:
    return stack(conv(groups=2), nn.ReLU(True), Shuffle(), nn.ChannelShuffle(2), conv(groups=2))


@carried
def channels_scaled_one_by_one() -> nn.Module:
    """As torchvision's transform_input does."""

    def forward(m: Any, x: Tensor) -> Tensor:
        first = torch.unsqueeze(x[:, 0], 1) * (0.229 / 0.5) + (0.485 - 0.5) / 0.5
        second = F.relu(x[:, 1] * 0.3 - 0.1).unsqueeze(1)
        third = x[:, 2:] / torch.tensor([0.25])
        return m.relu(m.one(torch.cat((first, second, third), 1)))

    return Forward(forward, one=conv(3, padding=1), relu=nn.ReLU())


@carried
def parametrised_weights() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the older weight_norm is deprecated, and in use
        old = nn.utils.weight_norm(conv())
    return stack(
        parametrizations.weight_norm(conv()), nn.ReLU(), old, nn.ReLU(), parametrizations.spectral_norm(conv())
    )


@carried
def batch_norms_where_they_cannot_be_folded() -> nn.Module:
    def forward(m: Any, x: Tensor) -> Tensor:
        h = m.one(m.norm0(x))
        g = m.norm1(m.dropout(h).clone()) + h
        return m.relu(m.two(m.norm2(m.relu(g))))

    norms = {"norm0": nn.BatchNorm2d(3), "norm1": nn.BatchNorm2d(4, affine=False), "norm2": nn.BatchNorm2d(4)}
    return Forward(forward, one=conv(3), two=conv(), relu=nn.ReLU(), dropout=nn.Dropout(), **norms)


@carried
def a_forward_that_branches_on_shape() -> nn.Module:
    def forward(m: Any, x: Tensor) -> Tensor:
        h = m.relu(m.one(x))
        if x.shape[2] > 20:
            h = F.max_pool2d(h, 2)
        if x.shape[-1] % 2:
            h = F.pad(h, (0, 1))
        return m.relu(m.two(h))

    return Forward(forward, one=conv(3), two=conv(), relu=nn.ReLU())


@carried
def upsampling_and_transposed_convolution() -> nn.Module:
    return stack(
        nn.MaxPool2d(2), nn.Upsample(scale_factor=2), nn.ConvTranspose2d(4, 4, 2, 2), nn.PixelUnshuffle(2), conv(16)
    )


@carried
def a_classifier_with_its_own_head() -> nn.Module:
    def forward(m: Any, x: Tensor) -> Tensor:
        h = m.trunk(x)
        h = h.mean((2, 3)) + h.flatten(2).sum(-1)
        return m.linear(m.relu(h).view(x.size(0), -1).view(-1, 4))

    return Forward(forward, trunk=stack(conv()), linear=nn.Linear(4, 5), relu=nn.ReLU(True))


@carried
def flattened_after_an_in_place_rectifier() -> nn.Module:
    head = [nn.MaxPool2d(3), nn.ReLU(True), nn.Flatten(), nn.Linear(4 * 3 * 3, 6), nn.ReLU(True), nn.Linear(6, 5)]
    return nn.Sequential(conv(3, stride=2), *head)


@carried
def one_channel_in() -> nn.Module:
    return stack(nn.MaxPool2d(2), conv(), channels=1)


@carried
def a_constant_for_each_image() -> nn.Module:
    def forward(m: Any, x: Tensor) -> Tensor:
        frame = torch.zeros(x.size(0), 1, *x.shape[2:], dtype=x.dtype)
        return m.relu(m.one(torch.cat([x, frame, torch.ones_like(x[:, :1]) / 2], 1)))

    return Forward(forward, one=conv(5), relu=nn.ReLU())
