"""Figure 6 in numbers: the spatial frequencies of layer 1's filters, its dead filters, and aliasing in layer 2.

Frequencies are in cycles per pixel, along a direction of the plane: at most 0.5 along an axis, 0.71 along a diagonal.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from deconv.errors import BadInput
from deconv.records import LayerPeaks

BIN = 0.05
BINS = 15
"""Bins of `spectra`: [0, 0.05), [0.05, 0.1), ... [0.7, 0.75) cycles per pixel."""
PADDED = 64
"""Least pixels a side to which a filter is padded, so that a bin holds several frequencies of the transform."""
FINE = 0.3
"""Cycles per pixel above which a filter looks like noise: its period is hardly more than three pixels."""
WEAK = 0.1
"""Share of the median filter's root mean square below which a filter is weak."""
BESIDE = 3
"""Width, in frequencies of the transform, of a line at the stride's frequency and of what it is measured against."""


def spectra(filters: Tensor) -> Float[Tensor, "N bins"]:
    """Return the energy of filters (N, C, h, w) in each of the BINS of spatial frequency, each channel's mean removed.

    The mean goes because it says which colour a filter likes and nothing about its pattern; the filter is then padded
    with zeros to at least 64 pixels, and channels are added up. Raises BadInput for another shape.
    """
    power, radius = _power(_checked(filters))
    bins = (radius / BIN).long().flatten()
    return power.new_zeros(len(power), BINS).index_add_(1, bins, power.flatten(1))


def fine_share(filters: Tensor) -> float:
    """Return the share of all energy of filters (N, C, h, w) above 0.3 cycles per pixel, means removed.

    White noise has 0.72, filters without energy 0. Strong filters count more than weak ones.
    """
    return share_above(spectra(filters).sum(0))


def share_above(energy: Float[Tensor, " bins"], frequency: float = FINE) -> float:
    """Return the share of energy, as `spectra` gives it, in the bins from `frequency` on."""
    return float(energy[round(frequency / BIN) :].sum() / energy.sum()) if bool(energy.sum() > 0) else 0.0


def white_spectrum() -> Float[Tensor, " bins"]:
    """Return the share of each bin in the spectrum of white noise, which is how many frequencies lie in it."""
    flat = torch.fft.fftfreq(PADDED)
    radius = (flat[:, None].square() + flat[None].square()).sqrt()
    return torch.bincount((radius / BIN).long().flatten(), minlength=BINS) / PADDED**2


def rms(filters: Tensor) -> Float[Tensor, " N"]:
    """Return the root mean square of each filter (N, C, h, w): what the paper's training limits to 0.1."""
    return _checked(filters).square().mean(dim=(1, 2, 3)).sqrt()


def dead(peaks: LayerPeaks) -> Bool[Tensor, " N"]:
    """Return which filters are dead in the strict sense: units that fire on no image of the source.

    Dead for the network: nothing above can ever learn of them. It depends on the source and on the bias as well as on
    the filter, so that a filter can look healthy and be dead.
    """
    return ~peaks.found.any(dim=1)


def weak(filters: Tensor) -> Bool[Tensor, " N"]:
    """Return which filters (N, C, h, w) have a root mean square under a tenth of the median filter's.

    Dead for the eye: on the scale of the others they are grey. They may fire, on a bias or on little, so the two kinds
    are counted apart. The median, not the largest: without the paper's limit one filter may dwarf all the others.
    """
    size = rms(filters)
    return size < WEAK * size.median()


def aliasing(pictures: Tensor, stride: int) -> Float[Tensor, " N"]:
    """Return how far the energy of each picture (N, C, H, W) stands out at the frequencies of a stride, in pixels.

    A layer that looks only every `stride` pixels paints only every `stride` pixels on the way down; what it cannot tell
    apart appears as a lattice, at 1/stride cycles per pixel and its multiples up to 1/2, along rows or columns. The
    stride that the paper blames is layer 1's: a pool puts its values back where the switches say, which blurs its own
    lattice (untrained, at 4 pixels: 0.23 with a stride of 4 in layer 1, 0.06 with 2 in layer 1 and 2 in the pool).

    The value is the share of all energy but the mean's that goes when the spectrum at these frequencies is levelled to
    that of the frequencies on both sides (the geometric mean of the two, since pictures' spectra fall as a power). So
    chance is 0: any spectrum without a peak there gives about 0, a smooth picture's as well as white noise's, whatever
    the stride; a pattern of just these frequencies gives about 1, and a constant picture 0. Slightly negative values
    are chance too. Filters tuned to just these frequencies count as well, whatever the stride. A Hann window keeps the
    borders out.

    Raises BadInput for a stride below 2 and for pictures under 6 strides wide, whose frequencies are too few.
    """
    side = min(_checked(pictures).shape[2:]) // (2 * stride) * 2 * stride if stride > 0 else 0
    if stride < 2 or side < 6 * stride:
        raise BadInput(
            f"aliasing: given stride {stride} and pictures of {tuple(pictures.shape[2:])} pixels; "
            "expected a stride of 2 or more and pictures at least six strides wide"
        )
    power = _windowed_power(pictures, side)
    level = _levelled(_levelled(power, stride).mT, stride).mT
    total = power.sum(dim=(1, 2))
    share = (total - level.sum(dim=(1, 2))) / total
    return share.where(total > 0, 0.0)


def _windowed_power(pictures: Tensor, side: int) -> Tensor:
    """(N, side, side): energy by frequency of the middle of each picture, channels added up, none at frequency 0."""
    top, left = ((size - side) // 2 for size in pictures.shape[2:])
    middle = pictures[:, :, top : top + side, left : left + side].double()
    along = torch.hann_window(side, dtype=torch.float64)
    window = along[:, None] * along[None]
    mean = (middle * window).sum(dim=(2, 3), keepdim=True) / window.sum()
    power = torch.fft.fft2((middle - mean) * window).abs().square().sum(dim=1)
    tiny = 1e-20 * middle.square().sum(dim=(1, 2, 3)) * side**2  # what rounding leaves of a constant picture
    return power.where(power > tiny[:, None, None], 0.0)


def _levelled(power: Tensor, stride: int) -> Tensor:
    """Power (N, n, m) with its rows at the multiples of 1/stride replaced by the geometric mean of those beside."""
    size, half = power.shape[1], BESIDE // 2
    level = power.clone()
    for centre in range(size // stride, size, size // stride):
        low, high = (
            power[:, [(centre + sign * step) % size for step in range(half + 1, half + 1 + BESIDE)]].mean(dim=1)
            for sign in (-1, 1)
        )
        level[:, centre - half : centre + half + 1] = (low * high).sqrt()[:, None]
    return level


def _power(filters: Tensor) -> tuple[Tensor, Tensor]:
    """Energy (N, F, F) by frequency, channels added up, and each frequency's distance (F, F) from 0."""
    side = max(PADDED, *filters.shape[2:])
    centred = filters - filters.mean(dim=(2, 3), keepdim=True)
    power = torch.fft.fft2(centred, s=(side, side)).abs().square().sum(dim=1)
    along = torch.fft.fftfreq(side)
    return power, (along[:, None].square() + along[None].square()).sqrt()


def _checked(pictures: Tensor) -> Tensor:
    if pictures.dim() != 4 or 0 in pictures.shape:
        raise BadInput(f"filters: given shape {tuple(pictures.shape)}; expected (filters, channels, height, width).")
    return pictures.float()
