"""The effective field: how far from its centre a layer's reconstructions have their energy."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor

ENERGY_SHARE = 0.95
"""Share of the energy that an effective field holds; energy is the sum of squares over channels."""
ENERGIES_AT_ONCE = 2**24
"""Pixels whose energies are in memory at a time."""


def effective_side(pixels: Float[Tensor, "n C h w"], box: Int64[Tensor, "n 4"], field: Int64[Tensor, "n 4"]) -> int:
    """Return the side of the square about the fields' centres that holds ENERGY_SHARE of the pictures' energy.

    pixels lie at `box`, inside or around `field`.  The share is the mean over all pictures that have any energy; where
    none has, the side is the longer one of the field.

    >>> pixels = torch.zeros(1, 1, 5, 5)
    >>> pixels[0, 0, 2, 2], pixels[0, 0, 1, 2] = 3.0, 1.0
    >>> box = torch.tensor([[0, 0, 5, 5]])
    >>> effective_side(pixels, box, box)
    2
    """
    size = field[:, 2:] - field[:, :2]
    most = int(size.max()) if len(field) else max(pixels.shape[2:])
    held, pictures = torch.zeros(most + 1, dtype=torch.float64), 0
    geometry, kind = torch.cat([box[:, :2] - field[:, :2], size], dim=1).unique(dim=0, return_inverse=True)
    for number, (top, left, height, width) in enumerate(geometry.tolist()):
        rows, cols = _sides(top, pixels.shape[2], height), _sides(left, pixels.shape[3], width)
        side = torch.maximum(rows[:, None], cols).clamp_max(most).flatten()
        for batch in (kind == number).nonzero().flatten().split(max(ENERGIES_AT_ONCE // max(len(side), 1), 1)):
            energy = pixels[batch].double().square().sum(dim=1).flatten(1)
            energy = energy[energy.sum(dim=1) > 0]
            pictures += len(energy)
            held.index_add_(0, side, (energy / energy.sum(dim=1, keepdim=True)).sum(dim=0))
    if not pictures:
        return most
    return int((held.cumsum(0) >= ENERGY_SHARE * pictures * (1 - 1e-12)).nonzero()[0])


def _sides(first: int, count: int, length: int) -> Int64[Tensor, " count"]:
    """The side of the smallest square, centred as `zoomed` centres it, that reaches each of `count` pixels of an axis.

    The pixels begin at `first` in a field of that length.
    """
    position = torch.arange(first, first + count)
    return torch.maximum(length - 2 * position - 1, 2 * position + 2 - length).clamp_min(1)
