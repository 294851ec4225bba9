"""Small random ConvNets for hypothesis: every kind of spatial operation, concatenations and sums of branches."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import Phase, settings
from hypothesis import strategies as st
from torch import Tensor, nn

CHANNELS = 4
SETTINGS = settings(max_examples=25, deadline=None, derandomize=True, phases=[Phase.generate])
"""The same examples every time; no shrinking, because each example is traced anew and shrinking takes minutes."""
SAME_WARNS = "ignore:Using padding='same' with even kernel lengths"
"""torch's own remark on even kernels, for pytest.mark.filterwarnings."""


class Branches(nn.Module):
    """Two ways through, side by side or summed."""

    def __init__(self, first: nn.Module, second: nn.Module, how: str):
        super().__init__()
        self.first, self.second, self.how = first, second, how

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.first(x), self.second(x)
        return first + second if self.how == "add" else torch.cat([first, second], 1)


class Shuffle(nn.Module):
    """Channels of two groups interleaved, as ShuffleNet does."""

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


class ReadInHalves(nn.Module):
    """One half of the channels read by a wider window than the other, so that the halves need different spans."""

    def __init__(self, channels: int):
        super().__init__()
        self.wide = nn.Conv2d(channels // 2, CHANNELS // 2, (3, 5), padding=(1, 2))
        self.narrow = nn.Conv2d(channels // 2, CHANNELS // 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        halves = x.view(n, 2, c // 2, h, w)
        return torch.cat([self.wide(halves[:, 0]), self.narrow(halves[:, 1])], 1)


def pairs(low: int, high: int) -> st.SearchStrategy[tuple[int, int]]:
    return st.tuples(st.integers(low, high), st.integers(low, high))


@st.composite
def convolutions(draw: Any, channels: int) -> nn.Module:
    """Kernel, stride, dilation and padding differ between rows and columns."""
    kernel, dilation = draw(pairs(1, 4)), draw(pairs(1, 2))
    groups = draw(st.sampled_from([1, 1, 2]))
    if draw(st.booleans()):
        return nn.Conv2d(channels, CHANNELS, kernel, padding="same", dilation=dilation, groups=groups)
    return nn.Conv2d(channels, CHANNELS, kernel, draw(pairs(1, 2)), draw(pairs(0, 3)), dilation, groups)


@st.composite
def max_pools(draw: Any) -> nn.Module:
    kernel = draw(pairs(2, 3))
    padding = tuple(draw(st.integers(0, k // 2)) for k in kernel)
    dilation, ceil_mode = draw(st.sampled_from([1, 1, 2])), draw(st.booleans())
    return nn.MaxPool2d(kernel, draw(pairs(1, 3)), padding, dilation, ceil_mode=ceil_mode)


@st.composite
def average_pools(draw: Any) -> nn.Module:
    kernel = draw(pairs(1, 3))
    padding = tuple(draw(st.integers(0, k // 2)) for k in kernel)
    ceil_mode, include = draw(st.booleans()), draw(st.booleans())
    return nn.AvgPool2d(kernel, draw(pairs(1, 2)), padding, ceil_mode, include)


@st.composite
def ways_through(draw: Any, channels: int, stride: int) -> nn.Module:
    """One branch: CHANNELS out, its map as large as that of any other branch of the same stride."""
    first = draw(st.sampled_from(["1x1", "3x3", "1x5", "dilated", "pool", "deep"]))
    if first == "pool":
        return nn.Sequential(nn.MaxPool2d(3, stride, 1), nn.Conv2d(channels, CHANNELS, 1))
    if first == "deep":
        inner = nn.Conv2d(channels, CHANNELS, 3, stride, 1)
        return nn.Sequential(inner, nn.ReLU(draw(st.booleans())), nn.Conv2d(CHANNELS, CHANNELS, 3, 1, 1))
    kernel, padding, dilation = {
        "1x1": (1, 0, 1), "3x3": (3, 1, 1), "1x5": ((1, 5), (0, 2), 1), "dilated": (3, 2, 2),
    }[first]  # fmt: skip
    return nn.Conv2d(channels, CHANNELS, kernel, stride, padding, dilation)  # type: ignore[arg-type]


@st.composite
def branches(draw: Any, channels: int) -> nn.Module:
    stride, how = draw(st.integers(1, 2)), draw(st.sampled_from(["add", "cat"]))
    first, second = draw(ways_through(channels, stride)), draw(ways_through(channels, stride))
    if channels == CHANNELS and stride == 1 and draw(st.booleans()):
        second = nn.Identity()
    return Branches(first, second, how)


def paddings() -> st.SearchStrategy[nn.Module]:
    return st.tuples(*[st.integers(0, 2)] * 4).map(nn.ZeroPad2d)


@st.composite
def networks(draw: Any, in_channels: int = 2) -> nn.Sequential:
    """Two to four blocks, a rectifier after each; output channels vary with concatenation."""
    modules: list[nn.Module] = []
    channels = in_channels
    for _ in range(draw(st.integers(2, 4))):
        kind = draw(st.sampled_from(["convolution", "branches", "max", "average", "pad", "norm", "shuffle", "halves"]))
        block: nn.Module
        if kind == "convolution":
            block = draw(convolutions(channels))
        elif kind == "branches":
            block = draw(branches(channels))
        elif kind == "max":
            block = draw(max_pools())
        elif kind == "average":
            block = draw(average_pools())
        elif kind == "pad":
            block = draw(paddings())
        elif kind == "norm":
            block = nn.LocalResponseNorm(3, 0.5, 0.25, 1.0)
        else:
            block = Shuffle() if kind == "shuffle" else ReadInHalves(channels)
        if isinstance(block, nn.Conv2d | ReadInHalves):
            channels = CHANNELS
        elif isinstance(block, Branches):
            channels = CHANNELS * (1 + (block.how == "cat"))
        in_place = draw(st.booleans()) and not isinstance(block, Shuffle)  # on a view, export adds nodes of its own
        modules += [block, nn.ReLU(in_place)]
    return nn.Sequential(*modules)


def randomised(module: nn.Module, seed: int, positive: bool = False) -> nn.Module:
    """Double-precision random weights, all above zero if asked, so that nothing cancels or is rectified away."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.double().parameters():
        values = torch.rand(parameter.shape, generator=generator, dtype=torch.float64)
        parameter.data = values + 0.1 if positive else (values - 0.4) * 2
    return module
