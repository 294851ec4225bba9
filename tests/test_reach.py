"""deconv/network/reach.py: fields where geometry alone does not say, against the support of autograd's derivative."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor, nn

from deconv.errors import UnsupportedOperation
from deconv.network import Network
from tests.kinds import unpooled
from tests.oracle import project_by_autograd, relative_error
from tests.peaks import project_at, random_positions
from tests.random_networks import SETTINGS
from tests.user_networks import Forward, conv, stack

SIZE = (24, 20)
Spans = tuple[Tensor, Tensor]


def support(module: nn.Module, size: tuple[int, int], trials: int = 3) -> tuple[Tensor, Tensor]:
    """(rows, cols, 2) the first and the last pixel, along each axis, at which the derivative is not zero."""
    generator = torch.Generator().manual_seed(3)
    first = last = torch.zeros(0)
    for trial in range(trials):
        images = torch.randn(1, 3, *size, generator=generator, dtype=torch.float64).requires_grad_()
        maps = module(images * 1)
        if not trial:
            first = torch.full((*maps.shape[2:], 2), 10**6)
            last = torch.full((*maps.shape[2:], 2), -1)
        weights = torch.randn(maps.shape[1], generator=generator, dtype=torch.float64)
        summed = torch.einsum("nchw,c->hw", maps, weights)
        for row in range(maps.shape[2]):
            for col in range(maps.shape[3]):
                (derived,) = torch.autograd.grad(summed[row, col], images, retain_graph=True, materialize_grads=True)
                strength = derived[0].abs().amax(0)
                pixels = (strength > 1e-12 * strength.max()).nonzero()
                if len(pixels):
                    first[row, col] = torch.minimum(first[row, col], pixels.amin(0))
                    last[row, col] = torch.maximum(last[row, col], pixels.amax(0))
    return first, last


def check(module: nn.Module, size: tuple[int, int] = SIZE, exact: bool = True, wraps: bool = False) -> Network:
    """No position in the middle sees more than its box; exact: and it sees all of it, or others of its map do.

    wraps: whether what leaves the map comes in again on the other side, so far that the middle may see it.
    """
    torch.manual_seed(0)
    module = module.double().eval()
    network = Network(module, (3, *size))
    layer = network.layers[-1]
    field = network.receptive_field(layer)
    first, last = support(module, size)
    rows, cols = first.shape[:2]
    seen = torch.zeros(2, dtype=torch.int64)
    inside = torch.zeros(2, dtype=torch.bool)
    for row in range(rows):
        for col in range(cols):
            y0, x0, y1, x1 = field.box(row, col)
            if not field.holds(torch.tensor([[row, col]])):
                middle = (rows // 4 <= row < rows - rows // 4) and (cols // 4 <= col < cols - cols // 4)
                assert wraps or not middle, (row, col)
                continue
            for axis, (low, high, length) in enumerate([(y0, y1, size[0]), (x0, x1, size[1])]):
                if last[row, col, axis] < 0:
                    continue
                assert max(low, 0) <= first[row, col, axis] and last[row, col, axis] < min(high, length), (row, col)
                if low >= 0 and high <= length:
                    inside[axis] = True
                    seen[axis] = max(seen[axis], last[row, col, axis] + 1 - first[row, col, axis])
    for axis in (0, 1):
        assert not exact or not inside[axis] or seen[axis] == field.size[axis]
    return network


def after(middle: Callable[[Tensor], Tensor], channels: int = 4, **options: Any) -> nn.Module:
    """A convolution, the middle, and another convolution."""
    return Forward(lambda m, x: m.two(middle(m.one(x))), one=conv(3, padding=1, **options), two=conv(channels))


def focus(x: Tensor) -> Tensor:
    return torch.cat([x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2]], 1)


def shortcut(m: Any, x: Tensor) -> Tensor:
    """As a CIFAR ResNet's: every second position, and channels of zeros."""
    return m.one(x) + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 0, 1))


