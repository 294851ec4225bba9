"""Slow versions of what deconv computes, written as the paper says it, one peak at a time and without cleverness."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Peak = tuple[float, int, int, int]
"""(score, image, row, col)."""


def unpool_adding(signal: Tensor, switches: Tensor, size: torch.Size) -> Tensor:
    """Put each value (1, C, h, w) where its switch says in a map of `size`; values at one position add."""
    unpooled = signal.new_zeros(size).flatten(2)
    for channel in range(signal.shape[1]):
        for value, position in zip(signal[0, channel].flatten(), switches[0, channel].flatten(), strict=True):
            unpooled[0, channel, position] += value
    return unpooled.view(size)


def unpool_overwriting(signal: Tensor, switches: Tensor, size: torch.Size) -> Tensor:
    """The same by torch's own unpooling (that of nn.MaxUnpool2d), where one of the values at a position wins."""
    return torch.ops.aten.max_unpool2d(signal, switches, size[2:])


def deconvnet(trunk: nn.Sequential, image: Tensor, peak: tuple[int, int, int], overwrite: bool = False) -> Tensor:
    """Section 2.1 of the paper: the pixels (C, H, W) of the activation at (channel, row, col) of the trunk's output."""
    return deconvnet_signals(trunk, image, peak, overwrite)[1][0]


def deconvnet_signals(
    trunk: nn.Sequential, image: Tensor, peak: tuple[int, int, int], overwrite: bool = False
) -> tuple[list[Tensor], list[Tensor]]:
    """The maps (C, H, W) on the way up, the image first, and the signals that come back to each of them."""
    maps, sizes, switches = [image[None]], [], {}
    for step, module in enumerate(trunk):
        sizes.append(maps[-1].shape)
        if isinstance(module, nn.MaxPool2d):
            pooled, switches[step] = F.max_pool2d(
                maps[-1], module.kernel_size, module.stride, module.padding, module.dilation, module.ceil_mode, True
            )
            maps.append(pooled)
        else:
            maps.append(module(maps[-1].clone()))
    signal = torch.zeros_like(maps[-1])
    signal[(0, *peak)] = maps[-1][(0, *peak)]
    signals = [signal]
    for step in reversed(range(len(trunk))):
        if step in switches:
            unpool = unpool_overwriting if overwrite else unpool_adding
            signal = unpool(signal, switches[step], sizes[step])
        else:
            signal = _step_down(trunk[step], signal, sizes[step])
        signals.insert(0, signal)
    return [each[0] for each in maps], [each[0] for each in signals]


def parts(maps: Tensor, signal: Tensor, score: float) -> list[tuple[float, tuple[int, int]]]:
    """For each unit of maps (C, H, W): its share of an activation, and where it gives most of it; -1 for no share."""
    shares = []
    for unit in range(len(maps)):
        products = {
            (row, col): float(signal[unit, row, col]) * float(maps[unit, row, col]) / score if score else 0.0
            for row in range(maps.shape[1])
            for col in range(maps.shape[2])
        }
        share = sum(products.values())
        strongest = max if share > 0 else min
        shares.append((share, strongest(products, key=lambda place: products[place]) if share else (-1, -1)))
    return shares


def _step_down(module: nn.Module, signal: Tensor, size: torch.Size) -> Tensor:
    if isinstance(module, nn.ReLU):
        return F.relu(signal)
    if isinstance(module, nn.LocalResponseNorm | nn.Dropout):
        return signal  # the paper leaves contrast normalisation out on the way down
    if isinstance(module, nn.BatchNorm2d):
        assert module.running_var is not None
        scale = module.weight / torch.sqrt(module.running_var + module.eps)
        return signal * scale[None, :, None, None]
    assert isinstance(module, nn.Conv2d), f"the reference knows no {type(module).__name__}"
    return _filter_transposed(module, signal, size)


def _filter_transposed(module: nn.Conv2d, signal: Tensor, size: torch.Size) -> Tensor:
    """Transposed filters, no bias; rows and columns that no filter reached in the end are zero."""
    assert isinstance(module.padding, tuple)
    pixels = F.conv_transpose2d(signal, module.weight, None, module.stride, 0, 0, module.groups, module.dilation)
    top, left = module.padding
    pixels = pixels[:, :, top : top + size[2], left : left + size[3]]
    return F.pad(pixels, (0, size[3] - pixels.shape[3], 0, size[2] - pixels.shape[2]))


def strongest_apart(
    maps: Tensor, k: int, per_image: int, stride: tuple[int, int], size: tuple[int, int]
) -> list[list[Peak]]:
    """For each unit of maps (M, C, H, W), by sorting everything, the k best positive peaks.

    Up to per_image of one image, taken greedily; their boxes overlap by at most half of their area.
    """
    ranked = []
    for channel in range(maps.shape[1]):
        kept: list[Peak] = []
        for position in _sorted_positions(maps[:, channel]):
            of_image = [peak for peak in kept if peak[1] == position[1]]
            if len(of_image) < per_image and all(not _mostly_same(position, peak, stride, size) for peak in of_image):
                kept.append(position)
        ranked.append(kept[:k])
    return ranked


def _sorted_positions(maps: Tensor) -> list[Peak]:
    """All positions of (M, H, W) that fire, by (-score, image, row, col)."""
    positions = [(-float(maps[tuple(position)]), *position.tolist()) for position in (maps > 0).nonzero()]
    return [(-score, image, row, col) for score, image, row, col in sorted(positions)]


def _mostly_same(a: Peak, b: Peak, stride: tuple[int, int], size: tuple[int, int]) -> bool:
    rows = max(0, size[0] - abs(a[2] - b[2]) * stride[0])
    cols = max(0, size[1] - abs(a[3] - b[3]) * stride[1])
    return 2 * rows * cols > size[0] * size[1]