def gated(m: Any, x: Tensor) -> Tensor:
    maps = m.one(x)
    return maps * m.two(maps.mean((2, 3), keepdim=True)).sigmoid().detach()


FIELDS: dict[str, tuple[Callable[[], nn.Module], tuple[int, int], tuple[int, int]]] = {
    "reflected": (lambda: nn.Sequential(conv(3, padding=1, padding_mode="reflect"), nn.ReLU()), (3, 3), (1, 1)),
    "replicated": (
        lambda: nn.Sequential(conv(3, padding=1, padding_mode="replicate"), nn.MaxPool2d(2)), (4, 4), (2, 2)
    ),
    "circular": (lambda: nn.Sequential(conv(3, padding=1, padding_mode="circular"), nn.ReLU(), conv()), (5, 5), (1, 1)),
    "reflected unevenly": (lambda: nn.Sequential(nn.ReflectionPad2d((3, 0, 1, 2)), conv(3)), (3, 3), (1, 1)),
    "every second": (lambda: after(lambda x: x[:, :, ::2, ::2]), (7, 7), (2, 2)),
    "every second and third": (lambda: after(lambda x: x[:, :, 1::2, 1::3]), (7, 9), (2, 3)),
    "a shortcut": (lambda: Forward(shortcut, one=conv(3, stride=2, padding=1)), (3, 3), (2, 2)),
    "focus": (lambda: Forward(lambda m, x: m.one(focus(x)), one=conv(12)), (6, 6), (2, 2)),
    "a crop": (lambda: after(lambda x: x[:, :, 3:-2, 2:]), (5, 5), (1, 1)),
    "nearest": (lambda: after(lambda x: F.interpolate(x, scale_factor=2), stride=2), (5, 5), (1, 1)),
    "bilinear": (lambda: after(lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"), stride=2), (7, 7), (1, 1)),
    "bicubic to half": (lambda: after(lambda x: F.interpolate(x, scale_factor=0.5, mode="bicubic")), (10, 10), (2, 2)),
    "pixel_shuffle": (lambda: after(lambda x: F.pixel_shuffle(x, 2), 1, stride=2), (5, 5), (1, 1)),
    "pixel_unshuffle": (lambda: after(lambda x: F.pixel_unshuffle(x, 2), 16), (8, 8), (2, 2)),
    "roll": (lambda: after(lambda x: x.roll((2, 1), (2, 3))), (5, 5), (1, 1)),
    "flip": (lambda: after(lambda x: x.flip(3)), (5, 5), (1, -1)),
    "unfold": (lambda: after(lambda x: F.unfold(x, 3, padding=1).view(x.size(0), 36, *SIZE), 36), (7, 7), (1, 1)),
    "the larger of two maps": (
        lambda: Forward(
            lambda m, x: torch.maximum(m.one(x), m.two(x)), one=conv(3, padding=1), two=conv(3, kernel=5, padding=2)
        ),
        (5, 5), (1, 1),
    ),
    "a transposed convolution": (
        lambda: nn.Sequential(conv(3, stride=2, padding=1), nn.ConvTranspose2d(4, 4, 4, 2, 1)), (5, 5), (1, 1)
    ),
    "a window written": (lambda: after(lambda x: x.index_add(1, torch.tensor([0]), x[:, 1:2])), (5, 5), (1, 1)),
    "a detached gate": (lambda: Forward(gated, one=conv(3, padding=1), two=conv(kernel=1)), (3, 3), (1, 1)),
    "a gate": (lambda: Forward(lambda m, x: gated_by(m, x), one=conv(3, padding=1), two=conv(kernel=1)), SIZE, (0, 0)),
    "group norm": (lambda: nn.Sequential(conv(3), nn.GroupNorm(2, 4), nn.ReLU()), SIZE, (0, 0)),
    "layer norm of channels": (lambda: after(lambda x: F.normalize(x, dim=1)), (5, 5), (1, 1)),
}  # fmt: skip


def gated_by(m: Any, x: Tensor) -> Tensor:
    maps = m.one(x)
    return maps * m.two(maps.mean((2, 3)).view(x.size(0), 4, 1, 1)).sigmoid()


@pytest.mark.parametrize(("make", "size", "stride"), FIELDS.values(), ids=FIELDS)
def test_fields_are_what_autograd_sees(make: Any, size: tuple[int, int], stride: tuple[int, int]) -> None:
    network = check(make())
    field = network.receptive_field(network.layers[-1])
    assert (field.size, field.stride) == (size, stride)


@pytest.mark.parametrize("middle", [unpooled, lambda x: F.adaptive_avg_pool2d(x, 9), lambda x: x.cumsum(2)])
def test_fields_that_vary_along_the_map_hold_what_every_position_sees(middle: Callable[[Tensor], Tensor]) -> None:
    check(after(middle), exact=False)


@pytest.mark.parametrize("name", ["circular", "roll", "reflected", "nearest"])
def test_positions_at_the_border_lose_nothing(name: str) -> None:
    """Where one sees pixels outside its box, the pixels are those of the whole image."""
    module = FIELDS[name][0]().double().eval()
    network = Network(module, (3, *SIZE))
    layer = network.layers[-1]
    images = torch.randn(2, 3, *SIZE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    peaks = random_positions(module(images).detach(), 10)
    recon = project_at(network, images, layer, peaks, rule="gradient")
    _, expected = project_by_autograd(module, images, peaks, "gradient")
    assert relative_error(recon.paste(), expected).max() < 1e-5


MIDDLES: dict[str, tuple[Callable[[Tensor], Tensor], float]] = {
    "reflect": (lambda x: F.pad(x, (1, 2, 0, 1), mode="reflect"), 1),
    "circular": (lambda x: F.pad(x, (1, 1, 2, 0), mode="circular"), 1),
    "step": (lambda x: x[:, :, ::2, 1::2], 0.5),
    "nearest": (lambda x: F.interpolate(x, scale_factor=2), 2),
    "bilinear": (lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"), 2),
    "shuffle": (lambda x: F.pixel_unshuffle(F.pixel_shuffle(x, 2), 2), 1),
    "roll": (lambda x: x.roll(1, 3), 1),
    "maximum": (lambda x: torch.maximum(x, x.roll(1, 1)), 1),
    "crop": (lambda x: x[:, :, 1:, :-2], 1),
    "pool": (lambda x: F.avg_pool2d(x, 3, 2, 1), 0.5),
}


@SETTINGS
@given(names=st.lists(st.sampled_from(sorted(MIDDLES)), min_size=1, max_size=3), stride=st.integers(1, 2))
def test_fields_of_random_networks_hold_what_autograd_sees(names: list[str], stride: int) -> None:
    """Several of them after each other, a convolution after each."""
    growth = 1.0
    for name in names:
        growth *= MIDDLES[name][1]
    assume(growth <= 2)
    steps: dict[str, nn.Module] = {f"c{n}": conv(3 if not n else 4, padding=1) for n in range(len(names) + 1)}
    steps["c0"] = conv(3, stride=stride, padding=1)

    def forward(m: Any, x: Tensor) -> Tensor:
        x = m.c0(x)
        for n, name in enumerate(names, 1):
            x = getattr(m, f"c{n}")(MIDDLES[name][0](x))
        return x

    try:
        check(Forward(forward, **steps), (18, 16), exact=False, wraps={"circular", "roll"} & {*names} != set())
    except UnsupportedOperation:
        assume(False)  # the map became smaller than its padding


def test_a_stack_of_known_operations_is_not_measured() -> None:
    network = Network(stack(nn.MaxPool2d(2)).eval(), (3, 40, 40))
    assert network.receptive_field(network.layers[-1]).size == (8, 8) and not network.graph.measured
